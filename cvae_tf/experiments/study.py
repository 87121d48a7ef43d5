"""The report's study in one command: ``python -m cvae_tf.experiments.study --out DIR [--data_dir ROOT] [flags of train.py]``.

Every schedule of beta with every schedule of teacher forcing, nine runs on the same data, seed and number of steps, one
after the other, then `compare`. Given again, the command continues where it stopped.
"""

import dataclasses
import json
import sys
import time
from pathlib import Path

from cvae_tf import errors
from cvae_tf.config import normalise_flags, parse_train_args, parser_for
from cvae_tf.errors import InputError
from cvae_tf.files import atomic, read_csv
from cvae_tf.model.schedules import KL_ANNEAL_TYPES
from cvae_tf.training.run import RunFolders

FORCING = {"1.0-decaying": dict(tfr=1.0), "0.5": dict(tfr=0.5, tfr_d_step=0.0), "0": dict(tfr=0.0)}
VARIED = ("kl_anneal_type", "tfr", "tfr_d_step")
CALIBRATION_STEPS = 8


def plan(config, out):
    """The nine configurations of the study on top of ``config``, with their folders below ``out``, in order."""
    return [dataclasses.replace(config, kl_anneal_type=annealing, **forcing,
                                run_dir=str(Path(out) / "runs" / f"{annealing}-tfr-{name}"),
                                export_dir=str(Path(out) / "models" / f"{annealing}-tfr-{name}"))
            for annealing in KL_ANNEAL_TYPES for name, forcing in FORCING.items()]


