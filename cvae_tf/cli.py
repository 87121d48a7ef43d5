"""The command line: ``python -m cvae_tf COMMAND``, or ``cvae-tf COMMAND`` once the package is installed.

Each command parses its flags here and calls one function of the package with keyword arguments. The function is
imported only when it is called, so ``--help``, ``--dry_run`` and a mistyped flag do not wait for TensorFlow.
"""

import argparse
import dataclasses
import itertools
import os
import re
import shutil
import sys
import textwrap
import time
from functools import partial
from pathlib import Path

from cvae_tf import __version__, errors
from cvae_tf.config import ABOUT_PRESETS, PRESETS, STUDIO, Config, load_config
from cvae_tf.errors import InputError

METAVARS = {int: "N", float: "X", str: "FOLDER"}
LEAST_STEPS = 2000  # of a training on a prepared data set, however short: with fewer, limbs stay blurred


def main(argv=None):
    """Run a command line. Bad input ends the process with one line on stderr and exit code 2.

    Args:
        argv: list of words after the program's name; None: the arguments of this process.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow logs errors only
    errors.run(lambda: parse(sys.argv[1:] if argv is None else argv)())


def parse(argv):
    """Read a command line.

    Args:
        argv: list of words: a command and its flags.

    Returns:
        A function without arguments that carries out the command.

    Raises:
        InputError: an unknown command, an unknown or missing flag, or a value of the wrong type.
        SystemExit: after ``--help``.
    """
    if not argv or argv[0] in ("-h", "--help"):
        return partial(print, _overview())
    if argv[0] == "--version":
        return partial(print, __version__)
    command = argv[0].replace("_", "-")
    if command not in COMMANDS:
        raise InputError(f"the command must be one of {', '.join(COMMANDS)}, received '{argv[0]}'")
    _, read = COMMANDS[command]
    return read(argv[1:])


def train_config(argv):
    """Read the flags of the command ``train``.

    Args:
        argv: list of words, without the command.

    Returns:
        ``(config, dry_run, fresh)``: the `Config`, in which flags override the preset and the preset overrides the
        defaults; whether only to print the configuration; and whether to start over. Without ``--preset`` and
        ``--fresh``, an existing ``--run_dir`` is continued: its configuration replaces the preset.

    Raises:
        InputError: an unknown flag, preset or choice, or a value out of range.
    """
    preset = _preset(argv)
    parser = _Parser("train", "\n".join([
        "", "presets, named settings which the other flags override:",
        *(f"  {name:12}{text}" for name, text in ABOUT_PRESETS.items()), "",
        f"In brackets: the value of the preset '{preset}'. --no_NAME turns the switch --NAME off."]))
    parser.switch("dry_run", "print the configuration as JSON and stop")
    parser.switch("fresh", "keep an existing run in --run_dir under another name, and start over")
    shown, groups = Config(**PRESETS[preset] | {"preset": preset}), {}
    for spec in dataclasses.fields(Config):
        name = spec.metadata["group"]
        if name not in groups:
            groups[name] = parser.add_argument_group(name)
        _add_setting(groups[name], spec, getattr(shown, spec.name))
    args = vars(parser.parse_args(argv))
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
            raise InputError(f"{error}; put the file back, or start over with --fresh") from error
        del base["max_minutes"]  # the limit of an earlier session
    else:
        base = PRESETS[args.get("preset", "demo")]
    settings = {**base, **args}
    return Config(**settings | _prepared_settings(settings)), dry_run, fresh


def _preset(argv):
    """The preset that a command line names, if there is one of this name; else the default."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--preset", default="demo", nargs="?")
    name = parser.parse_known_args(list(map(str, argv)))[0].preset
    return name if name in PRESETS else "demo"


