"""Conversion of the lab's PyTorch checkpoints to exported models of `LabNetwork`, and back.

A checkpoint is a dict with ``state_dict``, ``lr``, ``tfr`` and ``last_epoch``. Only this module needs PyTorch, which is
not among the project's requirements.

Tensor names follow the template's modules. These are ``Sequential`` containers, whose numbering also counts
activations and paddings.
"""

import dataclasses
import re
import warnings
import zipfile
from numbers import Real
from pathlib import Path

import numpy as np
import tensorflow as tf

from cvae_tf.config import PRESETS, Config, load_config
from cvae_tf.errors import NO_MEMORY, InputError
from cvae_tf.files import atomic, check_paths, check_replaceable, check_writable, plain
from cvae_tf.inference.export import MODEL_FILES, load_weights, save_model
from cvae_tf.inference.exported_model import RUN
from cvae_tf.lab.network import BatchNorm, ConvFFN, DepthConv, LabNetwork, ResidualBlock
from cvae_tf.model import defaults
from cvae_tf.model.cvae import CVAE
from cvae_tf.model.schedules import linear_decay, milestone_factor

PARTS = {"frame_transformation": "frame_encoder", "label_transformation": "pose_encoder",
         "Gaussian_Predictor": "gaussian_predictor", "Decoder_Fusion": "decoder_fusion", "Generator": "generator"}
INNER = {ResidualBlock: (("conv1", "conv1"), ("conv2", "conv2"), ("skip", "skip")),
         DepthConv: (("block.0.conv1.0", "conv1"), ("block.0.depth_conv", "depth_conv"), ("block.0.conv2", "conv2"),
                     ("block.0.adaptor", "adaptor")),
         ConvFFN: (("block.1.conv", "conv"), ("block.1.conv_out", "conv_out"))}
SKIPPED = {"Gaussian_Predictor": 5}  # index of the template's LeakyReLU(True), an identity without a layer here
COUNTER = "label_transformation.2.num_batches_tracked"
# Width -> the template's tensor with as many elements; for N_dim twice as many (mean and log variance).
WIDTHS = {"F_dim": ("frame_transformation.6.bias", defaults.F_DIM),
          "L_dim": ("label_transformation.4.conv2.bias", defaults.L_DIM),
          "N_dim": ("Gaussian_Predictor.6.bias", defaults.N_DIM),
          "D_out_dim": ("Decoder_Fusion.5.bias", defaults.D_OUT_DIM)}
WIDEST = 4096
SAFE_TORCH = (2, 10)  # the first version in which no known file makes `torch.load` run code
LISTED = 12  # problems that an error message lists


