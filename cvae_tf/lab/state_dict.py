"""How the lab's PyTorch template names and lays out the weights of `LabNetwork` in a ``state_dict``.

Names follow the template's modules, whose parts are Sequentials: an activation or a padding counts in the numbering
too.
"""

import numpy as np

from cvae_tf.errors import InputError
from cvae_tf.lab.network import BatchNorm, ConvFFN, DepthConv, ResidualBlock

PARTS = {"frame_transformation": "frame_encoder", "label_transformation": "pose_encoder",
         "Gaussian_Predictor": "gaussian_predictor", "Decoder_Fusion": "decoder_fusion", "Generator": "generator"}
INNER = {ResidualBlock: (("conv1", "conv1"), ("conv2", "conv2"), ("skip", "skip")),
         DepthConv: (("block.0.conv1.0", "conv1"), ("block.0.depth_conv", "depth_conv"), ("block.0.conv2", "conv2"),
                     ("block.0.adaptor", "adaptor")),
         ConvFFN: (("block.1.conv", "conv"), ("block.1.conv_out", "conv_out"))}
# Where the template's numbering has a module that is no layer here: its LeakyReLU(True), the identity, and the padding.
SKIPPED = {"Gaussian_Predictor": 5}
COUNTER = "label_transformation.2.num_batches_tracked"
DEFAULTS = dict(F_dim=128, L_dim=32, N_dim=12, D_out_dim=192)
WIDEST, LISTED = 4096, 12


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
            if not isinstance(block, ConvFFN):  # with the DepthConv before it, one DepthConvBlock there
                number += 1
            if number == SKIPPED.get(part):
                number += 1
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
    return state | {COUNTER: np.array(0, np.int64)}


def dimensions_of(state):
    """F_dim, L_dim, N_dim and D_out_dim of a ``state_dict``, from the lengths of its last biases.

    A missing one counts as the lab's default, so that `load_state` can tell all that is missing.

    Raises:
        InputError: nothing in it is of the lab's network, or a width is absurd.
    """
    if not any(name.split(".")[0] in PARTS for name in state):
        raise InputError(f"not a checkpoint of the lab's network: no tensor is named after {', '.join(PARTS)}")
    last = {"F_dim": "frame_transformation.6.bias", "L_dim": "label_transformation.4.conv2.bias",
            "N_dim": "Gaussian_Predictor.6.bias", "D_out_dim": "Decoder_Fusion.5.bias"}
    sizes = dict(DEFAULTS)
    for width, name in last.items():
        if np.ndim(state.get(name)) == 1:
            sizes[width] = len(state[name]) // (2 if width == "N_dim" else 1)
        if sizes[width] > WIDEST:
            raise InputError(f"{name} has {len(state[name])} elements; a {width} of {sizes[width]} is no lab network's")
    return sizes


def load_state(network, state):
    """Put the weights of a ``state_dict``, name -> array, into a built `LabNetwork`.

    Raises:
        InputError: tensors are missing, superfluous, of another shape or not finite; nothing is changed then.
    """
    entries = {name: (variable, axes) for name, variable, axes in _entries(network)}
    shapes = {name: tuple(variable.shape[axis] for axis in axes) for name, (variable, axes) in entries.items()}
    extra = [name for name in state if name not in entries and name != COUNTER]
    problems = [f"{name} is missing" for name in entries if name not in state]
    problems += [f"{name} is not part of the network" for name in extra]
    for name in entries.keys() & state.keys():
        if np.shape(state[name]) != shapes[name]:
            problems.append(f"{name} is {list(np.shape(state[name]))} instead of {list(shapes[name])}")
        elif not np.issubdtype(np.asarray(state[name]).dtype, np.floating) or not np.isfinite(state[name]).all():
            problems.append(f"{name} holds something other than finite numbers")
    if problems:
        more = f"; and {len(problems) - LISTED} more" if len(problems) > LISTED else ""
        raise InputError("does not fit the lab's network: " + "; ".join(sorted(problems)[:LISTED]) + more)
    for name, (variable, axes) in entries.items():
        variable.assign(np.transpose(np.asarray(state[name], np.float32), np.argsort(axes)))
