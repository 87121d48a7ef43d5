"""The time loop. Training, validation and generation all run through `rollout`; no other loop over frames exists.

`by_stretches` is the loop around it, where what surrounds a rollout would not fit the memory for all of a film.
"""

import tensorflow as tf


def rollout(cell, first_frame, inputs, true_previous=None, forced=None, unrolled=False):
    """Generate frame after frame, each from the one before.

    Args:
        cell: the transition, ``cell(previous_frame, inputs_t) -> frame``: (B, H, W, 3) to (B, H, W, 3).
        first_frame: (B, H, W, 3), what the first step is fed.
        inputs: a nest of tensors (T, B, ...); the cell gets their slices at each time.
        true_previous: (T, B, H, W, 3), the true frames before those to predict. Only needed with ``forced``.
        forced: (T, B) bool. Where true, the step is fed the true frame before instead of the generated one
            (teacher forcing). None: free running.
        unrolled: write the loop out, step after step, in the graph: for XLA, whose loops are slow. T must be known.

    Returns:
        (T, B, H, W, 3), the T generated frames; ``first_frame`` is not among them.
    """
    if forced is not None:
        inputs = (inputs, true_previous, forced)
    one = tf.nest.flatten(inputs)[0]
    length = one.shape[0] if unrolled else tf.shape(one)[0]
    slices = tf.nest.map_structure(lambda x: tf.TensorArray(x.dtype, length).unstack(x), inputs)
    generated = tf.TensorArray(first_frame.dtype, length, element_shape=first_frame.shape)

    def step(t, previous, generated):
        now = tf.nest.map_structure(lambda array: array.read(t), slices)
        if forced is not None:
            now, truth, is_forced = now
            previous = tf.where(is_forced[:, None, None, None], truth, previous)
        frame = tf.ensure_shape(cell(previous, now), first_frame.shape)
        return t + 1, frame, generated.write(t, frame)

    state = 0, first_frame, generated
    if unrolled:
        for _ in range(length):
            state = step(*state)
    else:
        state = tf.while_loop(lambda t, *_: t < length, step, state)
    return state[-1].stack()


def by_stretches(visit, length, stretch, *carried):
    """Go through ``length`` instants, ``stretch`` at a time: ``carried = visit(start, *carried)``; returns the last."""
    return tf.while_loop(lambda start, *_: start < length,
                         lambda start, *carried: (start + stretch, *visit(start, *carried)),
                         (0, *carried), parallel_iterations=1)[1:]