def _prepared_settings(settings):
    """What a prepared data set decides: the size of its frames, and, if it is short, the number of steps per epoch.

    Raises:
        InputError: ``settings`` contradict the size, or the record of the data set is damaged.
    """
    from cvae_tf.data.record import read_record

    record = read_record(settings.get("data_dir", STUDIO))
    if not record:
        return {}
    found = dict(zip(("frame_H", "frame_W"), record["frame_size"], strict=True))
    for name, value in found.items():
        if settings.get(name, value) != value:
            raise InputError(f"--{name} {settings[name]}: the frames of {settings['data_dir']} were prepared with "
                             f"{value} pixels; leave this flag out, or prepare with another --height")
    full, epochs = Config(**settings | found), settings.get("num_epoch", Config.num_epoch)
    natural = record["frames"]["train"] // (full.train_vi_len * full.batch_size)
    if full.steps_per_epoch == 0 and natural * epochs < LEAST_STEPS:
        found["steps_per_epoch"] = -(-LEAST_STEPS // epochs)
    return found


class _Parser(argparse.ArgumentParser):
    """A parser for the flags of a command. It raises each error as an `InputError`: one line without the usage text."""

    def __init__(self, command, more=""):
        summary, _ = COMMANDS[command]
        self.columns = min(100, shutil.get_terminal_size((100, 24)).columns)
        super().__init__(
            prog=errors.program(command), allow_abbrev=False,
            description=self._wrapped(f"{summary[0].upper()}{summary[1:]}.\n{more}"),
            formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=28,
                                                                              width=self.columns))

    def _wrapped(self, text):
        lines = [textwrap.wrap(line, self.columns, subsequent_indent=14 * " " if line.startswith(" ") else "") or [""]
                 for line in text.strip().splitlines()]
        return "\n".join(itertools.chain(*lines))

    def format_help(self):
        """The help, whose first line names the values that must be given."""
        needed, others = [], False
        for action in self._actions:
            value = f"{action.metavar} ..." if action.nargs == "+" else action.metavar
            if action.required:
                needed.append(f"--{action.dest} {value}" if action.option_strings else value)
            others |= not action.required and action.dest != "help"
        usage = " ".join([self.prog, *needed, *["[flags]"] * others])
        self.usage = textwrap.fill(usage, self.columns - len("usage: "), subsequent_indent=7 * " ")
        return super().format_help()

    def parse_known_args(self, args=None, namespace=None):
        """Parse as argparse does, with dashes in flag names read as underscores. `parse_args` calls this method.

        A value that is empty, or that `errors.check_name` refuses, raises `InputError`.
        """
        for word in args:
            errors.check_name(str(word), "each flag and value")
        words = [re.sub(r"^--[^=]+", lambda flag: "--" + flag[0][2:].replace("-", "_"), str(word)) for word in args]
        found, rest = super().parse_known_args(words, namespace)
        for action in self._actions:
            values = getattr(found, action.dest, None)
            if "" in (values if isinstance(values, list) else [values]):
                self.error(str(argparse.ArgumentError(action, "expected a value, received an empty one")))
        return found, rest

    def error(self, message):
        raise InputError(f"{message}; see {self.prog} --help")

    def flag(self, name, text, default=None, metavar=None, **options):
        """Add the flag ``--name``. Its value has the type of ``default``, or is a string if there is no default."""
        if default is not None:
            shown = f"{default:g}" if isinstance(default, float) else default
            text, options["type"] = f"{text} [{shown}]", type(default)
        metavar = metavar or METAVARS[options.get("type", str)]
        self.add_argument(f"--{name}", help=text, default=default, metavar=metavar, **options)

    def switch(self, name, text):
        """Add the boolean flag ``--name``, which is off by default."""
        self.add_argument(f"--{name}", help=text, action="store_true")

    def frame_size(self):
        self.flag("frame_H", "frame height in pixels", 32)
        self.flag("frame_W", "frame width in pixels", 64)


