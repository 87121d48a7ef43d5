import numpy as np
import tensorflow as tf

from cvae_tf.model.rollout import in_chunks, rollout


def _cell(previous, now):
    return 0.5 * previous + now


def _inputs(time=4, batch=2):
    random = np.random.default_rng(0)
    return (tf.constant(random.random((batch, 2, 2, 3), np.float32)),
            tf.constant(random.random((time, batch, 2, 2, 3), np.float32)))


def test_free_running_feeds_each_frame_to_the_next_step():
    first, inputs = _inputs()
    frame, expected = first.numpy(), []
    for now in inputs.numpy():
        frame = 0.5 * frame + now
        expected.append(frame)
    np.testing.assert_allclose(rollout(_cell, first, inputs), expected, rtol=1e-6)


def test_teacher_forcing_is_decided_for_each_clip_and_time_step():
    first, inputs = _inputs()
    truth = tf.constant(np.random.default_rng(1).random((4, 2, 2, 2, 3), np.float32))
    forced = np.array([[True, False], [False, False], [True, True], [False, True]])
    expected = np.empty(inputs.shape, np.float32)
    for clip in range(2):
        frame = first[clip].numpy()
        for t in range(4):
            fed = truth[t, clip].numpy() if forced[t, clip] else frame
            frame = expected[t, clip] = 0.5 * fed + inputs[t, clip].numpy()
    np.testing.assert_allclose(rollout(_cell, first, inputs, truth, tf.constant(forced)), expected, rtol=1e-6)


def test_the_unrolled_loop_gives_the_same_frames():
    first, inputs = _inputs()
    truth, forced = inputs + 1, tf.constant([[True, False], [False, False], [True, True], [False, True]])
    np.testing.assert_array_equal(rollout(_cell, first, inputs, unrolled=True), rollout(_cell, first, inputs))
    np.testing.assert_array_equal(rollout(_cell, first, inputs, truth, forced, unrolled=True),
                                  rollout(_cell, first, inputs, truth, forced))


def test_gradient_flows_through_time():
    first, inputs = _inputs()
    with tf.GradientTape() as tape:
        tape.watch(first)
        last = rollout(_cell, first, inputs)[-1]
    np.testing.assert_allclose(tape.gradient(last, first), np.full(first.shape, 0.5**4))


def test_length_may_differ_from_call_to_call_of_one_graph():
    first, inputs = _inputs()
    graph = tf.function(lambda f, x: rollout(_cell, f, x),
                        input_signature=[tf.TensorSpec((None, 2, 2, 3)), tf.TensorSpec((None, None, 2, 2, 3))])
    np.testing.assert_allclose(graph(first, inputs)[:3], graph(first, inputs[:3]))
    assert graph(first, inputs[:1]).shape[0] == 1


def test_chunks_follow_each_other_to_the_end_and_hand_on_what_they_carry():
    def visit(start, count, digits):
        return count + 1, 10 * digits + start

    for length, chunk, count, digits in ((7, 3, 3, 36), (6, 3, 2, 3), (1, 3, 1, 0), (2, 1, 2, 1)):
        found = in_chunks(visit, tf.constant(length), chunk, tf.constant(0), tf.constant(0))
        assert [int(value) for value in found] == [count, digits]
