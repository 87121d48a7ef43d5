"""A study: train the runs of a grid one after the other, and compare them. The default grid is the report's.

The report trains each beta schedule with each teacher-forcing schedule. Any setting can be a further axis of the grid.
The runs share all other settings. The same command continues a stopped study; with more values, it extends the study.
"""

import contextlib
import dataclasses
import json
import shlex
import signal
import time
from pathlib import Path

from cvae_tf.config import PRESETS, Config, check_ranges
from cvae_tf.errors import InputError, Interrupted, printable, program
from cvae_tf.experiments.grid import VARIED, all_values, report_axes, runs_of
from cvae_tf.files import atomic, check_paths, check_replaceable, plain, read_csv
from cvae_tf.training.run import RunFolders

CALIBRATION_STEPS = 8


def plan(config, out, axes=None, minutes_per_run=0.0):
    """The configurations of the runs of a study, in training order; see `grid.runs_of`.

    The arguments and errors are those of `study`. If ``out`` holds this study already, its runs keep their names.
    """
    runs = runs_of(_shared_settings(config, out, minutes_per_run, axes), out, axes or {})
    for run in runs:
        check_paths(run.inputs(), {"--out": out})
    return runs


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


def study(config: Config, out: str | Path, minutes_per_run: float = 0.0, axes: dict[str, list] | None = None) -> None:
    """Train the unfinished runs of the study one after the other, then compare all runs.

    Args:
        config: `Config` with the settings that the runs share. `grid.CHOSEN` settings in it have no effect, nor have
            `grid.VARIED` settings unless ``axes`` replaces their axis.
        out: folder of the study: ``runs/``, ``models/``, ``comparison/``, and the shared settings in ``study.json``. An
            existing study there is continued, and extended by further values in ``axes``.
        minutes_per_run: duration of a run in minutes, from 0 to 10,000. If above 0, it determines the number of steps
            per epoch. The duration of a step is measured once, with ``config``, at the start of the study.
        axes: setting -> list of its values, as in `plan`; None: the report's grid.

    Raises:
        InputError: a value is out of range, ``out`` holds another study, or a run cannot be trained.
    """
    check_ranges(dict(minutes_per_run=(0, 10_000)), minutes_per_run=minutes_per_run)
    axes = axes or {}
    runs = plan(config, out, axes, minutes_per_run)
    settings = Path(out) / "study.json"
    if not settings.exists():
        check_replaceable(out, ["schedules"], "study", "--out")  # a new study needs an empty folder
    if config.deterministic:
        from cvae_tf.training.build import make_deterministic

        make_deterministic()  # must come before TensorFlow starts below
    command = _command(config, out, minutes_per_run, axes)
    shared = _shared_settings(config, out, minutes_per_run, axes)
    if minutes_per_run and not settings.exists():
        shared = dataclasses.replace(shared, steps_per_epoch=steps_for(shared, minutes_per_run))
    record = json.dumps({"minutes_per_run": minutes_per_run, "axes": axes, **dataclasses.asdict(shared)}, indent=2)
    if not settings.exists() or settings.read_text(encoding="utf-8") != record:  # a new study, or further values
        _check_data(runs)
        with atomic(settings) as unfinished:
            unfinished.write_text(record, encoding="utf-8")
    runs = plan(config, out, axes, minutes_per_run)
    began, trained = time.monotonic(), 0
    for number, run in enumerate(runs, 1):
        name = Path(run.run_dir).name
        if _finished(run):
            print(f"study: run {number} of {len(runs)}, {name}, is finished already", flush=True)
            continue
        todo = sum(not _finished(later) for later in runs[number - 1:])
        left = f"; about {(time.monotonic() - began) / trained * todo / 60:.0f} minutes left" if trained else ""
        print(f"\nstudy: run {number} of {len(runs)}, {name}{left}", flush=True)
        with _explaining_how_to_continue(command):
            _train(run, command, dict.fromkeys([*VARIED, *axes]))
        trained += 1
    from cvae_tf.experiments.compare import compare  # imports Matplotlib

    print(f"\nstudy: all {len(runs)} runs are finished")
    compare([run.run_dir for run in runs], Path(out) / "comparison")
    print(f"TensorBoard   tensorboard --logdir {Path(out) / 'runs'}   (the page HParams lists settings and PSNR)")