def _add_setting(group, spec, shown=None):
    """Add the flag for a field of `Config`. The parser returns only the flags given; the preset decides the others.

    Args:
        group: parser or group of flags.
        spec: the field.
        shown: value to show in the help as the default; None: the help leaves this flag out.
    """
    text = spec.metadata["help"].replace("%", "%%")
    if spec.type is bool:
        text += " [on]" if shown else " [off]"
    elif not text.endswith("]"):
        text += f" [{shown:g}]" if spec.type is float and shown is not None else f" [{shown}]"
    options = {"default": argparse.SUPPRESS, "help": argparse.SUPPRESS if shown is None else text}
    if spec.type is bool:
        group.add_argument(f"--{spec.name}", action="store_true", **options)
        group.add_argument(f"--no_{spec.name}", action="store_false", dest=spec.name,
                           **options | {"help": argparse.SUPPRESS})
        return
    named = spec.metadata["choices"] or spec.name == "preset"
    group.add_argument(f"--{spec.name}", type=spec.type, metavar="NAME" if named else METAVARS[spec.type], **options)


def _start_tensorflow(config):
    """Import TensorFlow, set it up as ``config`` says, and start its devices, with its notes held back.

    The notes are shown if TensorFlow does not find the machine's GPU, since they tell why.
    """
    with errors.notes_held() as notes:
        import tensorflow as tf

        from cvae_tf.training.build import make_deterministic

        if config.deterministic:
            make_deterministic()  # before the devices start
        tf.zeros(())  # starts the devices
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
        notes.show = Path("/dev/nvidia0").exists() and not hidden and not tf.config.list_physical_devices("GPU")


# ---------------------------------------------------------------------- commands: words -> a function to call

def _train(words):
    config, dry_run, fresh = train_config(words)
    if dry_run:
        return partial(print, config.to_json(), end="")

    def run():
        began = time.monotonic()  # the start of TensorFlow takes seconds, which count towards --max_minutes
        _start_tensorflow(config)
        from cvae_tf.training.loop import train

        train(config, fresh, began)

    return run


def _prepare(words):
    from cvae_tf.pose.smoothing import MAX_GAP

    parser = _Parser("prepare", "The data set has the lab's layout; train on it with: train --data_dir OUT.")
    parser.add_argument("videos", nargs="+", metavar="VIDEO",
                        help="video of one person (MP4, MOV, AVI, WebM, GIF) or a folder of numbered images")
    parser.flag("out", "folder of the data set to write", required=True)
    parser.flag("val", "further videos, for validation [the last 15%% of each VIDEO]", metavar="VIDEO", nargs="+",
                default=None)
    parser.flag("poses", "key points that another program found in the only VIDEO: a folder of OpenPose JSON files, "
                "COCO JSON, .npz (an array frames, points, 3 of x, y and confidence), HDF5 or CSV of SLEAP, CSV of "
                "DeepLabCut [none: found here]", metavar="PATH")
    parser.flag("crop", "part of the picture: person (a fixed box around the person), whole, or X,Y,W,H in pixels",
                "person", metavar="NAME")
    parser.flag("height", "height of the frames in pixels; 0: frames of about as many pixels as 32x64", 0)
    parser.flag("fps", "frames per second; 0: those of the slowest VIDEO, or a part of them, at most 30", 0.0)
    parser.flag("max_gap", "longest gap in the key points to interpolate, in frames", MAX_GAP)
    parser.switch("overwrite", "replace a data set in --out made from other videos or settings")
    args = vars(parser.parse_args(words))

    def run():
        from cvae_tf.preparation.prepare import prepare

        with errors.notes_held():
            prepare(args.pop("videos"), args.pop("out"), args.pop("val") or (), **args)

    return run


