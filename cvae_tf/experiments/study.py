"""The report's study: train each beta schedule with each teacher-forcing schedule, and compare the runs.

The nine runs have the same data, seed and number of steps, and are trained one after the other. The same command
continues a stopped study.
"""

import contextlib
import dataclasses
import json
import shlex
import signal
import time
from pathlib import Path

from cvae_tf.config import PRESETS, Config, check_ranges
from cvae_tf.errors import InputError, Interrupted, printable
from cvae_tf.files import atomic, check_paths, check_replaceable, plain, read_csv
from cvae_tf.model.schedules import KL_ANNEAL_TYPES
from cvae_tf.training.run import RunFolders

FORCING = {"1.0-decaying": dict(tfr=1.0), "0.5": dict(tfr=0.5, tfr_d_step=0.0), "0": dict(tfr=0.0)}
VARIED = ("kl_anneal_type", "tfr", "tfr_d_step")  # settings in which the runs differ
CHOSEN = ("run_dir", "export_dir", "max_minutes", "fresh", *VARIED)  # flags of train.py that a study sets itself
CALIBRATION_STEPS = 8


def plan(config, out):
    """The configurations of the nine runs, in training order.

    Args:
        config: `Config` with the settings that the runs share.
        out: folder of the study, which will hold the folders of the runs and of their models.
    """
    return [dataclasses.replace(config, kl_anneal_type=annealing, **forcing, max_minutes=0.0,
                                run_dir=str(Path(out) / "runs" / f"{annealing}-tfr-{name}"),
                                export_dir=str(Path(out) / "models" / f"{annealing}-tfr-{name}"))
            for annealing in KL_ANNEAL_TYPES for name, forcing in FORCING.items()]


