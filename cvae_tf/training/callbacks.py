"""What happens between the steps of a training run: schedules, validation, records, checkpoints, and stopping.

They stand in a run in the order of this file: each may add to ``logs``, and those after it see it.
"""

import time

import keras
import numpy as np
import tensorflow as tf

from cvae_tf.data.film import side_by_side, to_uint8, write_gif
from cvae_tf.errors import InputError
from cvae_tf.evaluation.metrics import psnr_per_frame
from cvae_tf.evaluation.plots import psnr_per_frame_png
from cvae_tf.evaluation.summary import COLLAPSED
from cvae_tf.evaluation.tables import psnr_table
from cvae_tf.files import write_csv
from cvae_tf.model.schedules import beta_table, teacher_forcing_ratio
from cvae_tf.training.stopping import Stopped

COLUMNS = ("epoch", "loss", "mse", "kl", "beta", "tfr", "lr", "grad_norm", "val_psnr_prior", "val_psnr_posterior",
           "val_psnr_copy_first", "skipped", "seconds", "gd")


class EpochSchedules(keras.callbacks.Callback):
    """Set the model's beta, teacher-forcing ratio and epoch at the start of each epoch. Nothing is retraced."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.betas = beta_table(config.kl_anneal_type, config.num_epoch, config.kl_anneal_cycle, config.kl_anneal_ratio,
                                config.kl_anneal_start)

    def on_epoch_begin(self, epoch, logs=None):
        c = self.config
        self.model.epoch.assign(epoch)
        self.model.beta.assign(self.betas[epoch])
        self.model.teacher_forcing_ratio.assign(teacher_forcing_ratio(epoch, c.tfr, c.tfr_sde, c.tfr_d_step))


class StopWhenNotFinite(keras.callbacks.Callback):
    """End the training after ``limit`` updates in a row were skipped, because no later one would succeed either.

    The last update before them may have done the damage: checkpoints that hold it are removed. Those before it are
    good, since a finite loss came out of them.

    Args:
        clips: the run's `Clips`, which know the names of a batch's frames.
        store: the run's `CheckpointFolder`.
    """

    def __init__(self, clips, store, limit=20):
        super().__init__()
        self.clips, self.store, self.limit = clips, store, limit

    def on_train_batch_end(self, batch, logs=None):
        if int(self.model.skipped_in_a_row) < self.limit:
            return
        last = int(self.model.steps)
        self.store.remove_from(last - self.limit)
        raise InputError(f"the loss or its gradient was not finite in {self.limit} steps in a row, the last of them "
                         f"step {last} at learning rate {logs['lr']:.3g} and beta {logs['beta']:.3g} on the clips "
                         f"{', '.join(self.clips.names(last - 1))}; lower --lr, or look for damaged frames")


class Validation(keras.callbacks.Callback):
    """Free running over the whole validation clip, with z from the prior and, under its own name, from the posterior.

    Adds ``val_psnr_prior``, ``val_psnr_posterior`` and ``val_psnr_copy_first`` to the logs: means over frames 1 to T-1
    of the per-frame PSNR in dB. Writes the GIF (truth, pose, prediction) and the PSNR-per-frame curve.

    Args:
        frames, poses: (T, H, W, 3) float32 in [0, 1].
        config, folders: of the run.
        keep_best: called with no argument whenever ``val_psnr_prior`` is the highest so far, or the exported model
            is missing.

    Attributes:
        best: the highest ``val_psnr_prior`` so far, in dB.
        step: after which it was validated last.
    """

    SEED = (0, 0)  # of the latents: the same at every validation, so that epochs compare

    def __init__(self, frames, poses, config, folders, keep_best):
        super().__init__()
        self.frames, self.poses, self.config, self.folders = frames, poses, config, folders
        self.keep_best = keep_best
        self.best, self.step = -np.inf, None
        first = np.broadcast_to(frames[:1], frames[1:].shape)
        self.copy_first = psnr_per_frame(frames[1:], first)
        self._generate = self._reconstruct = None

    def on_epoch_end(self, epoch, logs=None):
        last = epoch + 1 == self.config.num_epoch
        if last or (epoch + 1) % self.config.val_every == 0:
            logs |= self.validate(epoch)

    def validate(self, epoch):
        """Validate now, as after ``epoch``; returns the three numbers by name."""
        if self._generate is None:
            self._generate = tf.function(self.model.generate)
            self._reconstruct = tf.function(self.model.reconstruct)
        seed = tf.constant(self.SEED)
        frames, poses = tf.constant(self.frames[None]), tf.constant(self.poses[None])
        prediction = self._generate(frames[:, 0], poses[:, 1:], seed)[0].numpy()
        posterior, *_ = self._reconstruct(frames, poses, seed)
        curves = {"prior": psnr_per_frame(self.frames[1:], prediction),
                  "posterior": psnr_per_frame(self.frames[1:], posterior[0].numpy()),
                  "copy-first": self.copy_first}
        self._show(epoch, prediction, curves)
        scores = {f"val_psnr_{name.replace('-', '_')}": float(curve.mean()) for name, curve in curves.items()}
        self.step = int(self.model.steps)
        if scores["val_psnr_prior"] > self.best or not self.folders.export.exists():
            self.best = scores["val_psnr_prior"]
            write_csv(self.folders.psnr_per_frame, *psnr_table(curves))
            self.keep_best()
        return scores

    def _show(self, epoch, prediction, curves):
        path = self.folders.sample(epoch + 1)
        write_gif(path, to_uint8(side_by_side(self.frames[1:], self.poses[1:], prediction)), scale=2)
        height, width = self.frames.shape[1:3]
        with tf.summary.create_file_writer(str(self.folders.tensorboard / "validation")).as_default():
            _write_image("free_running", path.read_bytes(), 2 * height, 2 * (3 * width + 2), epoch)
            _write_image("psnr_per_frame", psnr_per_frame_png(curves, f"Validation after epoch {epoch + 1}"), 374, 880,
                         epoch)


def _write_image(tag, data, height, width, step):
    """Hand an encoded image (PNG or animated GIF) to TensorBoard; `tf.summary.image` would decode and re-encode it."""
    plugin = tf.compat.v1.SummaryMetadata.PluginData(plugin_name="images")
    tf.summary.write(tag, tf.constant([str(width).encode(), str(height).encode(), data]), step=step,
                     metadata=tf.compat.v1.SummaryMetadata(plugin_data=plugin))


class Progress(keras.callbacks.ProgbarLogger):
    """Keras's progress bar with the three terms of the loss alone, so that it fits a line."""

    SHOWN = ("loss", "mse", "kl")

    def on_train_batch_end(self, batch, logs=None):
        super().on_train_batch_end(batch, {name: logs[name] for name in self.SHOWN})

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, {name: logs[name] for name in self.SHOWN})