def _predict(words):
    parser = _Parser("predict", "Without flags: the newest model, on the studio's validation sequence.")
    _add_model(parser)
    parser.flag("first_frame", "image that the film starts from [the first of --truth or of the model's footage]",
                metavar="IMAGE")
    parser.flag("poses", f"what the film follows: a video; a folder of drawn poses, PNG; '{STUDIO}'; motion capture, "
                "BVH; or key points: a folder of OpenPose JSON files, COCO JSON, .npz, HDF5 or CSV of SLEAP, CSV of "
                f"DeepLabCut [{STUDIO}]", metavar="PATH")
    parser.add_argument("--retarget", dest="fit", nargs="?", const="place", choices=("place", "limbs"), metavar="NAME",
                        help="fit the person of --poses to the model's person: place (body height and place on the "
                        "floor, also if no NAME is given), or limbs (their lengths too)")
    parser.flag("view", "direction that motion capture is seen from: front, side, or degrees towards the person's "
                "right [front]", metavar="NAME")
    parser.flag("truth", "folder of true frames, named like the drawn poses, to compare with")
    parser.flag("output", "film to write: .gif, .mp4, .webm, .npz (an array), or, without ending, a folder of PNG "
                "files; PSNR curve and table go beside it [prediction.gif]", metavar="FILE")
    parser.add_argument("--compare", action="store_const", const=True,
                        help="show the video or the key points of --poses beside pose and result")
    parser.flag("overlay", "drawing to put over the result: pose [none]", choices=("pose",), metavar="NAME")
    parser.add_argument("--contact_sheet", action="store_const", const=True,
                        help="write a PNG with 24 frames beside the film")
    parser.flag("samples", "number of films, shown side by side [1]", type=int)
    _add_latents(parser)
    parser.flag("fps", "frames per second [those of the model's footage]", type=float)
    parser.flag("scale", "enlargement of the frames: a whole factor", 4)
    parser.flag("enlarge", "method of enlargement: nearest shows pixels as squares, lanczos is smooth [nearest]",
                choices=("nearest", "lanczos"), metavar="NAME")
    split = parser.add_argument_group("the test sequences of a data set, instead of one film")
    split.add_argument("--data_dir", metavar="FOLDER", help="data set in the lab's layout")
    split.add_argument("--split", metavar="NAME",
                       help="part of the data set, or a folder that holds *_img and *_label [test]")
    split.add_argument("--out", metavar="FOLDER", help="folder of the GIFs to write [predictions]")
    split.add_argument("--csv", metavar="FILE", help="submission file of the lab to write [none]")
    _add_overwrite(parser)
    args = vars(parser.parse_args(words))
    given = {name: value for name, value in args.items() if value is not None}
    one_film, test_sequences = ("first_frame", "poses", "truth", "output", "samples", "fit", "view", "compare",
                                "overlay", "contact_sheet", "enlarge"), ("split", "out", "csv")
    for name in one_film if "data_dir" in given else test_sequences:
        if name in given:
            name = "retarget" if name == "fit" else name
            raise InputError(f"--{name} cannot be given {'with' if 'data_dir' in given else 'without'} --data_dir")

    def run():
        from cvae_tf.inference.exported_model import newest_model, use_one_thread_if_light
        from cvae_tf.inference.predict import predict
        from cvae_tf.lab.submission import predict_split

        with errors.notes_held():
            use_one_thread_if_light(given.get("model") or newest_model())
            (predict_split if "data_dir" in given else predict)(**given)

    return run


def _evaluate(words):
    parser = _Parser("evaluate")
    _add_model(parser)
    parser.flag("data_dir", f"data set in the lab's layout, or '{STUDIO}'", STUDIO)
    parser.flag("split", "part of the data set: val, test, or a folder that holds *_img and *_label", "val",
                metavar="NAME")
    parser.flag("samples", "number of films with z from the prior, for each sequence", 10)
    _add_latents(parser)
    parser.flag("out", "folder of the report to write [reports/MODEL-DATA-SPLIT]")
    parser.add_argument("--pose_detector", action="store_true", default=None,
                        help="find the person's joints in true and generated frames, and compare them with the poses "
                        "[on if ai-edge-litert is installed]")
    parser.add_argument("--no_pose_detector", action="store_false", dest="pose_detector", default=None,
                        help="do not look for joints")
    args = vars(parser.parse_args(words))

    def run():
        from cvae_tf.evaluation.evaluate import evaluate
        from cvae_tf.inference.exported_model import newest_model, open_model, use_one_thread_if_light

        given = args.pop("model")
        path = given or newest_model()
        with errors.notes_held():
            use_one_thread_if_light(path)
            evaluate(open_model(path, chosen=not given), **args)

    return run


