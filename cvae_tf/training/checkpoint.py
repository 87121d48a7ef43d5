"""Checkpoints on disk: one file each, written whole, checked on reading; the newest good one counts.

A checkpoint is a ``.npz`` file of plain arrays, named by the number of steps done. Each array in it carries a CRC-32,
which is compared on reading; nothing is unpickled.
"""

import os
import re
from pathlib import Path

import numpy as np

from cvae_tf.errors import InputError
from cvae_tf.files import atomic


class CheckpointFolder:
    """The checkpoints in ``path``, of which the newest ``keep`` are kept."""

    def __init__(self, path, keep=3):
        self.path, self.keep = Path(path), keep

    def files(self):
        """Number of steps -> file, the newest first."""
        found = {name: re.fullmatch(r"step_(\d+)\.npz", name) for name in self._names()}
        return dict(sorted(((int(match[1]), self.path / name) for name, match in found.items() if match), reverse=True))

    def _names(self):
        return os.listdir(self.path) if self.path.exists() else []  # unlike `glob`, tells if it may not be read

    def save(self, step, arrays):
        """Write ``arrays``, a dict by name, as the checkpoint after ``step`` steps.

        Raises:
            InputError: it cannot be written; the older ones are untouched.
        """
        with atomic(self.path / f"step_{step:08d}.npz") as unfinished, open(unfinished, "wb") as stream:
            np.savez(stream, **arrays, names=np.array(list(arrays)))
        for path in [path for number, path in self.files().items() if number <= step][self.keep:]:
            path.unlink(missing_ok=True)

    def load(self):
        """The newest good checkpoint; of each damaged one that is newer, a line tells.

        Returns:
            ``(step, arrays)``; ``(0, None)`` where there is no checkpoint at all.

        Raises:
            InputError: there are checkpoints, but none can be read.
        """
        damaged = [name for name in self._names() if re.fullmatch(r"ckpt-\d+\.index", name)]  # of an earlier version
        for step, path in self.files().items():
            try:
                with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as content:
                    arrays = {name: content[name] for name in content["names"].tolist()}
            except Exception as error:  # whatever damaged bytes make NumPy raise
                print(f"{path}: damaged ({str(error) or type(error).__name__}), so not used", flush=True)
                damaged.append(path)
                continue
            return step, arrays
        if damaged:
            raise InputError(f"{self.path}: none of the {len(damaged)} checkpoints there can be read; put a good one "
                             "back, or start over with --fresh, which keeps this run under another name")
        return 0, None

    def remove_from(self, step):
        """Remove the checkpoints after ``step`` and more steps."""
        for number, path in self.files().items():
            if number >= step:
                path.unlink(missing_ok=True)
