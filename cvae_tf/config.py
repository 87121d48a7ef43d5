"""The configuration of a training run: one flat dataclass and its presets.

Command-line flags, field names and JSON keys have the same names. This module imports nothing slow, so ``--help`` is
quick.
"""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path

from cvae_tf.errors import InputError, check_name
from cvae_tf.files import plain
from cvae_tf.model import defaults
from cvae_tf.model.schedules import KL_ANNEAL_TYPES

FLOAT32_MAX = 3.4e38
STUDIO = "studio"  # the value of ``data_dir`` that stands for the built-in synthetic data set


def _flag(default, group, text, *, choices=None, low=None, high=None):
    return field(default=default, metadata={"group": group, "help": text, "choices": choices, "low": low, "high": high})


@dataclass(frozen=True)
class Config:
    """Everything that decides a training run. The defaults are the preset ``demo``.

    Raises:
        InputError: a value is out of its range or not among its choices.
    """

    preset: str = _flag("demo", "run", "named settings, which the other flags override; see above")
    run_dir: str = _flag("", "run", "folder of the run; an existing run is continued [runs/PRESET-N]")
    export_dir: str = _flag("", "run", "folder of the exported model [saved_models/NAME-OF-RUN]")
    init_from: str = _flag("", "run", "exported model whose weights the training begins with [none]")
    num_epoch: int = _flag(16, "run", "number of epochs", low=1, high=10_000)
    steps_per_epoch: int = _flag(0, "run", "batches in an epoch; 0: enough to hold each training frame once", low=0,
                                 high=100_000)
    val_every: int = _flag(4, "run", "epochs between validations; the last epoch always has one", low=1)
    max_minutes: float = _flag(0.0, "run", "time limit of this session in minutes; 0: none", low=0)
    checkpoint_minutes: float = _flag(5.0, "run", "minutes between checkpoints within an epoch", low=0)
    deterministic: bool = _flag(False, "run", "the same bits with any number of CPU cores; slower on a GPU")
    precision: str = _flag("float32", "run", "float32; for a GPU also mixed_float16 or mixed_bfloat16",
                           choices=("float32", "mixed_float16", "mixed_bfloat16"))
    xla: bool = _flag(False, "run", "compile the training step with XLA, for GPUs; a slower start")
    seed: int = _flag(0, "run", "seed of the initial weights, the order of clips and all noise", low=0, high=2**31 - 1)

    data_dir: str = _flag(STUDIO, "data", "data set in the lab's layout; studio: built-in, synthetic")
    frame_H: int = _flag(32, "data", "frame height in pixels; for the unet, 8 must divide it", low=8, high=1024)
    frame_W: int = _flag(64, "data", "frame width in pixels; for the unet, 8 must divide it", low=8, high=1024)
    train_vi_len: int = _flag(16, "data", "frames in a training clip", low=2, high=10_000)
    val_vi_len: int = _flag(630, "data", "frames in the validation clip, at most", low=2)
    clips: str = _flag("random", "data", "position of training clips: random, or tiled in a fixed order",
                       choices=("random", "tiled"))
    context: str = _flag("sequence", "data", "context frame: any of the sequence, or the first of the clip",
                         choices=("sequence", "clip"))
    mirror: bool = _flag(False, "data", "mirror half of the random clips; for the lab's or studio's poses")
    zoom: float = _flag(1.0, "data", "enlarge a quarter of the random clips by up to this factor; 1: none", low=1,
                        high=10)
    partial: float = _flag(1.0, "data", "share of the training frames to use, counted from the first", low=0, high=1)
    fast_train: bool = _flag(False, "data", "fewer training frames in the first epochs")
    fast_partial: float = _flag(0.4, "data", "share of the training frames in the first epochs of --fast_train", low=0,
                                high=1)
    fast_train_epoch: int = _flag(5, "data", "number of first epochs of --fast_train", low=0)
    max_frames: int = _flag(0, "data", "frames to read of each of train and val; 0: all", low=0)

    studio_sequences: int = _flag(4, "data", "studio: number of training sequences of 630 frames", low=1, high=1000)
    studio_seed: int = _flag(0, "data", "studio: seed of the footage", low=0, high=2**31 - 1)
    studio_variety: bool = _flag(False, "data", "studio: other clothes and lighting in each sequence")
    studio_lamp: bool = _flag(False, "data", "studio: a lamp, not in the poses, colours the shirt")

    network: str = _flag("unet", "network", "unet, an efficient multi-scale U-Net, or lab, the lab's network",
                         choices=("unet", "lab"))
    width: int = _flag(defaults.WIDTH, "network", "unet: channels at half resolution", low=4, high=512)
    F_dim: int = _flag(defaults.F_DIM, "network", "lab: channels of frame features", low=1, high=4096)
    L_dim: int = _flag(defaults.L_DIM, "network", "lab: channels of pose (label) features", low=1, high=4096)
    N_dim: int = _flag(defaults.N_DIM, "network", "channels of the latent z: one vector (unet) or a map (lab)", low=1,
                       high=4096)
    D_out_dim: int = _flag(defaults.D_OUT_DIM, "network", "lab: channels after decoder fusion", low=2, high=4096)
    prior: str = _flag("standard", "network", "distribution of z: standard, N(0, I), or learned (unet only)",
                       choices=("standard", "learned"))
    limb_planes: bool = _flag(True, "network", "unet: read coloured drawn poses as one plane for each limb")
    mirror_average: bool = _flag(False, "network", "unet, with --mirror: mean with the mirrored film; twice the time")
    batch_norm: str = _flag("inference", "network", "lab: pose statistics, running (inference) or batch (train)",
                            choices=("inference", "train"))

    kl_anneal_type: str = _flag("WithoutKL", "objective", "schedule of beta, the weight of the KL divergence: "
                                "Cyclical, Monotonic, or WithoutKL, a constant", choices=KL_ANNEAL_TYPES)
    kl_anneal_cycle: int = _flag(7, "objective", "number of cycles of the schedule Cyclical", low=1, high=10_000)
    kl_anneal_ratio: float = _flag(defaults.BETA, "objective", "highest beta, per nat; for WithoutKL, the constant",
                                   low=0)
    kl_anneal_start: int = _flag(0, "objective", "epochs with beta 0 before the schedule begins", low=0)
    narrow_posterior: bool = _flag(False, "objective", "unet: a narrow posterior at first, so that z carries "
                                   "information")
    gdl: float = _flag(defaults.GDL, "objective", "weight of the gradient difference, which sharpens edges", low=0)
    tfr: float = _flag(defaults.TEACHER_FORCING_RATIO, "objective", "first teacher-forcing ratio: 1 feeds true frames, "
                       "0 generated ones", low=0, high=1)
    tfr_sde: int = _flag(10, "objective", "first epoch, from 0, with a lower teacher-forcing ratio", low=0)
    tfr_d_step: float = _flag(0.1, "objective", "fall of the teacher-forcing ratio per epoch", low=0, high=1)
    tfr_draw: str = _flag(defaults.TEACHER_FORCING_DRAW, "objective", "teacher forcing is drawn for each batch, epoch "
                          "(the lab) or frame", choices=("batch", "epoch", "frame"))
    disturbed: float = _flag(defaults.DISTURBED, "objective", "share of training clips that begin with a disturbed "
                             "frame", low=0, high=1)
    gradient_through_time: bool = _flag(False, "objective", "gradient through fed-back frames too, with more memory")
    chunk_length: int = _flag(defaults.CHUNK_LENGTH, "objective", "time steps computed as one batch; 0: the network's "
                              "choice", low=0, high=100_000)

    batch_size: int = _flag(4, "optimiser", "clips in a batch", low=1, high=65_536)
    optim: str = _flag("Muon", "optimiser", "Adam, AdamW, or Muon, which orthogonalises updates of kernels",
                       choices=("Adam", "AdamW", "Muon"))
    lr: float = _flag(defaults.LEARNING_RATE, "optimiser", "highest learning rate")
    lr_schedule: str = _flag("cosine", "optimiser", "cosine (down to 1%), milestones (the lab's) or constant",
                             choices=("constant", "milestones", "cosine"))
    weight_decay: float = _flag(defaults.WEIGHT_DECAY, "optimiser", "weight decay of AdamW and Muon, per unit of "
                                "learning rate", low=0)
    clip_norm: float = _flag(defaults.CLIP_NORM, "optimiser", "norm above which gradients are scaled down")

    def __post_init__(self):
        for spec in dataclasses.fields(self):
            _check(spec, getattr(self, spec.name))
        for name in ("lr", "clip_norm", "partial", "fast_partial"):
            if not getattr(self, name) > 0:
                raise InputError(f"--{name} must be above 0, received {getattr(self, name)}")
        if self.preset not in PRESETS:
            raise InputError(f"--preset must be one of {', '.join(PRESETS)}, received '{self.preset}'")
        if self.network == "lab":
            if self.prior == "learned":
                raise InputError("--prior learned needs --network unet; the lab's network has N(0, I)")
            for name, lowest in (("F_dim", 8), ("L_dim", 2), ("N_dim", 4), ("D_out_dim", 8)):
                if getattr(self, name) < lowest:
                    raise InputError(f"--{name} must be at least {lowest} with --network lab, "
                                     f"received {getattr(self, name)}")
        if self.network == "unet" and (self.frame_H % 8 or self.frame_W % 8):
            raise InputError(f"--network unet needs a frame height and width that 8 divides, received "
                             f"{self.frame_H}x{self.frame_W}; change --frame_H and --frame_W")

    def inputs(self):
        """The paths that a run reads: flag -> path, or None if the flag is not in use."""
        return {"--data_dir": None if self.data_dir == STUDIO else self.data_dir, "--init_from": self.init_from or None}

    def to_json(self):
        """The configuration as indented JSON text."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"


def _check(spec, value):
    rules = spec.metadata
    fits = (int, float) if spec.type is float else spec.type
    if not isinstance(value, fits) or (isinstance(value, bool) and spec.type is not bool):
        raise InputError(f"--{spec.name} must be of type {spec.type.__name__}, received {value!r}")
    if spec.type is str:
        check_name(value, f"--{spec.name}")
    if spec.type is float and not abs(value) <= FLOAT32_MAX:
        raise InputError(f"--{spec.name} must be a number that a float32 can hold, received {value}")
    if rules["choices"] and value not in rules["choices"]:
        raise InputError(f"--{spec.name} must be one of {', '.join(rules['choices'])}, received '{value}'")
    if rules["low"] is not None and value < rules["low"]:
        raise InputError(f"--{spec.name} must be at least {rules['low']}, received {value}")
    if rules["high"] is not None and value > rules["high"]:
        raise InputError(f"--{spec.name} must be at most {rules['high']}, received {value}")


ABOUT_PRESETS = {
    "demo": "the default: the built-in studio, in minutes on a CPU",
    "debug": "every part of the program in seconds; the scores mean nothing",
    "best": "the best known setting for the lab's data",
    "lab": "the lab's network, schedules and optimiser, as in the report's final run",
    "study": "a small run of the report's study: its schedules and epochs, with few steps",
    "stochastic": "for footage that the poses do not determine: the latent z must carry information",
}
PRESETS = {
    "demo": {},
    "debug": dict(num_epoch=2, steps_per_epoch=4, val_every=1, val_vi_len=32, max_frames=96, width=8, batch_size=2,
                  train_vi_len=8, N_dim=4, kl_anneal_type="Cyclical", kl_anneal_cycle=1, kl_anneal_ratio=1.0),
    "lab": dict(num_epoch=70, val_every=1, clips="tiled", context="clip", network="lab",
                kl_anneal_type="Cyclical", kl_anneal_cycle=7, kl_anneal_ratio=1.0, gdl=0.0, tfr=1.0,
                batch_size=2, optim="Adam", lr=1e-3, lr_schedule="milestones", weight_decay=0.0, clip_norm=1.0,
                disturbed=0.0),
    "study": dict(num_epoch=70, steps_per_epoch=6, val_every=14, width=16, kl_anneal_type="Cyclical",
                  kl_anneal_ratio=1.0, gdl=0.0, tfr=1.0, optim="AdamW", lr=1e-3, clip_norm=1.0),
    "best": dict(num_epoch=70, val_every=10, width=32, mirror=True, mirror_average=True, zoom=2.5),
    # There is one validation, at the end: a single varied sample has a lower PSNR than the mean of all possible frames,
    # so the best of several validations would be an early model that predicts this mean. Latent dimensions are few,
    # because the prior samples them independently: if many dimensions encode one choice, samples lie in the middle
    # between its alternatives.
    "stochastic": dict(num_epoch=32, steps_per_epoch=140, val_every=32, train_vi_len=8, studio_sequences=128,
                       studio_lamp=True, width=16, N_dim=3, prior="learned", kl_anneal_type="Monotonic",
                       kl_anneal_start=12, narrow_posterior=True, batch_size=8, optim="AdamW", lr=3e-3,
                       limb_planes=False, disturbed=0.0),  # a colour must be read from the frame before
}


def check_ranges(limits, **values):
    """Refuse numbers outside their limits. The error names the flag.

    Args:
        limits: flag name -> (lowest, highest) allowed value.
        **values: flag name -> number to check.

    Raises:
        InputError: a number is outside its limits.
    """
    for name, (low, high) in limits.items():
        if not low <= values[name] <= high:
            raise InputError(f"--{name} must be from {low} to {high}, received {values[name]}")


def load_config(path):
    """Read a ``config.json``.

    Raises:
        InputError: the file is missing, is not JSON, or holds an unknown setting or an invalid value.
    """
    try:
        values = json.loads(plain(path).read_text(encoding="utf-8"))
        return Config(**values)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); is this the folder of a run?") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{path}: not a configuration of this program ({error})") from error


def studio_of(model):
    """The studio variant that the exported model in folder ``model`` was trained on.

    The result is a dict from flag name to value, for the studio's seed, variety and lamp.

    If the folder has no ``config.json``, the studio with its default settings is returned.

    Raises:
        InputError: the ``config.json`` was not written by this program.
    """
    path = Path(model) / "config.json"
    config = load_config(path) if path.is_file() else Config()
    return {name: getattr(config, name) for name in ("studio_seed", "studio_variety", "studio_lamp")}
