"""The lab's PyTorch checkpoints: how its template names and lays out the weights of `LabNetwork`.

A checkpoint is a dict with ``state_dict``, ``lr``, ``tfr`` and ``last_epoch``. Names follow the template's modules,
whose parts are Sequentials: an activation or a padding counts in the numbering too. Only reading and writing the file
needs PyTorch, which is not among the project's requirements.
"""

import numpy as np

from cvae_tf.errors import InputError
from cvae_tf.files import atomic
from cvae_tf.lab_network import BatchNorm, ConvFFN, DepthConv, ResidualBlock

PARTS = {"frame_transformation": "frame_encoder", "label_transformation": "pose_encoder",
         "Gaussian_Predictor": "gaussian_predictor", "Decoder_Fusion": "decoder_fusion", "Generator": "generator"}
INNER = {ResidualBlock: (("conv1", "conv1"), ("conv2", "conv2"), ("skip", "skip")),
         DepthConv: (("block.0.conv1.0", "conv1"), ("block.0.depth_conv", "depth_conv"), ("block.0.conv2", "conv2"),
                     ("block.0.adaptor", "adaptor")),
         ConvFFN: (("block.1.conv", "conv"), ("block.1.conv_out", "conv_out"))}
# Where the template's numbering has a module that is no layer here: its LeakyReLU(True), the identity, and the padding.
SKIPPED = {"Gaussian_Predictor": 5}
COUNTER = "num_batches_tracked"


def _layers(network):
    """(name in the template, layer) of every convolution and normalisation."""
    for part, name in PARTS.items():
        module = getattr(network, name)
        if part == "label_transformation":
            yield from ((f"{part}.1", module.conv), (f"{part}.2", module.norm))
            yield from ((f"{part}.4.{theirs}", getattr(module.block, ours)) for theirs, ours in INNER[ResidualBlock])
            continue
        number = -1
        for block in module.blocks:
            number += not isinstance(block, ConvFFN)  # DepthConv and ConvFFN are one DepthConvBlock there
            number += number == SKIPPED.get(part)
            if type(block) in INNER:
                yield from ((f"{part}.{number}.{theirs}", getattr(block, ours)) for theirs, ours in INNER[type(block)])
            else:
                yield f"{part}.{number}", block


def _entries(network):
    """(name in the template, variable, axes): ``transpose(variable, axes)`` is laid out as PyTorch lays it out."""
    for name, layer in _layers(network):
        if layer is None:  # a skip that is the identity
            continue
        if isinstance(layer, BatchNorm):
            for theirs, ours in (("weight", "gamma"), ("bias", "beta"), ("running_mean", "running_mean"),
                                 ("running_var", "running_variance")):
                yield f"{name}.{theirs}", getattr(layer, ours), (0,)
        else:
            kernel, bias = layer.weights
            # Keras: height, width, in, out; of a depthwise kernel: height, width, channel, 1.
            yield f"{name}.weight", kernel, (2, 3, 0, 1) if "depth_conv" in name else (3, 2, 0, 1)
            yield f"{name}.bias", bias, (0,)


def state_of(network):
    """The weights of a built `LabNetwork` as the template's ``state_dict``: name -> float32 array, int64 counter."""
    state = {name: np.ascontiguousarray(np.transpose(variable.numpy(), axes))
             for name, variable, axes in _entries(network)}
    return state | {f"label_transformation.2.{COUNTER}": np.array(0, np.int64)}


def dimensions_of(state):
    """F_dim, L_dim, N_dim and D_out_dim of a ``state_dict``, from the shapes of its last convolutions.

    Raises:
        InputError: those tensors are missing or are no convolutions.
    """
    last = {"F_dim": "frame_transformation.6.bias", "L_dim": "label_transformation.4.conv2.bias",
            "N_dim": "Gaussian_Predictor.6.bias", "D_out_dim": "Decoder_Fusion.5.bias"}
    missing = [name for name in last.values() if name not in state or np.ndim(state[name]) != 1]
    if missing:
        raise InputError(f"not a checkpoint of the lab's network: no tensor {', '.join(missing)} of one dimension")
    sizes = {name: len(state[tensor]) for name, tensor in last.items()}
    return sizes | {"N_dim": sizes["N_dim"] // 2}


def load_state(network, state):
    """Put the weights of a ``state_dict``, name -> array, into a built `LabNetwork`.

    Raises:
        InputError: tensors are missing, superfluous, of another shape or not finite; nothing is changed then.
    """
    entries = {name: (variable, axes) for name, variable, axes in _entries(network)}
    shapes = {name: tuple(variable.shape[axis] for axis in axes) for name, (variable, axes) in entries.items()}
    extra = [name for name in state if name not in entries and not name.endswith(COUNTER)]
    problems = [f"{name} is missing" for name in entries if name not in state]
    problems += [f"{name} is not part of the network" for name in extra]
    for name in entries.keys() & state.keys():
        if np.shape(state[name]) != shapes[name]:
            problems.append(f"{name} is {list(np.shape(state[name]))} instead of {list(shapes[name])}")
        elif not np.issubdtype(np.asarray(state[name]).dtype, np.floating) or not np.isfinite(state[name]).all():
            problems.append(f"{name} holds something other than finite numbers")
    if problems:
        raise InputError("does not fit the lab's network: " + "; ".join(sorted(problems)))
    for name, (variable, axes) in entries.items():
        variable.assign(np.transpose(np.asarray(state[name], np.float32), np.argsort(axes)))


# ---------------------------------------------------------------------- files

def _torch(purpose):
    try:
        import torch
    except ImportError as error:
        raise InputError(f"{purpose} needs PyTorch, which is not installed here; pip install torch") from error
    return torch


def read_checkpoint(path):
    """The ``state_dict`` of a checkpoint file: name -> array. Nothing in the file is executed.

    Raises:
        InputError: PyTorch is missing, or the file is missing, damaged, no such checkpoint, or wants code to run.
    """
    torch = _torch("reading a checkpoint")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except Exception as error:  # whatever a damaged or foreign file makes PyTorch raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"{path}: not a checkpoint that can be read safely ({reason})") from error
    state = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise InputError(f"{path}: holds no state_dict of tensors; expected a checkpoint of the lab's template")
    return {name: value.float().numpy() if value.is_floating_point() else value.numpy()
            for name, value in state.items()}


def write_checkpoint(path, state, lr, tfr, last_epoch):
    """Write a checkpoint that the template's Trainer and Tester load.

    Raises:
        InputError: PyTorch is missing, or the file cannot be written.
    """
    torch = _torch("writing a checkpoint")
    tensors = {name: torch.from_numpy(np.array(value)) for name, value in state.items()}
    with atomic(path) as unfinished:
        torch.save({"state_dict": tensors, "lr": lr, "tfr": tfr, "last_epoch": last_epoch}, unfinished)