def import_torch(checkpoint, out, batch_norm="train", frame_size=(32, 64), overwrite=False):
    """Turn a checkpoint of the template into an exported model, like those of a training run.

    Args:
        checkpoint: file that the template's Trainer saved, such as ``epoch=69.ckpt``. Nothing in it is executed.
        out: folder of the exported model; it must not exist, or be empty.
        batch_norm: ``"train"`` or ``"inference"``, as for `LabNetwork`.
        frame_size: height and width of the frames, in pixels.
        overwrite: replace an exported model at ``out``, unless it belongs to a training run.

    Returns:
        The `CVAE`.

    Raises:
        InputError: PyTorch is missing, the checkpoint cannot be read or does not fit the lab's network, or ``out``
            exists or cannot be written.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())) and not overwrite:
        raise InputError(f"{out}: exists already; choose another --out, or replace an exported model with --overwrite")
    check_paths({"CHECKPOINT": checkpoint}, {"--out": out})
    check_replaceable(out, [name for name in MODEL_FILES if name != RUN], "imported model", "--out")
    config = Config(**{**PRESETS["lab"], "preset": "lab", "batch_norm": batch_norm, "frame_H": frame_size[0],
                       "frame_W": frame_size[1]})
    state, settings = read_checkpoint(checkpoint)
    try:
        widths = widths_of(state)
        # The settings with which the template would continue. `export_torch` writes them back.
        config = dataclasses.replace(config, **widths, lr=float(settings.get("lr", config.lr)),
                                     tfr=min(1.0, max(0.0, float(settings.get("tfr", 0.0)))),
                                     num_epoch=int(settings.get("last_epoch", 0)) + 1, lr_schedule="constant",
                                     tfr_d_step=0.0)
        with tf.Graph().as_default():  # checks the shapes without allocating weights
            check_state(LabNetwork(**widths), state)
        network = LabNetwork(**widths, batch_norm=batch_norm)
        load_state(network, state)
    except InputError as error:
        raise InputError(f"{checkpoint}: {error}") from error
    model = CVAE(network)
    save_model(model, out, config)
    return model


def export_torch(model, out, overwrite=False):
    """Write an exported model of the lab's network as a checkpoint that the template's Trainer and Tester load.

    Args:
        model: folder of the exported model.
        out: file to write, such as ``epoch=70.ckpt``; the name sets the epoch.
        overwrite: replace a file at ``out``.

    Returns:
        The checkpoint's settings: ``lr`` and ``tfr`` of its epoch, and ``last_epoch``. For a cosine schedule, ``lr`` is
        the highest rate, since the template has no such schedule.

    Raises:
        InputError: PyTorch is missing, the model is missing or not of the lab's network, or ``out`` exists already or
            cannot be written.
    """
    model, out = Path(model), Path(out)
    check_paths({"--model": model}, {"--out": out})
    check_writable(out, "--out", overwrite, b"\0")  # no checkpoint begins so: none is replaced unasked
    config = load_config(model / "config.json")
    if config.network != "lab":
        raise InputError(f"{model}: must be a model of network 'lab', the only one that the template loads, received "
                         f"network '{config.network}'")
    torch = _pytorch()
    network = LabNetwork(config.F_dim, config.L_dim, config.N_dim, config.D_out_dim, config.batch_norm)
    load_weights(network, model)
    number = re.search(r"epoch=(\d+)", out.name)
    epoch = int(number[1]) if number else config.num_epoch - 1
    settings = {"lr": config.lr * (milestone_factor(epoch) if config.lr_schedule == "milestones" else 1),
                "tfr": linear_decay(config.tfr, config.tfr_sde, config.tfr_d_step)(epoch), "last_epoch": epoch}
    state = {name: torch.from_numpy(np.array(value)) for name, value in state_of(network).items()}
    with atomic(out) as unfinished, open(unfinished, "wb") as stream:
        torch.save({"state_dict": state, **settings}, stream)
    return settings


def _pytorch():
    try:
        import torch
    except ImportError as error:
        raise InputError("the lab's checkpoints need PyTorch, which is not installed; "
                         "pip install 'torch>=2.10'") from error
    return torch


def read_checkpoint(path):
    """Read a checkpoint; nothing in the file is executed.

    Returns:
        ``(state, settings)``: its ``state_dict``, name -> array, without the prefix ``module.`` of DataParallel; and a
        dict of those of ``lr``, ``tfr`` and ``last_epoch`` that the file holds as numbers.

    Raises:
        InputError: PyTorch is missing or older than 2.10; or the file is missing, damaged, or not a checkpoint of the
            template, asks for code to be run, or has tensors with more elements than stored numbers.
    """
    torch = _pytorch()
    if tuple(map(int, torch.__version__.split(".")[:2])) < SAFE_TORCH:
        raise InputError("reading a checkpoint needs PyTorch 2.10 or newer, since a file can make an older one run "
                         f"code (CVE-2025-32434, CVE-2026-24747), received {torch.__version__}; pip install "
                         "'torch>=2.10'")
    try:
        with warnings.catch_warnings(action="ignore"):  # PyTorch's advice
            _check_archive(plain(path))
            content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except Exception as error:
        raise InputError(f"{path}: not a checkpoint that can be read safely ({_reason(error)}); expected a file that "
                         "the lab's template saved") from error
    state = content.get("state_dict") if isinstance(content, dict) else None
    if not state or not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise InputError(f"{path}: holds no state_dict of tensors; expected a checkpoint of the lab's template")
    odd = [name for name, tensor in state.items()
           if tensor.layout != torch.strided or tensor.device.type != "cpu"
           or tensor.dtype not in (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64)]
    if odd:
        raise InputError(f"{path}: {odd[0]} must be a plain tensor of numbers, received {state[odd[0]].layout} on "
                         f"{state[odd[0]].device} of type {state[odd[0]].dtype}")
    stored = {storage.data_ptr(): storage.nbytes() for storage in (t.untyped_storage() for t in state.values())}
    if sum(tensor.nbytes for tensor in state.values()) > sum(stored.values()):  # expanded: one number for many
        raise InputError(f"{path}: its tensors hold {sum(tensor.nbytes for tensor in state.values()):,} bytes by their "
                         f"shapes, but the file has {sum(stored.values()):,}; expected a number for each element")
    settings = {name: content[name] for name in ("lr", "tfr", "last_epoch")
                if isinstance(content.get(name), Real) and abs(content[name]) < 1e300}
    return {str(name).removeprefix("module."): _array(tensor) for name, tensor in state.items()}, settings


def _check_archive(path):
    """Reject archives that are compressed, unlike PyTorch's, or damaged, which PyTorch does not detect."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > path.stat().st_size:
            raise ValueError(f"it is compressed, {unpacked:,} bytes unpacked")
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():
                raise ValueError(f"it is damaged, in {damaged}")


