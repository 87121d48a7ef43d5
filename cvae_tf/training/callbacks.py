"""Keras callbacks of a training run: schedules, validation, records, checkpoints, and reasons to stop.

`EpochSchedules` works in any ``model.fit`` of a `CVAE`. The others belong to `loop.train`. A callback may add
entries to ``logs``; the callbacks after it in the list receive them.
"""

import time
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf

from cvae_tf.data.film import side_by_side, to_uint8, write_gif
from cvae_tf.data.images import to_float
from cvae_tf.errors import InputError
from cvae_tf.evaluation.metrics import psnr_per_frame
from cvae_tf.evaluation.tables import psnr_table
from cvae_tf.files import write_csv
from cvae_tf.training.run import Stopped

COLUMNS = ("epoch", "loss", "mse", "kl", "beta", "tfr", "lr", "grad_norm", "val_psnr_prior", "val_psnr_posterior",
           "val_psnr_copy_first", "skipped", "seconds", "gd")


Schedule = Sequence[float] | Callable[[int], float]


class EpochSchedules(keras.callbacks.Callback):
    """Set the KL weight and the teacher-forcing ratio of a `CVAE` at the start of each epoch.

    It also gives the model the epoch number, which ``teacher_forcing_draw="epoch"`` uses for its random draws. No graph
    is retraced. Example::

        model.fit(clips, epochs=20, callbacks=[cvae_tf.EpochSchedules(
            beta=cyclical(20, cycles=4, stop=1e-3), teacher_forcing=linear_decay(1.0, first_epoch=5, step=0.1))])

    Args:
        beta: non-negative KL weight: a sequence with one value per epoch, or a function from the epoch (0, 1, ...) to
            the value; None keeps the model's own. After the end of a sequence, its last value is used.
        teacher_forcing: teacher-forcing ratio in [0, 1], given like ``beta``.

    Raises:
        ValueError: a sequence is empty; or, when the epoch begins, a value is out of its range.
    """

    def __init__(self, beta: Schedule | None = None, teacher_forcing: Schedule | None = None):
        super().__init__()
        self.beta = _as_function("beta", beta, float("inf"))
        self.teacher_forcing = _as_function("teacher_forcing", teacher_forcing, 1.0)

    def on_epoch_begin(self, epoch, logs=None):
        self.model.epoch.assign(epoch)
        if self.beta:
            self.model.beta.assign(self.beta(epoch))
        if self.teacher_forcing:
            self.model.teacher_forcing_ratio.assign(self.teacher_forcing(epoch))


def _as_function(name, schedule, highest):
    """Turn a schedule (a sequence or a function) into a function of the epoch that checks the range of its values."""
    if schedule is None:
        return None
    if not callable(schedule):
        table = [float(value) for value in schedule]
        if not table:
            raise ValueError(f"{name} must hold a value for at least one epoch, received an empty sequence")

    def value(epoch):
        found = float(schedule(epoch) if callable(schedule) else table[min(epoch, len(table) - 1)])
        if not 0 <= found <= highest:
            raise ValueError(f"{name} must be from 0 to {highest:g}, received {found:g} for epoch {epoch}")
        return found

    return value


class StopWhenNotFinite(keras.callbacks.Callback):
    """End the training once ``limit`` updates in a row have been skipped, since no later update would succeed either.

    The last update before the skipped ones may have caused the failure, so checkpoints that contain it are removed.
    Earlier checkpoints are good, because the step after each of them had a finite loss.

    Args:
        names: function from a step (0, 1, ...) to the names of the clips in its batch.
        store: the run's `CheckpointFolder`.
        limit: number of updates skipped in a row that ends the training.

    Raises:
        InputError: the limit is reached.
    """

    def __init__(self, names, store, limit=20):
        super().__init__()
        self.names, self.store, self.limit = names, store, limit

    def on_train_batch_end(self, batch, logs=None):
        if int(self.model.skipped_in_a_row) < self.limit:
            return
        last = int(self.model.steps)
        self.store.remove_from(last - self.limit)
        raise InputError(f"the loss or its gradient was not finite in {self.limit} steps in a row, the last of them "
                         f"step {last} at learning rate {logs['lr']:.3g} and beta {logs['beta']:.3g} on the clips "
                         f"{', '.join(self.names(last - 1))}; lower --lr, or look for damaged frames")


