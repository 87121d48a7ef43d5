"""The configuration: one flat dataclass, its presets, its command line and the folders of a run.

Flags, field names and JSON keys are the same words; dashes and underscores are alike on the command line. Nothing
heavy is imported here, so ``--help`` is quick.
"""

import argparse
import dataclasses
import json
import re
from dataclasses import dataclass, field
from pathlib import Path

from cvae_tf.errors import InputError
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

    preset: str = _flag("demo", "run", "named settings that the other flags override")
    run_dir: str = _flag("", "run", "folder of the run; an existing run is continued [runs/PRESET-N]")
    export_dir: str = _flag("", "run", "folder of the exported SavedModel [saved_models/NAME-OF-RUN]")
    init_from: str = _flag("", "run", "folder of an exported model to begin with its weights, such as "
                           "saved_models/studio")
    num_epoch: int = _flag(16, "run", "number of epochs", low=1, high=10_000)
    steps_per_epoch: int = _flag(0, "run", "batches in an epoch; 0: as many clips as fit the data once", low=0,
                                 high=100_000)
    val_every: int = _flag(4, "run", "validate after every so many epochs, and after the last", low=1)
    max_minutes: float = _flag(0.0, "run", "end cleanly after this time, in minutes; 0: no limit", low=0)
    checkpoint_minutes: float = _flag(5.0, "run", "save within an epoch after so many minutes", low=0)
    deterministic: bool = _flag(False, "run", "equal results on a GPU too, where it is slower; a CPU always gives them")
    precision: str = _flag("float32", "run", "mixed: most arithmetic in 16 bits, faster on a GPU with units for it; "
                           "far slower on a CPU", choices=("float32", "mixed_float16", "mixed_bfloat16"))
    xla: bool = _flag(False, "run", "compile the training step for the GPU: a slower start; slower on a CPU")
    seed: int = _flag(0, "run", "of initial weights, order of clips, noise and the studio", low=0, high=2**31 - 1)

    data_dir: str = _flag(STUDIO, "data", "folder in the lab's layout, or 'studio' for the built-in data set")
    frame_H: int = _flag(32, "data", "frame height in pixels", low=8, high=1024)
    frame_W: int = _flag(64, "data", "frame width in pixels", low=8, high=1024)
    train_vi_len: int = _flag(16, "data", "frames in a training clip", low=2, high=10_000)
    val_vi_len: int = _flag(630, "data", "frames of the validation clip", low=2)
    clips: str = _flag("random", "data", "training clips start anywhere, or tile the data in the lab's fixed order",
                       choices=("random", "tiled"))
    context: str = _flag("sequence", "data", "context frame in training: from anywhere in the clip's own sequence, "
                         "or the clip's first frame", choices=("sequence", "clip"))
    mirror: bool = _flag(False, "data", "mirror half of the training clips, at random, with the colours of left and "
                         "right limbs exchanged; for poses in the lab's or the studio's colours")
    partial: float = _flag(1.0, "data", "share of the training frames to use, the first ones", low=0, high=1)
    fast_train: bool = _flag(False, "data", "use only a share of the training frames in the first epochs")
    fast_partial: float = _flag(0.4, "data", "that share", low=0, high=1)
    fast_train_epoch: int = _flag(5, "data", "number of those epochs", low=0)
    max_frames: int = _flag(0, "data", "read at most so many frames of each of train and val; 0: all", low=0)

    studio_sequences: int = _flag(4, "data", "training sequences of the studio, 630 frames each", low=1, high=1000)
    studio_seed: int = _flag(0, "data", "seed of the studio's footage", low=0, high=2**31 - 1)
    studio_variety: bool = _flag(False, "data", "studio: other clothes and lighting in each sequence")
    studio_lamp: bool = _flag(False, "data", "studio: a lamp in the hand colours the shirt, as no pose tells")

    network: str = _flag("unet", "network", "the efficient multi-scale network, or the lab's", choices=("unet", "lab"))
    width: int = _flag(24, "network", "unet: channels at half resolution", low=4, high=512)
    F_dim: int = _flag(128, "network", "lab: frame features", low=1, high=4096)
    L_dim: int = _flag(32, "network", "lab: pose (label) features", low=1, high=4096)
    N_dim: int = _flag(12, "network", "channels of the latent, a map (lab) or one vector (unet)", low=1, high=4096)
    D_out_dim: int = _flag(192, "network", "lab: features after decoder fusion", low=2, high=4096)
    prior: str = _flag("standard", "network", "of the latent: N(0, I), or (unet) learned from the frame before and the "
                       "pose", choices=("standard", "learned"))
    batch_norm: str = _flag("inference", "network", "lab: outside training, normalise poses by the running statistics, "
                            "or by the batch as in training", choices=("inference", "train"))

    kl_anneal_type: str = _flag("WithoutKL", "objective", "schedule of the KL weight beta", choices=KL_ANNEAL_TYPES)
    kl_anneal_cycle: int = _flag(7, "objective", "cycles of Cyclical over all epochs", low=1, high=10_000)
    kl_anneal_ratio: float = _flag(1e-3, "objective", "beta at the top of a cycle; all the time with WithoutKL", low=0)
    kl_anneal_start: int = _flag(0, "objective", "epochs before the schedule of beta begins, in which it is 0", low=0)
    narrow_posterior: bool = _flag(False, "objective", "unet: the posterior begins narrow, so that z says something "
                                   "from the first step; beta should begin at 0 then")
    gdl: float = _flag(2.0, "objective", "weight of the squared error of the differences between neighbouring pixels",
                       low=0)
    tfr: float = _flag(0.0, "objective", "teacher-forcing ratio at first: 1 feeds true frames, 0 runs freely",
                       low=0, high=1)
    tfr_sde: int = _flag(10, "objective", "first epoch (from 0) with a lower teacher-forcing ratio", low=0)
    tfr_d_step: float = _flag(0.1, "objective", "teacher-forcing ratio lost per epoch from then on", low=0, high=1)
    tfr_draw: str = _flag("batch", "objective", "what one teacher-forcing coin decides: a batch (the report), "
                          "an epoch (the lab) or each frame (scheduled sampling)", choices=("batch", "epoch", "frame"))
    gradient_through_time: bool = _flag(False, "objective", "keep the gradient through fed-back frames")
    instants_at_once: int = _flag(0, "objective", "instants of a clip that run as one batch: the same gradient, more "
                                  "memory; 0: 16, and 1 for the lab's network on a CPU", low=0, high=100_000)

    batch_size: int = _flag(4, "optimiser", "clips in a batch", low=1, high=65_536)
    optim: str = _flag("AdamW", "optimiser", "optimiser", choices=("Adam", "AdamW"))
    lr: float = _flag(2e-3, "optimiser", "learning rate at its highest")
    lr_schedule: str = _flag("cosine", "optimiser", "constant; milestones: divided by 10 from epoch 2 and by 100 from "
                             "epoch 5, as in the lab; cosine: a short climb, then down to 1%",
                             choices=("constant", "milestones", "cosine"))
    weight_decay: float = _flag(1e-4, "optimiser", "of AdamW, per unit of learning rate", low=0)
    clip_norm: float = _flag(0.05, "optimiser", "global gradient norm above which gradients are scaled down")

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

    def to_json(self):
        """The configuration as indented JSON text."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"


def _check(spec, value):
    rules = spec.metadata
    fits = (int, float) if spec.type is float else spec.type
    if not isinstance(value, fits) or (isinstance(value, bool) and spec.type is not bool):
        raise InputError(f"--{spec.name} must be of type {spec.type.__name__}, received {value!r}")
    if spec.type is float and not abs(value) <= FLOAT32_MAX:
        raise InputError(f"--{spec.name} must be a number that a float32 can hold, received {value}")
    if rules["choices"] and value not in rules["choices"]:
        raise InputError(f"--{spec.name} must be one of {', '.join(rules['choices'])}, received '{value}'")
    if rules["low"] is not None and value < rules["low"]:
        raise InputError(f"--{spec.name} must be at least {rules['low']}, received {value}")
    if rules["high"] is not None and value > rules["high"]:
        raise InputError(f"--{spec.name} must be at most {rules['high']}, received {value}")


PRESETS = {
    # The studio in minutes on a CPU.
    "demo": {},
    # Every step of the program in seconds; the numbers mean nothing.
    "debug": dict(num_epoch=2, steps_per_epoch=4, val_every=1, val_vi_len=32, max_frames=96, width=8, batch_size=2,
                  train_vi_len=8, N_dim=4, kl_anneal_type="Cyclical", kl_anneal_cycle=1, kl_anneal_ratio=1.0),
    # The report's final setting on the lab's template: its network, schedules, data order and optimiser.
    "lab": dict(num_epoch=70, val_every=1, clips="tiled", context="clip", network="lab",
                kl_anneal_type="Cyclical", kl_anneal_cycle=7, kl_anneal_ratio=1.0, gdl=0.0, tfr=1.0,
                batch_size=2, optim="Adam", lr=1e-3, lr_schedule="milestones", weight_decay=0.0, clip_norm=1.0),
    # One run of the report's study, small: its schedules over its 70 epochs, on few steps each.
    "study": dict(num_epoch=70, steps_per_epoch=6, val_every=14, width=16, kl_anneal_type="Cyclical",
                  kl_anneal_ratio=1.0, gdl=0.0, tfr=1.0, lr=1e-3, clip_norm=1.0),
    # What works best on the lab's data.
    "best": dict(num_epoch=70, val_every=10, width=32, mirror=True),
    # Where the pose does not tell everything: a latent that is used. Validated once, since one sample scores lower, the
    # more it dares: the best of several validations would be an early model that paints the mean of what may be. Few
    # latent dimensions, since the prior draws each by itself: of what is spread over many, it draws the middle.
    "stochastic": dict(num_epoch=32, steps_per_epoch=140, val_every=32, train_vi_len=8, studio_sequences=128,
                       studio_lamp=True, width=16, N_dim=3, prior="learned", kl_anneal_type="Monotonic",
                       kl_anneal_start=12, narrow_posterior=True, batch_size=8, lr=3e-3),
}


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise InputError(f"{message}; see {self.prog} --help")


def parser_for(program, description):
    """An argument parser whose errors are `InputError`: one line, without the usage text."""
    return _Parser(prog=program, description=description, allow_abbrev=False,
                   formatter_class=argparse.ArgumentDefaultsHelpFormatter)


def normalise_flags(argv):
    """Let dashes in flag names stand for underscores: ``--data-dir=x`` -> ``--data_dir=x``."""
    return [re.sub(r"^--[^=]+", lambda flag: "--" + flag[0][2:].replace("-", "_"), word) for word in argv]


def parse_train_args(argv):
    """Read the command line of ``train.py``.

    Returns:
        ``(config, dry_run, fresh)``: the flags over their preset over the defaults; whether only to show them; and
        whether to start over. Without ``--preset`` and ``--fresh``, the configuration of an existing ``--run_dir``
        takes the preset's place.

    Raises:
        InputError: an unknown flag, preset or choice, or a value out of range.
    """
    parser = parser_for("train.py", "Train the conditional VAE; without flags, on the built-in studio data set.")
    parser.add_argument("--dry_run", action="store_true", help="print the resolved configuration as JSON and stop")
    parser.add_argument("--fresh", action="store_true", help="keep an existing run under another name and start over")
    groups = {}
    for spec in dataclasses.fields(Config):
        name = spec.metadata["group"]
        if name not in groups:
            groups[name] = parser.add_argument_group(name)
        _add_flag(groups[name], spec)
    args = vars(parser.parse_args(normalise_flags(argv)))
    dry_run, fresh = args.pop("dry_run"), args.pop("fresh")
    if fresh and not args.get("run_dir"):
        raise InputError("--fresh needs the --run_dir to start over")
    if args.get("preset", "demo") not in PRESETS:
        raise InputError(f"--preset must be one of {', '.join(PRESETS)}, received '{args['preset']}'")
    existing = Path(args.get("run_dir", "")) / "config.json"
    if "preset" not in args and args.get("run_dir") and not fresh and existing.exists():
        try:
            base = dataclasses.asdict(load_config(existing))
        except InputError as error:
            raise InputError(f"{error}; put it back, or start over with --fresh") from error
        del base["max_minutes"]  # was for that session
    else:
        base = PRESETS[args.get("preset", "demo")]
    return Config(**{**base, **args}), dry_run, fresh


def _add_flag(group, spec):
    # Flags that are not given stay out of the result (SUPPRESS), so that the preset decides them; the help shows
    # the default all the same.
    text = f"{spec.metadata['help']} (default: {spec.default})".replace("%", "%%")
    if "[" in spec.metadata["help"]:
        text = spec.metadata["help"]
    if spec.type is bool:
        group.add_argument(f"--{spec.name}", action="store_true", default=argparse.SUPPRESS, help=text)
        group.add_argument(f"--no_{spec.name}", action="store_false", dest=spec.name, default=argparse.SUPPRESS,
                           help="the contrary")
    else:
        choices = tuple(PRESETS) if spec.name == "preset" else spec.metadata["choices"]
        metavar = "{" + ",".join(choices) + "}" if choices else spec.type.__name__.upper()
        group.add_argument(f"--{spec.name}", type=spec.type, default=argparse.SUPPRESS, metavar=metavar, help=text)


def load_config(path):
    """Read a ``config.json``.

    Raises:
        InputError: the file is missing, is not JSON, or holds an unknown or misfitting value.
    """
    try:
        values = json.loads(Path(path).read_text())
        return Config(**values)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); is this the folder of a run?") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{path}: not a configuration of this program ({error})") from error


def studio_of(model):
    """The studio that the exported model in folder ``model`` knows, as flags: seed, variety and lamp, by name.

    Without a ``config.json`` beside the model it is the plain one.

    Raises:
        InputError: the ``config.json`` is not one of this program.
    """
    path = Path(model) / "config.json"
    config = load_config(path) if path.is_file() else Config()
    return {name: getattr(config, name) for name in ("studio_seed", "studio_variety", "studio_lamp")}