class EpochRecord(keras.callbacks.Callback):
    """A row of ``metrics.csv`` and a readable line in the terminal for each completed epoch.

    "Latent unused" in that line means less than 0.01 nats a frame: the posterior has collapsed to the prior.

    Attributes:
        rows: those so far, lists of text in the order of `COLUMNS`. `Checkpoints` keeps them too: the file is only
            ever written.
    """

    def __init__(self, config, path):
        super().__init__()
        self.config, self.path = config, path
        self.rows = []

    def on_epoch_begin(self, epoch, logs=None):
        self.began = time.monotonic()

    def on_epoch_end(self, epoch, logs=None):
        values = {name: _number(value) for name, value in logs.items()} | {
            "epoch": epoch, "seconds": round(time.monotonic() - self.began, 2)}
        self.rows.append([str(values.get(name, "")) for name in COLUMNS])
        write_csv(self.path, COLUMNS, self.rows)
        unused = values["kl"] / (self.config.train_vi_len - 1) < COLLAPSED
        line = (f"epoch {epoch + 1}/{self.config.num_epoch}: loss {values['loss']:.4f} = mse {values['mse']:.4f} + "
                + (f"{self.config.gdl:.3g} x gd {values['gd']:.4f} + " if self.config.gdl else "")
                + f"{values['beta']:.3g} x kl {values['kl']:.4g}" + (" (latent unused)" if unused else "")
                + f", tfr {values['tfr']:.2f}, lr {values['lr']:.2e}")
        if "val_psnr_prior" in values:
            line += (f"; validation {values['val_psnr_prior']:.2f} dB (posterior {values['val_psnr_posterior']:.2f}, "
                     f"copy-first {values['val_psnr_copy_first']:.2f})")
        if values["skipped"]:
            line += f"; {values['skipped']:.0f} updates skipped so far"
        print(line, flush=True)


def _number(value):
    """A float with as few digits as give the same float32: what the model computed, without noise digits."""
    return float(str(np.float32(value)))


