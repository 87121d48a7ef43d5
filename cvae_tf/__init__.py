"""Pose-conditioned video prediction with a conditional VAE.

The public names below load on first use, so that ``import cvae_tf`` and the light modules do not pay for TensorFlow.
"""

import importlib

_HOME = {
    "CVAE": "model.cvae", "UNet": "model.unet", "LabNetwork": "lab.network", "Config": "config", "load_footage": "data.footage",
    "Clips": "data.footage", "beta_table": "model.schedules", "teacher_forcing_ratio": "model.schedules",
    "psnr_per_frame": "evaluation.metrics", "save_model": "inference.export", "Generator": "inference.predict", "write_gif": "data.film",
    "train": "training.loop", "load_sequences": "data.sequences", "evaluate_sequence": "evaluation.evaluate",
}
__all__ = list(_HOME)


def __getattr__(name):
    if name not in _HOME:
        raise AttributeError(f"module 'cvae_tf' has no attribute {name!r}")
    return getattr(importlib.import_module(f"cvae_tf.{_HOME[name]}"), name)
