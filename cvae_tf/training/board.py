"""A training run in TensorBoard: scalars, films, the PSNR of each frame, and the settings."""

import dataclasses

import keras
import tensorflow as tf
from tensorboard.plugins.hparams import api as hparams

from cvae_tf.evaluation.plots import psnr_per_frame_png


class Board(keras.callbacks.TensorBoard):
    """Keras's callback for TensorBoard, with the validation films and the settings of the run.

    Args:
        folders: the run's `RunFolders`.
    """

    def __init__(self, folders):
        super().__init__(str(folders.tensorboard), write_graph=False)
        self.folders = folders

    def show(self, epoch, film, size, curves):
        """Show a validation.

        Args:
            epoch: the epoch before the validation, counted from 0.
            film: bytes of an animated GIF.
            size: its height and width in pixels.
            curves: name -> PSNR in dB of each frame, (T,).
        """
        with tf.summary.create_file_writer(str(self.folders.tensorboard / "validation")).as_default():
            _write_image("free_running", film, *size, epoch)
            _write_image("psnr_per_frame", psnr_per_frame_png(curves, f"Validation after epoch {epoch + 1}"), 374, 880,
                         epoch)

    def record_settings(self, config):
        """Write a `Config` for TensorBoard's HParams page, which reads the final metrics from the logs itself."""
        settings = {name: value for name, value in dataclasses.asdict(config).items()
                    if name not in ("run_dir", "export_dir", "max_minutes")}
        with tf.summary.create_file_writer(str(self.folders.tensorboard)).as_default():
            hparams.hparams(settings, trial_id=self.folders.root.absolute().name)


def _write_image(tag, data, height, width, step):
    """Write an encoded PNG or animated GIF to TensorBoard as it is; `tf.summary.image` accepts only decoded images."""
    plugin = tf.compat.v1.SummaryMetadata.PluginData(plugin_name="images")
    tf.summary.write(tag, tf.constant([str(width).encode(), str(height).encode(), data]), step=step,
                     metadata=tf.compat.v1.SummaryMetadata(plugin_data=plugin))