class Checkpoints(keras.callbacks.Callback):
    """Save everything that the run's future depends on: after an epoch, each few minutes, and on stopping.

    Epochs shorter than ten seconds share a checkpoint, which would else take longer than they do. Nothing is saved
    while updates are being skipped, since the state may be what makes them fail.

    Kept: weights, optimiser, step, schedules' values, the means of the epoch in progress, the best validation, the rows
    of the metrics, and what the footage was. The order of clips and all noise are functions of the seed and the step,
    so a restored run continues as if it had never stopped.

    Args:
        model: built and compiled, its optimiser built.
        clips: the run's `Clips`.
        store: the run's `CheckpointFolder`.
        validation: the run's `Validation`.
        record: the run's `EpochRecord`.
        footage: checksums of the training and the validation footage.
        stop: the run's `StopRequest`.
        keep_last: called with no argument when all is trained, before that is on record.
        check: called with no argument before anything is saved.
        minutes: between checkpoints within an epoch.

    Raises:
        Stopped: between two steps, when ``stop`` is due and everything is saved.
    """

    def __init__(self, model, clips, store, validation, record, footage, stop, keep_last, check, minutes):
        super().__init__()
        self.clips, self.store, self.validation, self.record, self.stop = clips, store, validation, record, stop
        self.footage, self.keep_last, self.check = footage, keep_last, check
        self.kept = -1  # the step of which `keep_last` has kept the model
        self.means = [variable for mean in model.means.values() for variable in mean.variables]
        self.variables = [*model.variables, *model.optimizer.variables, *self.means]
        self.interval = 60 * minutes
        self.saved = time.monotonic()
        self.resumed_means = None
        self.steps, self.skipped_in_a_row = model.steps, model.skipped_in_a_row

    def _state(self):
        # Known by number: Keras's names count up within a process.
        return {f"v{i:04d}": variable.numpy() for i, variable in enumerate(self.variables)} | {
            "best": np.float64(self.validation.best), "kept": np.int64(self.kept), "footage": np.array(self.footage),
            "sequences": np.array(self.clips.footage.sequences), "rows": np.array(self.record.rows, str)}

    def restore(self):
        """Restore the newest good checkpoint, if any; returns the number of steps done.

        Raises:
            InputError: no checkpoint can be read, or it is of another network or of other footage.
        """
        step, saved = self.store.load()
        if saved is None:
            return 0
        state = self._state()
        if not np.array_equal(saved.get("sequences"), state["sequences"]):
            raise InputError(f"{self.store.path}: the training frames are not as many or not cut as when this run was "
                             "begun; put them back, or start over with --fresh")
        shapes, saved_shapes = ({name: value.shape for name, value in arrays.items() if name != "rows"}
                                for arrays in (state, saved))
        if shapes != saved_shapes:
            raise InputError(f"{self.store.path}: the checkpoint at step {step} is of another network or version of "
                             "this program; start over with --fresh")
        for i, variable in enumerate(self.variables):
            variable.assign(saved[f"v{i:04d}"])
        self.validation.best, self.kept, self.record.rows = saved["best"].item(), saved["kept"], saved["rows"].tolist()
        if saved["footage"].tolist() != list(self.footage):
            print("the frames are not those that this run was begun with, so it does not continue exactly", flush=True)
        if self._within_epoch():
            self.resumed_means = [mean.numpy() for mean in self.means]
        return int(self.steps)

    def _within_epoch(self):
        steps = int(self.steps)
        return steps > self.clips.first_step(self.clips.epoch_of(steps))

    def on_epoch_begin(self, epoch, logs=None):
        if self.resumed_means:  # Keras has just reset them
            for mean, value in zip(self.means, self.resumed_means, strict=True):
                mean.assign(value)
            self.resumed_means = None

    def on_train_batch_end(self, batch, logs=None):
        if not self._within_epoch():  # the epoch's end comes first: its validation, its row
            return
        due = self.stop.due()
        if due or time.monotonic() - self.saved >= self.interval:
            self.save()
        if due:
            raise Stopped

    def on_epoch_end(self, epoch, logs=None):
        last, due = epoch + 1 == self.validation.config.num_epoch, self.stop.due()
        if last:
            self.keep()
        if last or due or time.monotonic() - self.saved >= min(10, self.interval):
            self.save()
        if due and not last:
            raise Stopped

    def keep(self):
        """Call ``keep_last`` now, and remember of which step."""
        self.keep_last()
        self.kept = int(self.steps)

    def finish_early(self):
        """Validate the state in which time was up, where that was not just done, and keep it."""
        if self.validation.step != int(self.steps):
            self.validation.validate(self.clips.epoch_of(int(self.steps) - 1))
        self.keep()
        self.save()

    def save_within_epoch(self):
        """Save, unless an epoch's end is still to come, which would then be lost."""
        if self._within_epoch():
            self.save()

    def save(self):
        """Save now, unless updates are being skipped."""
        if int(self.skipped_in_a_row) == 0:
            self.check()
            self.store.save(int(self.steps), self._state())
        self.saved = time.monotonic()