class Validation(keras.callbacks.Callback):
    """Run freely over the whole validation clip, once with z from the prior and once with z from the posterior.

    Adds ``val_psnr_prior``, ``val_psnr_posterior`` and ``val_psnr_copy_first`` to the logs: means over frames 1 to T-1
    of the PSNR in dB. It also writes a GIF (truth, pose, prediction) and curves of the PSNR per frame.

    Args:
        clip: ``(frames, poses)``, each (T, H, W, 3) uint8.
        epochs: set of epochs after which to validate, counted from 0.
        folders: the run's `RunFolders`.
        state: the run's `RunState`, whose ``best`` is updated.
        keep_best: called without arguments when ``val_psnr_prior`` is the highest so far, or when the exported model is
            missing.
        stop: the run's `StopRequest`, which records the duration of each validation.
        board: the run's `Board`, which shows the film and the curves.

    Attributes:
        copy_first: (T-1,) float64, PSNR per frame in dB of the repeated first frame.
        step: number of steps after which the last validation took place, or None.
    """

    SEED = (0, 0)  # seed of the latents, equal at every validation so that epochs are comparable

    def __init__(self, clip, epochs, folders, state, keep_best, stop, board):
        super().__init__()
        self.frames, self.poses = clip
        self.truth = to_float(self.frames[1:])
        self.epochs, self.folders, self.state, self.keep_best, self.stop = epochs, folders, state, keep_best, stop
        self.copy_first = psnr_per_frame(self.truth, np.broadcast_to(to_float(self.frames[:1]), self.truth.shape))
        self.board, self.step = board, None
        self._generate = self._reconstruct = None

    def on_epoch_end(self, epoch, logs=None):
        if epoch in self.epochs:
            logs |= self.validate(epoch)

    def validate(self, epoch):
        """Validate now, as if after ``epoch``; return the three mean PSNRs in dB by name."""
        with self.stop.timing("validation"):
            prediction, posterior = self._run_freely(len(self.frames))
            curves = {"prior": psnr_per_frame(self.truth, prediction),
                      "posterior": psnr_per_frame(self.truth, posterior), "copy-first": self.copy_first}
            self._show(epoch, prediction, curves)
        scores = {f"val_psnr_{name.replace('-', '_')}": float(curve.mean()) for name, curve in curves.items()}
        self.step = int(self.model.steps)
        if scores["val_psnr_prior"] > self.state.best or not self.folders.export.exists():
            self.state.best = scores["val_psnr_prior"]
            write_csv(self.folders.psnr_per_frame, *psnr_table(curves))
            self.keep_best()
        return scores

    def estimate(self):
        """Estimate the durations of a validation and an export for ``stop``, before the first validation.

        Both include tracing graphs; an export traces more of them. The time for tracing is the difference between a
        first and a second run over the first frames of the clip.
        """
        few, took = min(33, len(self.frames)), []
        for _ in range(2):
            began = time.monotonic()
            self._run_freely(few)
            took.append(time.monotonic() - began)
        tracing = max(0, took[0] - took[1])
        self.stop.took = {"validation": tracing + took[1] * len(self.frames) / few, "export": 1.5 * tracing}

    def _run_freely(self, length):
        """Predict frames 1 to ``length - 1`` of the clip, with z from the prior and with z from the posterior."""
        if self._generate is None:
            self._generate, self._reconstruct = tf.function(self.model.generate), tf.function(self.model.reconstruct)
        seed = tf.constant(self.SEED)
        frames, poses = tf.constant(self.frames[None, :length]), tf.constant(self.poses[None, :length])
        prediction = self._generate(frames[:, 0], poses[:, 1:], seed)[0].numpy()
        return prediction, self._reconstruct(frames, poses, seed)[0][0].numpy()

    def _show(self, epoch, prediction, curves):
        path = self.folders.sample(epoch + 1)
        write_gif(path, side_by_side(self.frames[1:], self.poses[1:], to_uint8(prediction)), scale=2)
        height, width = self.frames.shape[1:3]
        self.board.show(epoch, path.read_bytes(), (2 * height, 2 * (3 * width + 2)), curves)


