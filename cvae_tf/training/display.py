"""What a training run prints: its settings, a bar for all steps, a line for each epoch, and the results at the end."""

import collections
import contextlib
import shlex
import time
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Column

from cvae_tf.config import STUDIO, load_config
from cvae_tf.errors import InputError, has_cursor, program, say
from cvae_tf.training.run import RunFolders

RECENT = 20  # number of steps whose mean duration is shown
LEGEND = "mse: squared error, gd: gradient difference, kl: KL divergence, tfr: teacher-forcing ratio"
QUIET = 60  # seconds after which an output without a bar gets a line within an epoch


class Display(keras.callbacks.Callback):
    """Show the progress of a run: a line for each epoch, whose terms add up to the loss, and on a terminal a bar.

    Used as a context manager around ``fit``, so that the terminal is as before after an error, too. Other callbacks
    that add validation scores to ``logs`` must come before it.

    Args:
        config: the run's `Config`.
        steps: range of the steps (0, 1, ...) of this session; the bar begins at its start.
        validated: set of the epochs (0, 1, ...) after which there is a validation.
        stop: the run's `StopRequest`, which knows the durations of validations and the time limit.
    """

    def __init__(self, config, steps, validated, stop):
        super().__init__()
        self.config, self.validated, self.stop = config, validated, stop
        terminal = has_cursor()
        console = Console(force_terminal=terminal)
        self.width = console.width if terminal else 100
        self.bar = Progress(SpinnerColumn("line"), TextColumn("{task.description}"),
                            BarColumn(None, table_column=Column(min_width=4, max_width=40)), MofNCompleteColumn(),
                            TextColumn("{task.fields[pace]}"), console=console, transient=True, disable=not terminal,
                            refresh_per_second=4)
        self.task = self.bar.add_task("", total=steps.stop, completed=steps.start, pace="preparing the first step")
        self.steps, self.step = steps, steps.start
        self.durations = collections.deque(maxlen=RECENT)
        self.head, self.skipped = None, 0

    def __enter__(self):
        self.bar.start()
        self.bar.console.show_cursor(True)  # visible also after the process has been killed
        return self

    def __exit__(self, *_):
        self.bar.stop()

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch, self.began = epoch, time.monotonic()
        self.bar.update(self.task, description=f"epoch {epoch + 1}/{self.config.num_epoch}")
        if not self.head:
            self.head, _ = self._line(epoch, dict.fromkeys(("loss", "mse", "gd", "kl", "beta", "tfr", "lr"), 0.0))
            self._print(f"\n{LEGEND}\n{self.head}")

    def on_train_batch_begin(self, batch, logs=None):
        self.step_began = time.monotonic()

    def on_train_batch_end(self, batch, logs=None):
        now, self.step = time.monotonic(), self.step + 1
        if self.step > self.steps.start + 1:  # the first step takes longer, since it builds the graph
            self.durations.append(now - self.step_began)
        self.bar.update(self.task, completed=self.step, pace=self._pace())
        if self.epoch in self.validated and batch + 1 == self.params["steps"]:
            self.bar.update(self.task, description=f"epoch {self.epoch + 1}/{self.config.num_epoch}, validation")
        elif self.bar.disable and now - self.printed > QUIET:
            self._print(f"{'':7}step {self.step} of {self.steps.stop}: {self._pace()}")

    def on_epoch_end(self, epoch, logs=None):
        self.bar.update(self.task, description="saving")
        self._print(self._line(epoch, logs)[1])
        if logs["skipped"] > self.skipped:
            self.skipped = logs["skipped"]
            self._print(f"{'':7}{self.skipped:.0f} updates skipped so far: their loss or gradient was not finite")

    def _pace(self):
        """The duration of a step and the time left, as text."""
        if not self.durations:
            return ""
        duration = sum(self.durations) / len(self.durations)
        validations = sum(epoch >= self.epoch for epoch in self.validated)
        left = ((self.steps.stop - self.step) * duration + validations * self.stop.took["validation"]
                + self.stop.took["export"])
        step = f"{1000 * duration:.0f} ms" if duration < 1 else f"{duration:.1f} s"
        return f"{step} a step, {_time(min(left, max(0, self.stop.seconds_left())))} left"

    def _line(self, epoch, logs):
        """The header and the line of an epoch, without the schedules if the terminal is narrow."""
        number, gdl, beta = f"{epoch + 1}/{self.config.num_epoch}", self.config.gdl, logs["beta"]
        terms = {"mse": logs["mse"], f"{gdl:.3g} x gd": gdl * logs["gd"], "beta x kl": beta * logs["kl"]}
        if not gdl:
            del terms["0 x gd"]
        widths = [max(7, len(name)) for name in terms]
        first = max(5, 2 * len(str(self.config.num_epoch)) + 1)
        heads = [f"{'epoch':>{first}}  {'loss':>7} = "
                 + " + ".join(f"{name:>{width}}" for name, width in zip(terms, widths, strict=True))]
        cells = [f"{number:>{first}}  {_number(logs['loss'])} = "
                 + " + ".join(f"{_number(term):>{width}}" for term, width in zip(terms.values(), widths, strict=True))]
        schedules = {"beta": (7, f"{beta:.2g}"), "kl": (7, _number(logs["kl"])), "tfr": (4, f"{logs['tfr']:.2f}"),
                     "lr": (7, f"{logs['lr']:.1e}"), "time": (6, _clock(time.monotonic() - self.began))}
        psnr = {"PSNR dB": (7, f"{logs['val_psnr_prior']:.2f}" if "val_psnr_prior" in logs else "")}
        for name, (width, text) in ((schedules if self.width >= 100 else {}) | psnr).items():
            heads.append(f"{name:>{width}}")
            cells.append(f"{text:>{width}}")
        return "  ".join(heads), "  ".join(cells).rstrip()

    def _print(self, line):
        print(line, flush=True)
        self.printed = time.monotonic()


