"""Pose-conditioned video prediction with a conditional VAE.

The public names below are loaded on first use, so that ``import cvae_tf`` does not wait for TensorFlow. If Keras is
loaded already, the model classes are loaded at once, so that ``keras.models.load_model`` knows them.
"""

import importlib
import sys

__version__ = "0.4.0"

_HOME = {
    "CVAE": "model.cvae", "UNet": "model.unet", "LabNetwork": "lab.network", "load_footage": "data.footage",
    "cyclical": "model.schedules", "monotonic": "model.schedules", "constant": "model.schedules",
    "linear_decay": "model.schedules", "EpochSchedules": "training.callbacks", "Muon": "training.muon",
    "Config": "config", "train": "training.loop", "ExportedModel": "inference.exported_model",
    "predict": "inference.predict", "evaluate": "evaluation.evaluate", "compare": "experiments.compare",
    "study": "experiments.study", "psnr_per_frame": "evaluation.metrics", "write_gif": "data.film",
    "prepare": "preparation.prepare", "KeyPoints": "pose.keypoints",
}
__all__ = list(_HOME)


def __getattr__(name):
    if name not in _HOME:
        raise AttributeError(f"module 'cvae_tf' has no attribute {name!r}")
    return getattr(importlib.import_module(f"cvae_tf.{_HOME[name]}"), name)


def __dir__():
    return sorted([*globals(), *__all__])


if "keras" in sys.modules:
    from cvae_tf.lab import adam as _adam  # noqa: F401
    from cvae_tf.lab import network as _network  # noqa: F401
    from cvae_tf.model import cvae as _cvae  # noqa: F401
    from cvae_tf.model import unet as _unet  # noqa: F401
    from cvae_tf.training import muon as _muon  # noqa: F401
