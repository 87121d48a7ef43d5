"""The files of the lab's PyTorch template: a dict with ``state_dict``, ``lr``, ``tfr`` and ``last_epoch``.

The only module that needs PyTorch, which is not among the project's requirements.
"""

import re
from numbers import Real

import numpy as np

from cvae_tf.errors import InputError
from cvae_tf.files import atomic


def import_pytorch():
    """PyTorch.

    Raises:
        InputError: it is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise InputError("the lab's checkpoints need PyTorch, which is not installed; pip install torch") from error
    return torch


def read_checkpoint(path):
    """Read a checkpoint; nothing in the file is executed.

    Returns:
        ``(state, settings)``: its ``state_dict``, name -> array, without the ``module.`` that DataParallel puts before
        each name; and those of ``lr``, ``tfr`` and ``last_epoch`` that are there and are numbers.

    Raises:
        InputError: PyTorch is missing, or the file is missing, damaged, no such checkpoint, or wants code to run.
    """
    torch = import_pytorch()
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        state = content.get("state_dict") if isinstance(content, dict) else None
        if isinstance(state, dict) and all(isinstance(value, torch.Tensor) for value in state.values()):
            state = {str(name).removeprefix("module."): _array(value) for name, value in state.items()}
        else:
            state = None
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except Exception as error:  # whatever a damaged or foreign file makes PyTorch raise
        raise InputError(f"{path}: not a checkpoint that can be read safely ({_reason(error)})") from error
    if not state:
        raise InputError(f"{path}: holds no state_dict of tensors; expected a checkpoint of the lab's template")
    settings = {name: content[name] for name in ("lr", "tfr", "last_epoch")
                if isinstance(content.get(name), Real) and abs(content[name]) < 1e300}
    return state, settings


def _array(tensor):
    tensor = tensor.detach()
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy()


def _reason(error):
    wanted = re.search(r"GLOBAL (\S+)", str(error))
    if wanted:
        return f"it wants to run {wanted[1]}"
    lines = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def write_checkpoint(path, state, lr, tfr, last_epoch):
    """Write a checkpoint that the template's Trainer and Tester load.

    Raises:
        InputError: PyTorch is missing, or the file cannot be written.
    """
    torch = import_pytorch()
    tensors = {name: torch.from_numpy(np.array(value)) for name, value in state.items()}
    with atomic(path) as unfinished, open(unfinished, "wb") as stream:
        torch.save({"state_dict": tensors, "lr": lr, "tfr": tfr, "last_epoch": last_epoch}, stream)