def _number(value):
    """A number >= 0 as text of seven characters."""
    decimals = next((decimals for decimals in (5, 4, 3, 2, 1) if round(value, decimals) < 10**(6 - decimals)), None)
    return f"{value:7.{decimals}f}" if decimals else f"{value:7.1e}"


def _clock(seconds):
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes}:{seconds:02}"


def _time(seconds):
    """A duration in words, with the units that matter."""
    if seconds < 99:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 99 * 60 else f"{seconds / 3600:.1f} h"


def opening(config, folders, clips, validation_frames, model, first_step, last_step):
    """Print what is going to be trained, on what and where."""
    gpus = [tf.config.experimental.get_device_details(gpu).get("device_name", "GPU")
            for gpu in tf.config.list_physical_devices("GPU")]
    height, width = clips.footage.frames.shape[1:3]
    for name, text in {
            "Run": f"{folders.root} (preset {config.preset})",
            "Data": f"{config.data_dir}: {len(clips.footage.frames)} training frames, {validation_frames} validation "
                    f"frames, {height}x{width} pixels",
            "Network": f"{config.network}, {model.trainable_parameters:,} trainable parameters, on "
                       f"{', '.join(gpus) or 'the CPU'}",
            "Steps": f"{last_step} in {config.num_epoch} epochs"
                     + (f", continuing at step {first_step} of {last_step}" if first_step else "")}.items():
        say(f"{name:14}{text}")


def report(result, config, folders, frames, last_step, seconds, command):
    """Print the scores of a `TrainingResult`, the paths of its files, and the commands to go on with."""
    best, copied = result.scores["best"], result.scores["copy_first"]
    verdict = "none yet" if np.isnan(best) else (
        f"{best:.2f} dB, {abs(best - copied):.2f} dB {'better' if best > copied else 'worse'} than "
        f"copy-first, the repeated first frame ({copied:.2f} dB)")
    samples = sorted(folders.samples.glob("*.gif"), key=lambda path: path.stat().st_mtime)
    models = {path: which for path, which in ((folders.export, "best"), (folders.last_model, "last")) if path.exists()}
    model, data = next(iter(models)), Path(config.data_dir)
    poses, truth = data / "val" / "val_label", data / "val" / "val_img"
    studio = config.data_dir == STUDIO
    given = ["--poses", poses, "--truth", truth] if not studio and poses.is_dir() and truth.is_dir() else []
    commands = {
        "predict": ["--model", model, *given],
        "evaluate": ["--model", model, *([] if studio else ["--data_dir", data])],
        "compare": [*_runs_beside(folders.root, config), folders.root, "--out", "comparison"]}
    lines = [
        ("Best model", verdict),
        ("", f"PSNR on the validation clip, free running over {frames} frames, z from the prior"),
        ("Film", f"{samples[-1]} (truth, pose, prediction)" if samples else "none"),
        *(("" if i else "SavedModel", f"{path} (the {which} model)") for i, (path, which) in enumerate(models.items())),
        ("TensorBoard", shlex.join(["tensorboard", "--logdir", str(folders.root.parent)])),
        *((f"To {name}", f"{program(name)} {shlex.join(map(str, words))}") for name, words in commands.items())]
    if result.steps < last_step:
        lines.append(("To continue", command))
    ended = "Finished" if result.steps >= last_step else "Stopped by --max_minutes"
    print(f"\n{ended} at step {result.steps} of {last_step} after {seconds / 60:.1f} minutes.")
    for name, text in lines:
        say(f"{name:14}{text}")


def _runs_beside(root, config):
    """The newest three runs on the same data in the folder of a run, without the run itself, the oldest first."""
    found = {}
    for path in root.parent.glob("*/config.json"):
        folders = RunFolders(path.parent)
        with contextlib.suppress(InputError, OSError):
            if folders.root.name != root.name and load_config(path).data_dir == config.data_dir:
                found[folders.root] = folders.metrics.stat().st_mtime
    return sorted(found, key=found.get)[-3:]
