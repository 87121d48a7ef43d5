import numpy as np
import tensorflow as tf

from cvae_tf.model.rollout import rollout


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


def test_forcing_is_decided_for_each_clip_and_instant():
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


def test_written_out_the_loop_gives_the_same_frames():
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