def _compare(words):
    parser = _Parser("compare")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder of a training run")
    parser.flag("out", "folder to write; an earlier comparison there is replaced", required=True)
    args = parser.parse_args(words)

    def run():
        from cvae_tf.experiments.compare import compare

        compare(args.runs, args.out)

    return run


def _study(words):
    from cvae_tf.experiments.grid import CHOSEN, VARIED

    parser = _Parser("study", "\n".join([
        "", "The runs are those of the report: each schedule of beta (Cyclical, Monotonic, WithoutKL) with a "
        "teacher-forcing ratio of 1 that decays, of 0.5 and of 0. They have the preset 'study', unless --preset names "
        "another.",
        "", "Any flag of train can be added; train --help explains them. A flag with one value holds for all runs. A "
        "flag with several values is a further axis, and so is a switch given both on and off: each combination is a "
        "run. --kl_anneal_type replaces the schedules of beta, and --tfr or --tfr_d_step those of teacher forcing. "
        "For example:", "  study --out S --kl_anneal_cycle 4 10 --seed 0 1 2 --mirror --no_mirror"]))
    parser.flag("out", "folder of the study; an existing study is continued or extended",
                required=True)
    parser.flag("minutes_per_run", "length of a run in minutes; 0: the number of steps of the preset", 0.0)
    parser.switch("dry_run", "print the configuration of each run as JSON and stop")
    parser.switch("schedules", "draw the schedules of the runs in OUT/schedules and stop")
    for spec in dataclasses.fields(Config):
        if spec.name not in CHOSEN:
            _add_setting(parser, spec)
            if spec.type is not bool:
                parser._actions[-1].nargs = "+"
    given = [word[2:].partition("=")[0].replace("-", "_") for word in map(str, words) if word.startswith("--")]
    for name in given:
        if name in CHOSEN:
            raise InputError(f"--{name} cannot be given to a study, which chooses it for each run")
        if given.count(name) > 1:
            raise InputError(f"--{name} is given twice; give all its values after one flag")
    args = vars(parser.parse_args(words))
    out, minutes, dry_run, schedules = (args.pop(name) for name in ("out", "minutes_per_run", "dry_run", "schedules"))
    if minutes and "steps_per_epoch" in args:
        raise InputError("--minutes_per_run and --steps_per_epoch exclude each other; give one of them")
    values = {name: value if isinstance(value, list) else  # of a switch: which of its two forms were given
              [flag == name for flag in given if flag in (name, f"no_{name}")] for name, value in args.items()}
    axes = {name: several for name, several in values.items() if len(several) > 1 or name in VARIED}
    shared = [f"--{'' if first else 'no_'}{name}" if isinstance(first, bool) else f"--{name}={first}"
              for name, (first, *_) in values.items() if name not in axes or name == "data_dir"]
    config, _, _ = train_config(["--preset=study", *shared])  # a prepared data set decides the size of the frames

    def run():
        from cvae_tf.experiments.study import draw_schedules, plan, study

        if dry_run:
            print("".join(run.to_json() for run in plan(config, out, axes, minutes)), end="")
            return
        _start_tensorflow(config)
        (draw_schedules if schedules else study)(config, out, minutes_per_run=minutes, axes=axes)

    return run


def _studio(words):
    parser = _Parser("studio")
    parser.add_argument("out", metavar="OUT", help="folder to make")
    parser.flag("train", "number of training sequences", 4)
    parser.flag("length", "number of frames in a sequence", 630)
    parser.frame_size()
    parser.flag("seed", "seed of the footage", 0)
    parser.switch("variety", "other clothes and lighting in each sequence")
    parser.switch("lamp", "a lamp in the hand that colours the shirt, which the poses do not show")
    args = parser.parse_args(words)

    def run():
        from cvae_tf.files import check_paths
        from cvae_tf.studio.scene import write_tree

        check_paths({}, {"OUT": args.out})
        write_tree(args.out, args.train, length=args.length, frame_size=(args.frame_H, args.frame_W), seed=args.seed,
                   variety=args.variety, lamp=args.lamp)
        print(f"{args.out}: {args.train} training sequences, one for validation and one for testing, {args.length} "
              "frames each")

    return run


