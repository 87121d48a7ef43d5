"""Checkpoints: everything that a run needs to continue exactly, in one file that is verified on reading.

A checkpoint is a ``.npz`` file of plain arrays; its name holds the number of steps done. Reading verifies the CRC-32 of
each array and unpickles nothing. The arrays are:

- ``network/PATH``: weights, by their path from `Network.named_weights`
- ``model/NAME``: counters and scheduled values of the `CVAE`
- ``means/NAME/...``: running means of the epoch in progress
- ``optimizer/NAME``: scalars of the optimizer; ``optimizer/NAME/PATH``: its arrays, one for each trainable weight
- ``run/NAME``: the fields of `RunState`

The order of the clips and all noise are functions of the seed and the step, so no random-generator state is saved.
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
        environment: properties of machine and software that affect the last bits of the results (name -> text), from
            `build.environment`.
        best: the highest ``val_psnr_prior`` so far, in dB.
        rows: the rows of ``metrics.csv``, each a list of texts.
        seconds: training time so far of the epoch in progress.
        last_model_step: number of steps done when the last model was exported; -1: never exported.
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
        """Restore the fields from a checkpoint; print a line if, and why, the run does not continue exactly."""
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
    """All variables that training changes, under names that do not depend on the order in which layers were made.

    Args:
        model: a compiled `CVAE` with a built optimizer.

    Returns:
        A dict from name to Keras variable.

    Raises:
        ValueError: the model or the optimizer has a variable that cannot be named.
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
    """Optimizer variables by attribute name; those in lists, one per trainable weight, also by the weight's path."""
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
    """The checkpoints in the folder ``path``. Saving keeps only the newest ``keep`` of them."""

    def __init__(self, path, keep=3):
        self.path, self.keep = Path(path), keep

    def files(self):
        """A dict from number of steps to path, newest checkpoint first."""
        names = os.listdir(self.path) if self.path.exists() else []  # unlike `glob`, fails on an unreadable folder
        found = [re.fullmatch(r"step_(\d+)\.npz", name) for name in names]
        return dict(sorted(((int(match[1]), self.path / match[0]) for match in found if match), reverse=True))

    def save(self, step, arrays):
        """Write ``arrays``, a dict by name, as the checkpoint after ``step`` steps.

        Raises:
            InputError: the checkpoint cannot be written; older checkpoints are unchanged.
        """
        with atomic(self.path / f"step_{step:08d}.npz") as unfinished, open(unfinished, "wb") as stream:
            np.savez(stream, **arrays, names=np.array(list(arrays)))
        for path in [path for number, path in self.files().items() if number <= step][self.keep:]:
            path.unlink(missing_ok=True)

    def load(self):
        """Read the newest undamaged checkpoint, and print a line for each newer but damaged one.

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
                    if array.dtype.kind == "U":  # for a damaged entry NumPy returns bytes, which have no dtype
                        array.tolist()  # fails for invalid text
                return step, arrays
            except Exception as error:  # damaged bytes make NumPy raise various errors
                say(f"{path}: damaged ({str(error) or type(error).__name__}), so not used")
        files |= dict(enumerate(self.path.glob("ckpt-*.index")))  # written by the first versions of this program
        if files:
            raise InputError(f"{self.path}: none of the {len(files)} checkpoints there can be read; put a good one "
                             "back, or start over with --fresh, which keeps this run under another name")
        return 0, None

    def remove_from(self, step):
        """Remove all checkpoints taken after ``step`` or more steps."""
        for number, path in self.files().items():
            if number >= step:
                path.unlink(missing_ok=True)

    def save_run(self, model, state):
        """Save the variables of ``model`` and the `RunState` ``state``."""
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
        saved.setdefault("run/environment", own["run/environment"])  # missing in checkpoints of early versions
        if saved.keys() != variables.keys() | own.keys() or not all(
                (saved[name].shape, saved[name].dtype.name) == (tuple(variable.shape), variable.dtype)
                for name, variable in variables.items()) or not all(
                saved[name].dtype.kind == value.dtype.kind and saved[name].ndim in (value.ndim, 2 * value.ndim)
                for name, value in own.items()):  # an empty table of rows has no second axis
            raise InputError(f"{self.path}: the checkpoint at step {step} is of another network or version of this "
                             "program; start over with --fresh")
        if not np.array_equal(saved["run/sequences"], own["run/sequences"]):
            raise InputError(f"{self.path}: the training frames are not as many or not cut as when this run was begun; "
                             "put them back, or start over with --fresh")
        for name, variable in variables.items():
            variable.assign(saved[name])
        state.restore(saved)
        return step
