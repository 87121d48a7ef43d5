"""Pose-conditioned video prediction with a conditional VAE.

The public names below load on first use, so that ``import cvae_tf`` and the light modules do not pay for TensorFlow.
"""

import importlib

_HOME = {
    "CVAE": "model", "UNet": "unet", "LabNetwork": "lab_network", "Config": "config", "load_footage": "data",
    "Clips": "data", "beta_table": "schedules", "teacher_forcing_ratio": "schedules",
    "psnr_per_frame": "metrics", "save_model": "export", "Generator": "prediction", "write_gif": "video",
    "train": "training", "load_sequences": "sequences", "evaluate_sequence": "evaluate",
}
__all__ = list(_HOME)


def __getattr__(name):
    if name not in _HOME:
        raise AttributeError(f"module 'cvae_tf' has no attribute {name!r}")
    return getattr(importlib.import_module(f"cvae_tf.{_HOME[name]}"), name)
