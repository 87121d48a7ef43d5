"""The time loop. Training, validation and generation all run through `rollout`; there is no other loop over frames.

`in_chunks` runs it chunk by chunk, where the activations of a whole clip or film would not fit into memory.
"""

import tensorflow as tf


def rollout(cell, first_frame, inputs, true_previous=None, teacher_forcing_mask=None, unrolled=False):
    """Generate frame after frame, each from the one before.

    Args:
        cell: the transition, ``cell(previous_frame, inputs_t) -> frame``: (B, H, W, 3) to (B, H, W, 3).
        first_frame: (B, H, W, 3), the input of the first step.
        inputs: a nest of tensors (T, B, ...); at each step, the cell gets their slices.
        true_previous: (T, B, H, W, 3), the true frame before each frame to predict. Only needed with a mask.
        teacher_forcing_mask: (T, B) bool. Where true, the input of the step is the true previous frame instead
            of the generated one. None: free running.
        unrolled: unroll the loop in the graph, for XLA, whose loops are slow. T must be static.

    Returns:
        (T, B, H, W, 3), the T generated frames; ``first_frame`` is not among them.
    """
    if teacher_forcing_mask is not None:
        inputs = (inputs, true_previous, teacher_forcing_mask)
    one = tf.nest.flatten(inputs)[0]
    length = one.shape[0] if unrolled else tf.shape(one)[0]
    slices = tf.nest.map_structure(lambda x: tf.TensorArray(x.dtype, length).unstack(x), inputs)
    generated = tf.TensorArray(first_frame.dtype, length, element_shape=first_frame.shape)

    def step(t, previous, generated):
        now = tf.nest.map_structure(lambda array: array.read(t), slices)
        if teacher_forcing_mask is not None:
            now, truth, forced = now
            previous = tf.where(forced[:, None, None, None], truth, previous)
        frame = tf.ensure_shape(cell(previous, now), first_frame.shape)
        return t + 1, frame, generated.write(t, frame)

    state = 0, first_frame, generated
    if unrolled:
        for _ in range(length):
            state = step(*state)
    else:
        state = tf.while_loop(lambda t, *_: t < length, step, state)
    return state[-1].stack()


def in_chunks(visit, length, chunk, *carried):
    """Go through ``length`` time steps, ``chunk`` at a time.

    Args:
        visit: ``visit(start, *carried) -> carried`` for the chunk that begins at time ``start``.
        length, chunk: numbers of time steps.
        carried: tensors handed from each chunk to the next.

    Returns:
        ``carried`` after the last chunk, a list.
    """
    return tf.while_loop(lambda start, *_: start < length,
                         lambda start, *carried: (start + chunk, *visit(start, *carried)),
                         (0, *carried), parallel_iterations=1)[1:]
