import numpy as np
import pytest

from cvae_tf.data import Clips, Footage
from cvae_tf.errors import InputError


def _numbered(lengths):
    """Footage whose frame n is of colour n and whose pose n is of colour 255 - n."""
    count = sum(lengths)
    frames = np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None, None], (count, 8, 8, 3))
    starts = np.cumsum([0, *lengths[:-1]]).tolist()
    return Footage(frames, 255 - frames, tuple(zip(starts, lengths, strict=True)))


def _numbers(frames):
    return np.rint(np.asarray(frames)[..., 0, 0, 0] * 255).astype(int)


def test_clips_are_consecutive_and_paired_and_never_cross_a_cut():
    clips = Clips(_numbered([30, 10, 25]), length=8, batch_size=4)
    for step in range(200):
        frames, poses, context = clips.batch(step)
        numbers = _numbers(frames)  # (T, B)
        assert np.all(np.diff(numbers, axis=0) == 1)
        np.testing.assert_array_equal(numbers + _numbers(poses), 255)
        sequence = np.digitize(numbers, [30, 40])
        assert np.all(sequence == sequence[0])
        assert np.all(np.digitize(_numbers(context), [30, 40]) == sequence[0])


def test_random_clips_reach_every_start_and_every_context():
    clips = Clips(_numbered([12, 9]), length=8, batch_size=8)
    batches = [clips.batch(step) for step in range(200)]
    assert set(np.concatenate([_numbers(frames)[0] for frames, _, _ in batches])) == {0, 1, 2, 3, 4, 12, 13}
    assert set(np.concatenate([_numbers(context) for _, _, context in batches])) == set(range(21))


def test_context_of_the_clip_is_its_first_frame():
    frames, _, context = Clips(_numbered([30]), length=8, batch_size=4, context="clip").batch(3)
    np.testing.assert_array_equal(frames[0], context)


def test_tiled_clips_come_in_the_labs_fixed_order():
    clips = Clips(_numbered([20, 33]), length=4, batch_size=2, tiled=True)
    assert clips.steps_in_epoch(0) == 6  # 5 + 8 clips, two at a time, the odd one left out
    starts = [_numbers(clips.batch(step)[0])[0].tolist() for step in range(7)]
    assert starts == [[0, 4], [8, 12], [16, 20], [24, 28], [32, 36], [40, 44], [0, 4]]


def test_order_is_a_function_of_seed_and_step():
    one, same, other = (Clips(_numbered([200]), 8, 4, seed=seed) for seed in (1, 1, 2))
    for a, b in zip(one.batch(17), same.batch(17), strict=True):
        np.testing.assert_array_equal(a, b)
    assert np.any(one.batch(17)[0] != other.batch(17)[0])
    assert np.any(one.batch(17)[0] != one.batch(18)[0])


def test_dataset_from_the_middle_equals_the_tail_of_the_whole():
    clips = Clips(_numbered([200]), 8, 4)
    whole = list(clips.dataset(0, 6).as_numpy_iterator())
    tail = list(clips.dataset(4, 6).as_numpy_iterator())
    assert len(whole) == 6 and len(tail) == 2
    for a, b in zip(whole[4:], tail, strict=True):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x, y)


def test_fast_train_uses_the_first_frames_in_the_first_epochs():
    clips = Clips(_numbered([160]), length=8, batch_size=2, tiled=True, early_share=0.4, early_epochs=2)
    assert [clips.steps_in_epoch(epoch) for epoch in range(4)] == [4, 4, 10, 10]
    assert [clips.first_step(epoch) for epoch in range(5)] == [0, 4, 8, 18, 28]
    assert [clips.epoch_of(step) for step in (0, 3, 4, 7, 8, 17, 18)] == [0, 0, 1, 1, 2, 2, 3]
    early = np.concatenate([_numbers(clips.batch(step)[0]).ravel() for step in range(8)])
    late = np.concatenate([_numbers(clips.batch(step)[0]).ravel() for step in range(8, 18)])
    assert early.max() == 63 and late.max() == 159
    far = Clips(_numbered([160]), length=8, batch_size=8, share=0.25)
    assert max(_numbers(far.batch(step)[2]).max() for step in range(100)) == 39  # context frames too


def test_footage_shorter_than_a_clip_is_refused():
    with pytest.raises(InputError, match="longest uncut run in use has 7.*--train_vi_len"):
        Clips(_numbered([7, 6]), length=8, batch_size=1)


def test_validation_takes_the_beginning_of_the_longest_sequence():
    frames, poses = _numbered([5, 20]).longest(10)
    assert _numbers(frames).tolist() == list(range(5, 15)) and len(poses) == 10
    assert len(_numbered([5, 20]).longest(630)[0]) == 20