def _import_torch(words):
    parser = _Parser("import-torch", "Nothing in the file is executed.")
    parser.add_argument("checkpoint", metavar="CHECKPOINT",
                        help="file that the template's Trainer saved, such as epoch=69.ckpt")
    parser.flag("out", "folder of the exported model to write", required=True)
    parser.flag("batch_norm", "pose statistics: of the batch (train), as in the template, or running (inference)",
                "train", choices=("train", "inference"), metavar="NAME")
    parser.frame_size()
    parser.switch("overwrite", "replace an exported model in --out, unless it belongs to a training run")
    args = parser.parse_args(words)

    def run():
        with errors.notes_held():
            from cvae_tf.lab.torch_checkpoint import import_torch

            model = import_torch(args.checkpoint, args.out, args.batch_norm, (args.frame_H, args.frame_W),
                                 args.overwrite)
        network = model.network
        print(f"{args.out}: the lab's network with F_dim {network.F_dim}, L_dim {network.L_dim}, N_dim "
              f"{network.N_dim}, D_out_dim {network.D_out_dim}, {model.trainable_parameters:,} trainable parameters, "
              f"batch norm '{args.batch_norm}'")
        print(f"Next   {errors.program('predict')} --model {args.out}")

    return run


def _export_torch(words):
    parser = _Parser("export-torch")
    parser.flag("model", "folder of an exported model of the lab's network", required=True)
    parser.flag("out", "file to write, such as epoch=69.ckpt; its name gives the epoch", required=True, metavar="FILE")
    parser.switch("overwrite", "replace the file --out")
    args = parser.parse_args(words)

    def run():
        with errors.notes_held():
            from cvae_tf.lab.torch_checkpoint import export_torch

            settings = export_torch(args.model, args.out, args.overwrite)
        print(f"{args.out}: a checkpoint of the lab's template with " + ", ".join(
            f"{name} {value:g}" for name, value in settings.items()))

    return run


def _add_model(parser):
    parser.flag("model", "exported model [the newest in saved_models/, or else the one of the package]")


def _add_latents(parser):
    parser.flag("seed", "seed of the latents z; sample k, from 0, takes seed + k", 0)
    parser.flag("temperature", "factor on the deviation of z from the prior's mean; 0: z is the mean", 1.0)


def _add_overwrite(parser):
    parser.switch("overwrite", "replace files that this program did not make, too; never an input or a run")


def _overview():
    lines = [f"  {name:14}{summary}" for name, (summary, _) in COMMANDS.items()]
    return "\n".join(["usage: cvae-tf COMMAND [flags]", "       python -m cvae_tf COMMAND [flags]", "", *lines, "",
                      "COMMAND --help lists the flags of a command; --version prints the version.",
                      "Dashes and underscores in flags are alike."])


COMMANDS = {
    "prepare": ("turn videos of a person into a data set to train on", _prepare),
    "train": ("train a model; without flags, on the built-in studio", _train),
    "predict": ("generate a film from one frame and poses, with a trained model", _predict),
    "evaluate": ("measure a model beside baselines, and write a report", _evaluate),
    "compare": ("draw figures and a table of several training runs", _compare),
    "study": ("train a grid of schedules or other settings, and compare the runs", _study),
    "studio": ("write studio footage to disk in the lab's layout", _studio),
    "import-torch": ("turn a checkpoint of the lab's PyTorch template into an exported model", _import_torch),
    "export-torch": ("write a model of the lab's network as a checkpoint of the template", _export_torch),
}
