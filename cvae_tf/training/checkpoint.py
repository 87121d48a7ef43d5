"""Checkpoints: what a run needs to continue exactly, by name, in one file that is checked on reading.

A checkpoint is a ``.npz`` file of plain arrays; its name holds the number of steps done. Reading compares the CRC-32 of
each array and unpickles nothing. The arrays are:

- ``network/PATH``: weights, by the path of `Network.named_weights`; ``model/NAME``: counters and scheduled values
- ``means/NAME/...``: running means of the epoch in progress
- ``optimizer/NAME`` and ``optimizer/NAME/PATH``: scalars, and one array for each trainable weight
- ``run/NAME``: the fields of `RunState`

The order of the clips and all noise are functions of the seed and the step, so no generator state is needed.
"""

import dataclasses
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cvae_tf.errors import InputError, say
from cvae_tf.files import atomic, plain

SCALARS = ("beta", "teacher_forcing_ratio", "epoch", "steps", "skipped", "skipped_in_a_row")  # variables of a CVAE


@dataclass
class RunState:
    """What a run remembers besides the variables of its model.

    Attributes:
        footage: checksums of the training and the validation footage.
        sequences: (start, length) of each uncut sequence of the training footage.
        environment: what decides the last bits of the run beside its settings: texts by name.
        best: the highest ``val_psnr_prior`` so far, in dB.
        rows: the rows of ``metrics.csv``, lists of text.
        seconds: training time of the epoch in progress.
        last_model_step: number of steps after which the last model was exported; -1: never.
    """

    footage: tuple
    sequences: tuple
    environment: dict = field(default_factory=dict)
    best: float = -np.inf
    rows: list = field(default_factory=list)
    seconds: float = 0.0
    last_model_step: int = -1

    def arrays(self):
        """The fields as arrays by name."""
        values = {spec.name: getattr(self, spec.name) for spec in dataclasses.fields(self)}
        values["environment"] = [f"{name} {value}" for name, value in self.environment.items()]
        return {f"run/{name}": np.array(value, str if name in ("rows", "environment") else None)
                for name, value in values.items()}

    def restore(self, saved):
        """Take over what a checkpoint remembers; a line says where, and why, the run does not continue exactly."""
        before, now = ({name: array.ravel().tolist() for name, array in arrays.items() if name.startswith("run/")}
                       for arrays in (saved, self.arrays()))
        for name in ("best", "rows", "seconds", "last_model_step"):
            setattr(self, name, saved[f"run/{name}"].tolist())
        if before["run/footage"][:1] != now["run/footage"][:1]:
            say("the training frames are not those that this run was begun with, so it does not continue exactly")
        if before["run/footage"][1:] != now["run/footage"][1:]:
            say("the validation frames are not those of before: the best score so far does not count any more, and the "
                "best model is chosen anew")
            self.best = -np.inf
        was, now = before["run/environment"], now["run/environment"]
        if was != now:
            was, now = (", ".join(x for x in a if x not in b) for a, b in ((was, now), (now, was)))
            say(f"this run was trained with {was} so far, and now with {now}: it continues, but not to the bit")


def named_variables(model):
    """All variables that training changes, by a name that does not depend on the order in which layers were made.

    Args:
        model: a compiled `CVAE` with a built optimizer.

    Returns:
        A dict from name to Keras variable.

    Raises:
        ValueError: the model or the optimizer has a variable to which no name can be given.
    """
    weights = model.network.named_weights()
    found = {f"network/{path}": weight for path, weight in weights.items()}
    found |= {f"model/{name}": getattr(model, name) for name in SCALARS}
    _check_complete(found, model.weights, "model")
    for name, mean in model.means.items():
        found |= {f"means/{name}/total": mean.total, f"means/{name}/count": mean.count}
    paths = {id(weight): path for path, weight in weights.items()}
    trainable = [paths[id(weight)] for weight in model.trainable_variables]
    return found | _optimizer_variables(model.optimizer, trainable, "optimizer")


def _optimizer_variables(optimizer, paths, prefix):
    """Variables of an optimizer by attribute, and in lists with one for each trainable weight also by its path."""
    own, found = {id(variable) for variable in optimizer.variables}, {}
    for attribute, value in vars(optimizer).items():
        name = f"{prefix}/{attribute.lstrip('_')}"
        if attribute == "inner_optimizer":
            found |= _optimizer_variables(value, paths, name)
        elif id(value) in own:
            found[name] = value
        elif isinstance(value, list) and len(value) == len(paths) and attribute != "_variables":
            found |= {f"{name}/{path}": slot for path, slot in zip(paths, value, strict=True) if id(slot) in own}
    _check_complete(found, optimizer.variables, type(optimizer).__name__)
    return found