def steps_for(config, minutes):
    """Number of steps per epoch for a free-running run of ``minutes`` on this machine, measured with a few steps."""
    from cvae_tf.training.build import build_model, load_data

    clips = load_data(config).clips
    model = build_model(dataclasses.replace(config, tfr=0.0), clips)
    times = []
    for step in range(CALIBRATION_STEPS):
        began = time.monotonic()
        model.train_on_batch(clips.batch(step))
        times.append(time.monotonic() - began)
    seconds = sorted(times)[CALIBRATION_STEPS // 2]
    return min(max(1, round(60 * minutes / seconds / config.num_epoch)), 100_000)


def study(config, out, minutes_per_run=0.0):
    """Train the unfinished runs of the study one after the other, then compare all runs.

    Args:
        config: `Config` with the settings that the runs share. `CHOSEN` settings in it have no effect.
        out: folder of the study: ``runs/``, ``models/``, ``comparison/``, and the shared settings in ``study.json``. An
            existing study there is continued.
        minutes_per_run: duration of a run in minutes, from 0 to 10,000. If above 0, it determines the number of steps
            per epoch. The duration of a step is measured once, at the start of the study.

    Raises:
        InputError: a value is out of range, ``out`` holds another study, or a run cannot be trained.
    """
    check_ranges(dict(minutes_per_run=(0, 10_000)), minutes_per_run=minutes_per_run)
    check_paths(config.inputs(), {"--out": out})
    if not (Path(out) / "study.json").exists():
        check_replaceable(out, [], "study", "--out")  # a new study needs an empty folder
    if config.deterministic:
        from cvae_tf.training.build import make_deterministic

        make_deterministic()  # must come before TensorFlow starts below
    command = _command(config, out, minutes_per_run)
    runs = plan(_shared_settings(config, out, minutes_per_run), out)
    began, trained = time.monotonic(), 0
    for number, run in enumerate(runs, 1):
        name = Path(run.run_dir).name
        if _finished(run):
            print(f"study: run {number} of {len(runs)}, {name}, is finished already", flush=True)
            continue
        left = (f"; about {(time.monotonic() - began) / trained * (len(runs) - number + 1) / 60:.0f} minutes left"
                if trained else "")
        print(f"\nstudy: run {number} of {len(runs)}, {name}{left}", flush=True)
        with _explaining_how_to_continue(command):
            _train(run, command)
        trained += 1
    from cvae_tf.experiments.compare import compare  # imports Matplotlib

    print(f"\nstudy: all {len(runs)} runs are finished")
    compare([run.run_dir for run in runs], Path(out) / "comparison")
    print(f"TensorBoard   tensorboard --logdir {Path(out) / 'runs'}   (the page HParams lists settings and PSNR)")


def _shared_settings(config, out, minutes_per_run):
    """The settings that the runs share: checked and saved for a new study, compared for an existing study."""
    settings = Path(out) / "study.json"
    asked = {"minutes_per_run": minutes_per_run, **dataclasses.asdict(config)}
    if settings.exists():
        try:
            saved = json.loads(plain(settings).read_text(encoding="utf-8"))
            steps = saved["steps_per_epoch"]
            if minutes_per_run == saved["minutes_per_run"] > 0:
                asked["steps_per_epoch"] = steps
            differ = [name for name in asked if name not in CHOSEN and asked[name] != saved[name]]
        except Exception as error:
            raise InputError(f"{settings}: not the settings of a study ({error}); choose another --out") from error
        if differ:
            raise InputError(f"{out}: this study was begun with --{differ[0]} {saved[differ[0]]}, now it is "
                             f"{asked[differ[0]]}; give the same value, or another --out")
        return dataclasses.replace(config, steps_per_epoch=steps)
    from cvae_tf.training.build import load_data

    load_data(config)  # fails on unusable data before anything is written
    if minutes_per_run:
        config = dataclasses.replace(config, steps_per_epoch=steps_for(config, minutes_per_run))
    with atomic(settings) as unfinished:
        unfinished.write_text(json.dumps({"minutes_per_run": minutes_per_run, **dataclasses.asdict(config)}, indent=2))
    return config


def _command(config, out, minutes_per_run):
    """The command line that begins or continues a study."""
    words = {"out": out, "preset": config.preset} | ({"minutes_per_run": minutes_per_run} if minutes_per_run else {})
    preset = Config(**PRESETS[config.preset], preset=config.preset)
    words |= {name: value for name, value in dataclasses.asdict(config).items()
              if name not in CHOSEN and value != getattr(preset, name)}
    if minutes_per_run:
        words.pop("steps_per_epoch", None)  # determined by ``minutes_per_run``
    flags = [[f"--{'' if value else 'no_'}{name}"] if isinstance(value, bool) else [f"--{name}", str(value)]
             for name, value in words.items()]
    return shlex.join(["python", "-m", "cvae_tf", "study", *(word for flag in flags for word in flag)])


@contextlib.contextmanager
def _explaining_how_to_continue(command):
    """Append the command for continuing the study to the message of an error that ends it, unless already there."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted; to continue the study: {command}", signal.SIGINT) from None
    except (InputError, Interrupted) as error:
        if printable(command) in printable(error):
            raise
        error.args = (f"{error}; to continue the study: {command}",)
        raise


def _train(config, command):
    import keras
    import tensorflow as tf
    from tensorboard.plugins.hparams import api as hparams

    from cvae_tf.training.loop import train

    runs = Path(config.run_dir).parent
    if not list(runs.glob("*tfevents*")):  # declare the settings and scores of the HParams page
        scores = [hparams.Metric(f"epoch_psnr_{name}", group="validation", display_name=f"val_psnr_{name}")
                  for name in ("prior", "posterior", "copy_first")]
        with tf.summary.create_file_writer(str(runs)).as_default():
            hparams.hparams_config([hparams.HParam(name) for name in VARIED], scores)
    keras.backend.clear_session()  # frees the memory of the previous run
    tf.get_logger().setLevel("ERROR")  # nine models in one process make TensorFlow warn of retracing
    train(config, command=command)


def _finished(config):
    folders = RunFolders(Path(config.run_dir), Path(config.export_dir))
    return (folders.last_model.exists() and folders.export.exists() and folders.metrics.exists()
            and len(read_csv(folders.metrics)) == config.num_epoch)