def _array(tensor):
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy(force=True)


def _reason(error):
    """Why a file cannot be read, without PyTorch's advice to read it unsafely."""
    forbidden = re.search(r"GLOBAL (\S+)", str(error))
    if forbidden:
        return f"it asks to run {forbidden[1]}"
    if isinstance(error, OSError):
        return error.strerror or error
    if isinstance(error, MemoryError) or NO_MEMORY.search(str(error)):
        return "out of memory"
    return error if type(error) is ValueError else "it is damaged, or of another kind"


# ---------------------------------------------------------------------- names and layout of tensors

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
            if not isinstance(block, ConvFFN):  # the template's DepthConvBlock holds a DepthConv and its ConvFFN
                number += 1
            if number == SKIPPED.get(part):
                number += 1
            if type(block) in INNER:
                yield from ((f"{part}.{number}.{theirs}", getattr(block, ours)) for theirs, ours in INNER[type(block)])
            else:
                yield f"{part}.{number}", block


def tensors(network):
    """Yield (name, variable, axes) of each tensor in the template's ``state_dict``, except the batch counter.

    ``transpose(variable, axes)`` has PyTorch's layout.
    """
    for name, layer in _layers(network):
        if layer is None:  # a skip that is the identity
            continue
        if isinstance(layer, BatchNorm):
            for theirs, ours in (("weight", "gamma"), ("bias", "beta"), ("running_mean", "running_mean"),
                                 ("running_var", "running_variance")):
                yield f"{name}.{theirs}", getattr(layer, ours), (0,)
        else:
            kernel, bias = layer.weights
            # Keras: height, width, in, out; depthwise kernels: height, width, channel, 1.
            yield f"{name}.weight", kernel, (2, 3, 0, 1) if "depth_conv" in name else (3, 2, 0, 1)
            yield f"{name}.bias", bias, (0,)


def state_of(network):
    """The weights of a `LabNetwork` as the template's ``state_dict``: name -> float32 array, and an int64 counter."""
    state = {name: np.ascontiguousarray(np.transpose(variable.numpy(), axes))
             for name, variable, axes in tensors(network)}
    return state | {COUNTER: np.array(0, np.int64)}


def widths_of(state):
    """F_dim, L_dim, N_dim and D_out_dim of a ``state_dict``.

    A width whose tensor is missing gets the lab's default, so that `load_state` can list all missing tensors.

    Raises:
        InputError: no tensor has a name of the lab's network, or a width is too large.
    """
    if not any(name.split(".")[0] in PARTS for name in state):
        raise InputError(f"not a checkpoint of the lab's network: no tensor is named after {', '.join(PARTS)}")
    widths = {}
    for width, (name, default) in WIDTHS.items():
        known = np.ndim(state.get(name)) == 1
        widths[width] = len(state[name]) // (2 if width == "N_dim" else 1) if known else default
        if widths[width] > WIDEST:
            raise InputError(f"{name} has {len(state[name])} elements, so {width} would be {widths[width]}; expected "
                             f"at most {WIDEST}")
    return widths


def load_state(network, state):
    """Put the weights of a ``state_dict``, name -> array, into a `LabNetwork`.

    Raises:
        InputError: tensors are missing, unknown, of another shape or not finite. The network then stays unchanged.
    """
    check_state(network, state)
    for name, variable, axes in tensors(network):
        variable.assign(np.transpose(np.asarray(state[name], np.float32), np.argsort(axes)))


def check_state(network, state):
    """Compare a ``state_dict``, name -> array, with the names and shapes of a `LabNetwork`'s tensors.

    Raises:
        InputError: tensors are missing, unknown, of another shape or not finite.
    """
    entries = {name: (variable, axes) for name, variable, axes in tensors(network)}
    problems = [f"{name} is missing" for name in entries.keys() - state.keys()]
    problems += [f"{name} is not part of the network" for name in state.keys() - entries.keys() - {COUNTER}]
    for name in entries.keys() & state.keys():
        variable, axes = entries[name]
        expected = [variable.shape[axis] for axis in axes]
        if list(np.shape(state[name])) != expected:
            problems.append(f"{name} has the shape {list(np.shape(state[name]))}, expected {expected}")
        elif not np.issubdtype(np.asarray(state[name]).dtype, np.floating) or not np.isfinite(state[name]).all():
            problems.append(f"{name} must hold finite numbers only")
    if problems:
        more = f"; and {len(problems) - LISTED} more" if len(problems) > LISTED else ""
        raise InputError("does not fit the lab's network: " + "; ".join(sorted(problems)[:LISTED]) + more)
