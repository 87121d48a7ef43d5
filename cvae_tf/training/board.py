"""A training run in TensorBoard: films, PSNR, the terms of the loss, the schedules, and the settings."""

import dataclasses
import shlex

import keras
import tensorflow as tf
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.plugins.custom_scalar import layout_pb2 as layout
from tensorboard.plugins.custom_scalar import summary as custom_scalar
from tensorboard.plugins.hparams import api as hparams

from cvae_tf.config import PRESETS, Config
from cvae_tf.evaluation.plots import psnr_per_frame_png
from cvae_tf.evaluation.tables import markdown
from cvae_tf.files import atomic

# Curve of a validation, or entry of the logs -> tag. TensorBoard sorts tags, so that the film and the PSNR come first.
PSNR = {"prior": "psnr/prior", "posterior": "psnr/reference/posterior", "copy-first": "psnr/reference/copy_first"}
SCALARS = {
    "loss": "training/loss", "mse": "training/mse", "gd": "training/gd", "kl": "training/kl",
    "grad_norm": "training/gradient_norm", "skipped": "training/skipped_updates", "beta": "training_schedules/beta",
    "tfr": "training_schedules/teacher_forcing_ratio", "lr": "training_schedules/learning_rate",
}
CHARTS = {  # chart of the page Custom Scalars -> regular expression of its tags
    "PSNR of the validation clip (dB)": "psnr/", "loss and its terms": "training/(loss|mse|gd|kl)$",
    "beta": ".*/beta$", "teacher-forcing ratio": ".*/teacher_forcing_ratio$", "learning rate": ".*/learning_rate$",
}
# Settings that the page HParams shows of every run; it also shows those in which a run differs from its preset.
SETTINGS = ("preset", "num_epoch", "batch_size", "optim", "lr", "width", "kl_anneal_type", "kl_anneal_ratio", "tfr",
            "tfr_d_step", "gdl", "seed")
NO_RESULTS = ("run_dir", "export_dir", "max_minutes", "checkpoint_minutes", "val_every")  # do not change results


class Board(keras.callbacks.Callback):
    """Write a run for TensorBoard. A step in its charts is a completed epoch, from 1 on.

    Args:
        folder: folder of the event files.
    """

    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    def begin(self, config, epochs):
        """Begin a session: remove later epochs and earlier settings from the files, and write the settings.

        Args:
            config: the `Config` of the run.
            epochs: number of epochs completed before this session. The files hold more if a process was killed, or if
                the run was stopped within an epoch, and validated then.
        """
        for path in self.folder.glob("*tfevents*"):
            _keep(path, epochs)
        self.writer = tf.summary.create_file_writer(str(self.folder))
        charts = [layout.Chart(title=title, multiline=layout.MultilineChartContent(tag=[tags]))
                  for title, tags in CHARTS.items()]
        page = layout.Layout(category=[layout.Category(title="Training", chart=charts)])
        settings, changed = dataclasses.asdict(config), _changed(config)
        words = [word for name, value in changed.items() for word in
                 ([f"--{name}" if value else f"--no_{name}"] if isinstance(value, bool) else [f"--{name}", str(value)])]
        with self.writer.as_default(step=0):
            tf.summary.text("command", f"    {shlex.join(['python', 'train.py', '--preset', config.preset, *words])}")
            tf.summary.text("configuration", markdown(["setting", "value"], settings.items()))
            tf.summary.experimental.write_raw_pb(custom_scalar.pb(page).SerializeToString())
            shown = {*SETTINGS, *changed} - {*NO_RESULTS}
            hparams.hparams({name: value for name, value in settings.items() if name in shown},
                            trial_id=self.folder.parent.absolute().name)
        self.writer.flush()

    def show(self, epoch, film, size, curves):
        """Show a validation.

        Args:
            epoch: the epoch before the validation, counted from 0.
            film: bytes of an animated GIF.
            size: its height and width in pixels.
            curves: name (a key of `PSNR`) -> PSNR in dB of each frame, (T,).
        """
        with self.writer.as_default(step=epoch + 1):
            _write_image("film/free_running", film, *size)
            _write_image("psnr_per_frame/curves", psnr_per_frame_png(curves, f"epoch {epoch + 1}", (3.2, 3)), 330, 352)
            tf.summary.histogram("psnr_per_frame/prior", curves["prior"])
            for name, curve in curves.items():
                tf.summary.scalar(PSNR[name], curve.mean())
        self.writer.flush()

    def on_epoch_end(self, epoch, logs=None):
        with self.writer.as_default(step=epoch + 1):
            for name, tag in SCALARS.items():
                tf.summary.scalar(tag, logs[name])
        self.writer.flush()


def _changed(config):
    """The settings in which a `Config` differs from its preset."""
    preset = dataclasses.asdict(Config(**PRESETS[config.preset], preset=config.preset))
    return {name: value for name, value in dataclasses.asdict(config).items() if value != preset[name]}


def _keep(path, epochs):
    """Keep the steps from 1 to ``epochs`` in an event file."""
    with atomic(path) as unfinished, tf.io.TFRecordWriter(str(unfinished)) as kept:
        for record in RawEventFileLoader(str(path)).Load():
            event = tf.compat.v1.Event.FromString(record)
            if event.HasField("file_version") or 1 <= event.step <= epochs:
                kept.write(record)


def _write_image(tag, data, height, width):
    """Write an encoded PNG or animated GIF to TensorBoard as it is; `tf.summary.image` accepts only decoded images."""
    plugin = tf.compat.v1.SummaryMetadata.PluginData(plugin_name="images")
    tf.summary.write(tag, tf.constant([str(width).encode(), str(height).encode(), data]),
                     metadata=tf.compat.v1.SummaryMetadata(plugin_data=plugin))