def draw_schedules(config, out, axes=None, minutes_per_run=0.0):
    """Draw beta and the teacher-forcing ratio by epoch of the runs of a study, without training.

    Writes PNG and PDF files into ``out/schedules``. The arguments and errors are those of `study`.
    """
    from cvae_tf.evaluation.plots import save_figure
    from cvae_tf.experiments.compare import planned_run, schedule_figures
    from cvae_tf.training.build import epoch_schedules

    runs = plan(config, out, axes, minutes_per_run)
    made = schedule_figures([planned_run(run, **epoch_schedules(run)) for run in runs])
    folder = Path(out) / "schedules"
    check_replaceable(folder, [f"{name}.{kind}" for name in made for kind in ("png", "pdf")], "drawing of schedules",
                      "--out")
    with atomic(folder) as unfinished:
        unfinished.mkdir()
        for name, figure in made.items():
            save_figure(figure, unfinished / name)
    print(f"{folder}: the schedules of {len(runs)} runs (PNG, PDF)")


def _check_data(runs):
    """Read the data of the runs, each once, so that unusable data end the study before anything is written."""
    from cvae_tf.training.build import load_data

    data = [spec.name for spec in dataclasses.fields(Config) if spec.metadata["group"] == "data"]
    for run in {tuple(getattr(run, name) for name in data): run for run in runs}.values():
        load_data(run)


def _shared_settings(config, out, minutes_per_run, axes=None):
    """The settings that the runs share: ``config``, or the settings with which the study in ``out`` was begun."""
    axes, settings = axes or {}, Path(out) / "study.json"
    if not settings.exists():
        return config
    own = dataclasses.asdict(config)
    asked = {"minutes_per_run": [minutes_per_run], **all_values(own, axes)}
    try:
        saved = json.loads(plain(settings).read_text(encoding="utf-8"))
        was = {"minutes_per_run": [saved["minutes_per_run"]],
               **all_values({name: saved[name] for name in own}, saved.get("axes", {}))}
        if minutes_per_run == saved["minutes_per_run"] > 0:
            asked["steps_per_epoch"] = was["steps_per_epoch"]
        differ = [name for name in was if any(value not in asked.get(name, []) for value in was[name])]
        first, now = ([" ".join(map(str, each.get(name, ["its default"]))) for name in differ] for each in (was, asked))
        found = dataclasses.replace(config, **{name: saved[name] for name in ("steps_per_epoch", *axes)})
    except Exception as error:
        raise InputError(f"{settings}: not the settings of a study ({error}); choose another --out") from error
    if differ:
        raise InputError(f"{out}: this study was begun with --{differ[0]} {first[0]}, now it is {now[0]}; keep its "
                         "values, to which others may be added, or choose another --out")
    return found


def _command(config, out, minutes_per_run, axes=None):
    """The command line that begins or continues a study."""
    axes, preset = axes or {}, dataclasses.asdict(Config(**PRESETS[config.preset], preset=config.preset))
    words = {"out": [out], "preset": [config.preset]}
    words |= {"minutes_per_run": [minutes_per_run]} if minutes_per_run else {}
    words |= {name: values for name, values in all_values(dataclasses.asdict(config), axes).items()
              if name in axes or name not in report_axes(axes) and values != [preset[name]]}
    if minutes_per_run:
        words.pop("steps_per_epoch", None)  # determined by ``minutes_per_run``
    flags = [[f"--{'' if value else 'no_'}{name}" for value in values] if isinstance(values[0], bool) else
             [f"--{name}", *map(str, values)] for name, values in words.items()]
    return f"{program('study')} {shlex.join(word for flag in flags for word in flag)}"


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


def _train(config, command, varied):
    import keras
    import tensorflow as tf
    from tensorboard.plugins.hparams import api as hparams

    from cvae_tf.training.board import PSNR
    from cvae_tf.training.loop import train

    runs = Path(config.run_dir).parent
    if not list(runs.glob("*tfevents*")):  # declare the settings and scores of the HParams page
        scores = [hparams.Metric(tag, display_name=f"PSNR {name} (dB)") for name, tag in PSNR.items()]
        with tf.summary.create_file_writer(str(runs)).as_default():
            hparams.hparams_config([hparams.HParam(name) for name in varied], scores)
    keras.backend.clear_session()  # frees the memory of the previous run
    tf.get_logger().setLevel("ERROR")  # many models in one process make TensorFlow warn of retracing
    train(config, command=command)


def _finished(config):
    folders = RunFolders(Path(config.run_dir), Path(config.export_dir))
    return (folders.last_model.exists() and folders.export.exists() and folders.metrics.exists()
            and len(read_csv(folders.metrics)) == config.num_epoch)
