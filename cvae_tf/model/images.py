"""Images as the model takes them, checked and converted in one place: uint8, or floats in [0, 1]."""

import contextlib
import re

import numpy as np
import tensorflow as tf

# A table and not a division: graphs divide by a constant as they multiply by its inverse, which rounds differently.
LEVELS = np.arange(256, dtype=np.float32) / np.float32(255)


def as_float(images, name, rank):
    """Images as float32 in [0, 1].

    Args:
        images: (..., H, W, 3) with ``rank`` axes, uint8, or floats in [0, 1]. NaN passes: training skips such a batch.
        name: what the images are called in errors.
        rank: number of axes: 5 for clips (B, T, H, W, 3), 4 for frames (B, H, W, 3).

    Raises:
        ValueError: another number of axes or channels, another type, or floats outside [0, 1]; while a graph runs,
            the last one is a ``tf.errors.InvalidArgumentError``.
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
    """Turn the error of a graph in which `as_float` found floats outside [0, 1] into a ValueError."""
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        found = re.search(r"\w+ has values out of range; .*? floats outside of it", str(error))
        if not found:
            raise
        raise ValueError(found[0]) from error