def _check_complete(found, variables, owner):
    named = {id(variable) for variable in found.values()}
    unnamed = [variable.path for variable in variables if id(variable) not in named]
    if unnamed:
        raise ValueError(f"checkpoints need a name for each variable; {owner} has {', '.join(unnamed)} without one")


class CheckpointFolder:
    """The checkpoints in ``path``, of which the newest ``keep`` are kept."""

    def __init__(self, path, keep=3):
        self.path, self.keep = Path(path), keep

    def files(self):
        """Number of steps -> file, the newest first."""
        names = os.listdir(self.path) if self.path.exists() else []  # unlike `glob`, fails where it may not be read
        found = [re.fullmatch(r"step_(\d+)\.npz", name) for name in names]
        return dict(sorted(((int(match[1]), self.path / match[0]) for match in found if match), reverse=True))

    def save(self, step, arrays):
        """Write ``arrays``, a dict by name, as the checkpoint after ``step`` steps.

        Raises:
            InputError: it cannot be written; the older checkpoints are untouched.
        """
        with atomic(self.path / f"step_{step:08d}.npz") as unfinished, open(unfinished, "wb") as stream:
            np.savez(stream, **arrays, names=np.array(list(arrays)))
        for path in [path for number, path in self.files().items() if number <= step][self.keep:]:
            path.unlink(missing_ok=True)

    def load(self):
        """Read the newest undamaged checkpoint; prints a line for each damaged one that is newer.

        Returns:
            ``(step, arrays)``; ``(0, None)`` if there is no checkpoint at all.

        Raises:
            InputError: there are checkpoints, but none can be read.
        """
        files = self.files()
        for step, path in files.items():
            try:
                with open(plain(path), "rb") as stream, np.load(stream, allow_pickle=False) as content:
                    arrays = {name: content[name] for name in content["names"].tolist()}
                for array in arrays.values():
                    if array.dtype.kind == "U":  # in place of what is no array, NumPy has bytes, without a dtype
                        array.tolist()  # fails for what is no text
                return step, arrays
            except Exception as error:  # whatever damaged bytes make NumPy raise
                say(f"{path}: damaged ({str(error) or type(error).__name__}), so not used")
        files |= dict(enumerate(self.path.glob("ckpt-*.index")))  # written by the first versions of this program
        if files:
            raise InputError(f"{self.path}: none of the {len(files)} checkpoints there can be read; put a good one "
                             "back, or start over with --fresh, which keeps this run under another name")
        return 0, None

    def remove_from(self, step):
        """Remove the checkpoints after ``step`` and more steps."""
        for number, path in self.files().items():
            if number >= step:
                path.unlink(missing_ok=True)

    def save_run(self, model, state):
        """Save the variables of ``model`` and the `RunState`."""
        arrays = {name: variable.numpy() for name, variable in named_variables(model).items()}
        self.save(int(model.steps), arrays | state.arrays())

    def restore_run(self, model, state):
        """Restore ``model`` and ``state`` from the newest undamaged checkpoint, if there is one.

        Returns:
            The number of steps done.

        Raises:
            InputError: no checkpoint can be read, or it belongs to another network or to other footage.
        """
        step, saved = self.load()
        if saved is None:
            return 0
        variables, own = named_variables(model), state.arrays()
        saved.setdefault("run/environment", own["run/environment"])  # which checkpoints did not always have
        if saved.keys() != variables.keys() | own.keys() or not all(
                (saved[name].shape, saved[name].dtype.name) == (tuple(variable.shape), variable.dtype)
                for name, variable in variables.items()) or not all(
                saved[name].dtype.kind == value.dtype.kind and saved[name].ndim in (value.ndim, 2 * value.ndim)
                for name, value in own.items()):  # the rows have no second axis while there is none
            raise InputError(f"{self.path}: the checkpoint at step {step} is of another network or version of this "
                             "program; start over with --fresh")
        if not np.array_equal(saved["run/sequences"], own["run/sequences"]):
            raise InputError(f"{self.path}: the training frames are not as many or not cut as when this run was begun; "
                             "put them back, or start over with --fresh")
        for name, variable in variables.items():
            variable.assign(saved[name])
        state.restore(saved)
        return step