class EpochRecord(keras.callbacks.Callback):
    """Write a row to ``metrics.csv`` after each completed epoch.

    Args:
        path: path of ``metrics.csv``. The file is only written, never read.
        state: the run's `RunState`, whose ``rows`` (text, in the order of `COLUMNS`) and ``seconds`` are updated.
    """

    def __init__(self, path, state):
        super().__init__()
        self.path, self.state = path, state

    def on_epoch_begin(self, epoch, logs=None):
        self.began = time.monotonic() - self.state.seconds  # minus the seconds before the interruption

    def on_train_batch_end(self, batch, logs=None):
        self.state.seconds = time.monotonic() - self.began

    def on_epoch_end(self, epoch, logs=None):
        values = {name: _shortest(value) for name, value in logs.items()} | {
            "epoch": epoch, "seconds": round(time.monotonic() - self.began, 2)}
        self.state.seconds = 0.0
        self.state.rows.append([str(values.get(name, "")) for name in COLUMNS])
        write_csv(self.path, COLUMNS, self.state.rows)


def _shortest(value):
    """Format a float with the fewest digits that still give the same float32, the precision of the model."""
    return float(str(np.float32(value)))


class Checkpoints(keras.callbacks.Callback):
    """Save the run after an epoch, every few minutes within an epoch, and before the run stops.

    Several epochs shorter than ten seconds share a checkpoint, since saving could take longer than training. Nothing is
    saved between the last step of an epoch and its validation, nor while updates are being skipped, because the state
    might be the cause.

    Args:
        store: the run's `CheckpointFolder`.
        state: the run's `RunState`.
        stop: the run's `StopRequest`.
        check: called without arguments before anything is saved.
        minutes: time between checkpoints within an epoch, in minutes.

    Raises:
        Stopped: after a step or an epoch, when ``stop`` is due. The run is saved first, unless updates are being
            skipped.
    """

    def __init__(self, store, state, stop, check, minutes):
        super().__init__()
        self.store, self.state, self.stop, self.check = store, state, stop, check
        self.interval = 60 * minutes
        self.saved = time.monotonic()
        self.batch = -1

    def within_epoch(self):
        """Whether training is inside an epoch: begun, with its last step still to come."""
        return 0 <= self.batch < self.params["steps"] - 1

    def on_train_begin(self, logs=None):
        # Keep the running means of an epoch that was saved half done; Keras resets them when the epoch begins.
        self.resumed = [(variable, variable.numpy()) for mean in self.model.means.values()
                        for variable in mean.variables]

    def on_epoch_begin(self, epoch, logs=None):
        for variable, value in self.resumed:
            variable.assign(value)
        self.resumed = []

    def on_train_batch_begin(self, batch, logs=None):
        self.batch = batch

    def on_train_batch_end(self, batch, logs=None):
        if not self.within_epoch():  # at the end of an epoch, its validation and its row come first
            return
        due = self.stop.due()
        if due or time.monotonic() - self.saved >= self.interval:
            self.save()
        if due:
            raise Stopped

    def on_epoch_end(self, epoch, logs=None):
        for mean in self.model.means.values():
            mean.reset_state()
        due = self.stop.due()
        if due or time.monotonic() - self.saved >= min(10, self.interval):
            self.save()
        if due:
            raise Stopped

    def save(self):
        """Save now, unless updates are being skipped."""
        if int(self.model.skipped_in_a_row) == 0:
            self.check()
            self.store.save_run(self.model, self.state)
        self.saved = time.monotonic()
