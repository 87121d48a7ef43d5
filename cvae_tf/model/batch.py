"""Batches of clips as the model takes them, checked and converted in one place: uint8, or floats in [0, 1]."""

import contextlib
import re

import numpy as np
import tensorflow as tf

# A table instead of a division: a graph replaces the division by a constant with a multiplication by its inverse, which
# rounds differently.
LEVELS = np.arange(256, dtype=np.float32) / np.float32(255)


def as_float(images, name, rank):
    """Images as float32 in [0, 1].

    Args:
        images: (..., H, W, 3) with ``rank`` axes, uint8, or floats in [0, 1]. NaN passes: training skips a batch with
            NaN.
        name: name of the images in error messages.
        rank: number of axes: 5 for clips (B, T, H, W, 3), 4 for frames (B, H, W, 3).

    Raises:
        ValueError: the number of axes or channels or the type is wrong, or floats are outside [0, 1]. In a graph,
            floats outside [0, 1] raise ``tf.errors.InvalidArgumentError`` instead.
    """
    images = tf.convert_to_tensor(images)
    axes = "(batch, time, height, width, 3)" if rank == 5 else "(batch, height, width, 3)"
    if images.shape.rank is not None and (images.shape.rank != rank or images.shape[-1] not in (3, None)):
        raise ValueError(f"{name} has an invalid shape; expected {axes}, received {tuple(images.shape)}")
    if images.dtype == tf.uint8:
        return tf.ensure_shape(tf.gather(LEVELS, tf.cast(images, tf.int32)), [None] * (rank - 1) + [3])
    if not images.dtype.is_floating:
        raise ValueError(f"{name} has an invalid type; expected uint8, or floats in [0, 1], received "
                         f"{images.dtype.name}")
    images = tf.ensure_shape(tf.cast(images, tf.float32), [None] * (rank - 1) + [3])
    outside = tf.reduce_any((images < 0) | (images > 1))
    message = f"{name} has values out of range; expected uint8, or floats in [0, 1], received floats outside of it"
    if tf.executing_eagerly():
        if outside:
            raise ValueError(f"{message}, from {float(tf.reduce_min(images)):g} to {float(tf.reduce_max(images)):g}")
        return images
    with tf.control_dependencies([tf.debugging.Assert(~outside, [message])]):
        return tf.identity(images)


@contextlib.contextmanager
def range_errors():
    """Turn the error that `as_float` raises in a graph for floats outside [0, 1] into a ValueError."""
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        found = re.search(r"\w+ has values out of range; .*? floats outside of it", str(error))
        if not found:
            raise
        raise ValueError(found[0]) from error


def read(data):
    """Read a batch in any of the forms that `CVAE` takes.

    Returns:
        ``(frames, poses, context)``: frames and poses (B, T, H, W, 3), context (B, H, W, 3); float32 in [0, 1].

    Raises:
        ValueError: an input is missing, or its rank, type, range or size is invalid.
    """
    while isinstance(data, (tuple, list)) and (len(data) == 1 or len(data) > 1 and data[-1] is None):
        data = data[0] if len(data) == 1 else data[:-1]  # how Keras packs a batch without targets and weights
    if not isinstance(data, dict):
        if not isinstance(data, (tuple, list)) or len(data) != 2:
            raise ValueError("the batch has an invalid structure; expected (frames, poses), or a dict of 'frames', "
                             f"'poses' and optionally 'context', received {_describe(data)}")
        data = dict(zip(("frames", "poses"), data, strict=True))
    if not {"frames", "poses"} <= data.keys() <= {"frames", "poses", "context"}:
        raise ValueError("the batch has invalid keys; expected 'frames', 'poses' and optionally 'context', "
                         f"received {', '.join(map(repr, data))}")
    frames, poses = (as_float(data[name], name, 5) for name in ("frames", "poses"))
    context = as_float(data["context"], "context", 4) if "context" in data else frames[:, 0]
    for name, other, like in (("poses", poses, frames), ("context", context, frames[:, 0])):
        if not other.shape.is_compatible_with(like.shape):
            raise ValueError(f"{name} has an invalid shape; expected {tuple(like.shape)}, to fit the frames, "
                             f"received {tuple(other.shape)}")
    if frames.shape[1] is not None and frames.shape[1] < 2:
        raise ValueError("frames are invalid; expected at least 2 in a clip (axis 1), received 1")
    return frames, poses, context


def _describe(data):
    if isinstance(data, (tuple, list)):
        return f"a {type(data).__name__} of {len(data)}"
    return f"{type(data).__name__} of shape {tuple(data.shape)}" if hasattr(data, "shape") else type(data).__name__


def in_tuples(x):
    """Turn a generator of dicts into a generator of tuples, which Keras takes; return any other ``x`` unchanged."""
    if not hasattr(x, "__next__"):
        return x
    return ((batch,) if isinstance(batch, dict) else batch for batch in x)
