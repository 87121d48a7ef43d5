"""What a training run prints: a bar for the steps, a line for each epoch, and the paths of all results at the end."""

import shlex

import keras
import numpy as np


class Progress(keras.callbacks.ProgbarLogger):
    """Keras's progress bar with only the main terms of the loss, so that the bar fits on a line."""

    SHOWN = ("loss", "mse", "kl")

    def on_train_batch_end(self, batch, logs=None):
        super().on_train_batch_end(batch, {name: logs[name] for name in self.SHOWN})

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, {name: logs[name] for name in self.SHOWN})


class EpochLine(keras.callbacks.Callback):
    """Print a readable line after each completed epoch.

    Args:
        num_epoch: number of epochs in the run.
        gdl: weight of the gradient difference loss.
    """

    def __init__(self, num_epoch, gdl):
        super().__init__()
        self.num_epoch, self.gdl = num_epoch, gdl

    def on_epoch_end(self, epoch, logs=None):
        line = (f"epoch {epoch + 1}/{self.num_epoch}: loss {logs['loss']:.4f} = mse {logs['mse']:.4f} + "
                + (f"{self.gdl:.3g} x gd {logs['gd']:.4f} + " if self.gdl else "")
                + f"{logs['beta']:.3g} x kl {logs['kl']:.4g}, "
                + f"tfr {logs['tfr']:.2f}, lr {logs['lr']:.2e}")
        if "val_psnr_prior" in logs:
            line += (f"; validation {logs['val_psnr_prior']:.2f} dB (posterior {logs['val_psnr_posterior']:.2f}, "
                     f"copy-first {logs['val_psnr_copy_first']:.2f})")
        if logs["skipped"]:
            line += f"; {logs['skipped']:.0f} updates skipped so far"
        print(line, flush=True)


def report(result, folders, frames, last_step, seconds, command):
    """Print the scores of a `TrainingResult`, and the paths of its files."""
    exported, samples = folders.export.exists(), sorted(folders.samples.glob("*.gif"), key=lambda p: p.stat().st_mtime)
    print(f"""
{"Finished" if result.steps >= last_step else "Stopped by --max_minutes"} at step {result.steps} of {last_step} after \
{seconds / 60:.1f} minutes.
PSNR on the validation clip, free running over {frames} frames, z from the prior:
  best model  {f"{result.scores['best']:.2f} dB" if np.isfinite(result.scores["best"]) else "none yet"}
  copy-first  {result.scores["copy_first"]:.2f} dB (the first frame repeated)
GIF           {samples[-1] if samples else "none"}   (truth, pose, prediction)
TensorBoard   tensorboard --logdir {folders.tensorboard}
SavedModel    {folders.export if exported else "none"}   (the last one: {folders.last_model})
Next          python predict.py --model {shlex.quote(str(folders.export if exported else folders.last_model))}""")
    if result.steps < last_step:
        print(f"To continue   {command}")