def steps_for(config, minutes):
    """Steps per epoch with which a free-running run takes about so many minutes here, measured with a few steps."""
    from cvae_tf.data import footage as data
    from cvae_tf.training.loop import build_model

    clips = data.training_clips(config, data.load_footage(config, "train"))
    model = build_model(dataclasses.replace(config, tfr=0.0), clips)
    times = []
    for step in range(CALIBRATION_STEPS):
        began = time.monotonic()
        model.train_on_batch(*clips.batch(step))
        times.append(time.monotonic() - began)
    seconds = sorted(times)[CALIBRATION_STEPS // 2]
    return min(max(1, round(60 * minutes / seconds / config.num_epoch)), 100_000)


def study(config, out, minutes_per_run=0.0):
    """Run what is left of the study, then compare its runs.

    Args:
        config: what all runs have in common.
        out: folder of the study: ``runs/``, ``models/`` and ``comparison/``, and ``study.json``, the common settings.
        minutes_per_run: if above 0, choose the number of steps so that a run takes about so long. It is measured once,
            at the start of the study, and is the same for all runs.

    Raises:
        InputError: ``out`` holds another study, or a run cannot be trained.
    """
    runs = plan(_settle(config, out, minutes_per_run), out)
    began, trained = time.monotonic(), 0
    for number, run in enumerate(runs, 1):
        name = Path(run.run_dir).name
        if _finished(run):
            print(f"study: run {number} of {len(runs)}, {name}, is finished already", flush=True)
            continue
        left = (f"; about {(time.monotonic() - began) / trained * (len(runs) - number + 1) / 60:.0f} minutes left"
                if trained else "")
        print(f"\nstudy: run {number} of {len(runs)}, {name}{left}", flush=True)
        _train(run)
        trained += 1
    from cvae_tf.experiments.compare import compare  # loads Matplotlib

    print(f"\nstudy: all {len(runs)} runs are finished")
    compare([run.run_dir for run in runs], Path(out) / "comparison")
    print(f"TensorBoard   tensorboard --logdir {Path(out) / 'runs'}   (the page HParams lists settings and PSNR)")


def _settle(config, out, minutes_per_run):
    """What all runs have in common: written down at the start of a study, and what is there when it is continued."""
    settings = Path(out) / "study.json"
    if settings.exists():
        try:
            saved = json.loads(settings.read_text())
            asked = {"minutes_per_run": minutes_per_run, **dataclasses.asdict(config)}
            if minutes_per_run == saved["minutes_per_run"] > 0:
                asked["steps_per_epoch"] = saved["steps_per_epoch"]
            differ = [name for name in asked if asked[name] != saved[name]]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise InputError(f"{settings}: not the settings of a study ({error}); choose another --out") from error
        if differ:
            raise InputError(f"{out}: this study was begun with --{differ[0]} {saved[differ[0]]}, now it is "
                             f"{asked[differ[0]]}; give the same value, or another --out")
        return dataclasses.replace(config, steps_per_epoch=saved["steps_per_epoch"])
    from cvae_tf.data import footage as data

    data.training_clips(config, data.load_footage(config, "train"))  # before anything is written
    data.load_footage(config, "val").longest(config.val_vi_len)
    if minutes_per_run:
        config = dataclasses.replace(config, steps_per_epoch=steps_for(config, minutes_per_run))
    with atomic(settings) as unfinished:
        unfinished.write_text(json.dumps({"minutes_per_run": minutes_per_run, **dataclasses.asdict(config)}, indent=2))
    return config


def _train(config):
    from cvae_tf.training.loop import train  # isort: skip  # first: it quietens TensorFlow, whose import takes seconds
    import keras
    import tensorflow as tf
    from tensorboard.plugins.hparams import api as hparams

    runs = Path(config.run_dir).parent
    if not list(runs.glob("*tfevents*")):  # what the HParams page shows of all that a run has
        scores = [hparams.Metric(f"epoch_psnr_{name}", group="validation", display_name=f"val_psnr_{name}")
                  for name in ("prior", "posterior", "copy_first")]
        with tf.summary.create_file_writer(str(runs)).as_default():
            hparams.hparams_config([hparams.HParam(name) for name in VARIED], scores)
    keras.backend.clear_session()  # frees the run before
    tf.get_logger().setLevel("ERROR")  # nine models in one process are no mistake, but it warns of retracing
    train(config)


def _finished(config):
    folders = RunFolders(Path(config.run_dir), Path(config.export_dir))
    return (folders.last_model.exists() and folders.export.exists() and folders.metrics.exists()
            and len(read_csv(folders.metrics)) == config.num_epoch)


def parse_args(argv):
    """Read the command line of ``python -m cvae_tf.experiments.study``.

    Returns:
        ``(args, config, dry_run)``: its own flags, and what `parse_train_args` makes of the others.

    Raises:
        InputError: an unknown flag, one that the study chooses itself, or a value out of range.
    """
    parser = parser_for("python -m cvae_tf.experiments.study", "Train each schedule of beta with each of teacher forcing, and "
                        "compare. Further flags are those of train.py, for all runs; its preset here is 'study'.")
    parser.add_argument("--out", required=True, help="folder of the study; an existing one is continued")
    parser.add_argument("--minutes_per_run", type=float, default=0.0,
                        help="choose the steps per epoch so that a run takes about so long; 0: those of the preset")
    args, rest = parser.parse_known_args(normalise_flags(argv))
    if not 0 <= args.minutes_per_run <= 10_000:
        raise InputError(f"--minutes_per_run must be from 0 to 10000, received {args.minutes_per_run}")
    for name in ("run_dir", "export_dir", "max_minutes", "fresh", *VARIED):
        if any(word.split("=")[0] == f"--{name}" for word in rest):
            raise InputError(f"--{name} cannot be given to a study, which chooses it for each run")
    if args.minutes_per_run and any(word.split("=")[0] == "--steps_per_epoch" for word in rest):
        raise InputError("--minutes_per_run and --steps_per_epoch exclude each other; give one of them")
    config, dry_run, _ = parse_train_args(["--preset", "study", *rest])
    return args, config, dry_run


def main():
    """Command line: ``python -m cvae_tf.experiments.study --out DIR [--data_dir ROOT] [--minutes_per_run M] [flags]``."""
    args, config, dry_run = parse_args(sys.argv[1:])
    if dry_run:
        print("".join(run.to_json() for run in plan(config, args.out)), end="")
        return
    study(config, args.out, args.minutes_per_run)


if __name__ == "__main__":
    errors.run(main)
