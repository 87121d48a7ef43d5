"""Pose-conditioned video prediction with a conditional VAE.

The public names below are loaded on first use, so that ``import cvae_tf`` does not wait for TensorFlow. If Keras is
loaded already, the model classes are loaded at once, so that ``keras.models.load_model`` knows them.
"""

import importlib
import sys
from typing import TYPE_CHECKING

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


if TYPE_CHECKING:  # a type checker reads these; each "as" makes a name public
    from cvae_tf.config import Config as Config
    from cvae_tf.data.film import write_gif as write_gif
    from cvae_tf.data.footage import load_footage as load_footage
    from cvae_tf.evaluation.evaluate import evaluate as evaluate
    from cvae_tf.evaluation.metrics import psnr_per_frame as psnr_per_frame
    from cvae_tf.experiments.compare import compare as compare
    from cvae_tf.experiments.study import study as study
    from cvae_tf.inference.exported_model import ExportedModel as ExportedModel
    from cvae_tf.inference.predict import predict as predict
    from cvae_tf.lab.network import LabNetwork as LabNetwork
    from cvae_tf.model.cvae import CVAE as CVAE
    from cvae_tf.model.schedules import constant as constant
    from cvae_tf.model.schedules import cyclical as cyclical
    from cvae_tf.model.schedules import linear_decay as linear_decay
    from cvae_tf.model.schedules import monotonic as monotonic
    from cvae_tf.model.unet import UNet as UNet
    from cvae_tf.pose.keypoints import KeyPoints as KeyPoints
    from cvae_tf.preparation.prepare import prepare as prepare
    from cvae_tf.training.callbacks import EpochSchedules as EpochSchedules
    from cvae_tf.training.loop import train as train
    from cvae_tf.training.muon import Muon as Muon
else:
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
