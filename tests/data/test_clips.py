import dataclasses

import numpy as np
import pytest

from cvae_tf.data.clips import Clips
from cvae_tf.data.footage import Footage
from cvae_tf.errors import InputError


def _numbered(lengths):
    """Footage whose frame n is of colour n and whose pose n is of colour 255 - n."""
    count = sum(lengths)
    frames = np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None, None], (count, 8, 8, 3))
    starts = np.cumsum([0, *lengths[:-1]]).tolist()
    return Footage(frames, 255 - frames, tuple(zip(starts, lengths, strict=True)))


def _numbers(frames):
    return frames[..., 0, 0, 0].astype(int)


def test_clips_are_consecutive_and_paired_and_never_cross_a_cut():
    clips = Clips(_numbered([30, 10, 25]), length=8, batch_size=4)
    for step in range(200):
        batch = clips.batch(step)
        assert all(array.dtype == np.uint8 for array in batch.values())
        numbers = _numbers(batch["frames"])  # (B, T)
        assert numbers.shape == (4, 8) and np.all(np.diff(numbers) == 1)
        np.testing.assert_array_equal(numbers + _numbers(batch["poses"]), 255)
        sequence = np.digitize(numbers, [30, 40]).T
        assert np.all(sequence == sequence[0])
        assert np.all(np.digitize(_numbers(batch["context"]), [30, 40]) == sequence[0])


def test_random_clips_reach_every_start_and_every_context():
    clips = Clips(_numbered([12, 9]), length=8, batch_size=8)
    batches = [clips.batch(step) for step in range(200)]
    assert {n for batch in batches for n in _numbers(batch["frames"])[:, 0]} == {0, 1, 2, 3, 4, 12, 13}
    assert {n for batch in batches for n in _numbers(batch["context"])} == set(range(21))


def test_context_of_the_clip_is_its_first_frame():
    batch = Clips(_numbered([30]), length=8, batch_size=4, context="clip").batch(3)
    np.testing.assert_array_equal(batch["frames"][:, 0], batch["context"])


def test_tiled_clips_come_in_the_labs_fixed_order():
    clips = Clips(_numbered([20, 33]), length=4, batch_size=2, order="tiled")
    assert clips.steps_in_epoch(0) == 6  # 5 + 8 clips, two at a time, the odd one left out
    starts = [_numbers(clips.batch(step)["frames"])[:, 0].tolist() for step in range(7)]
    assert starts == [[0, 4], [8, 12], [16, 20], [24, 28], [32, 36], [40, 44], [0, 4]]


def test_order_is_a_function_of_seed_and_step():
    one, same, other = (Clips(_numbered([200]), 8, 4, seed=seed) for seed in (1, 1, 2))
    for name, array in one.batch(17).items():
        np.testing.assert_array_equal(array, same.batch(17)[name])
    assert np.any(one.batch(17)["frames"] != other.batch(17)["frames"])
    assert np.any(one.batch(17)["frames"] != one.batch(18)["frames"])


def test_dataset_holds_the_batches_of_the_steps_and_knows_their_shapes():
    clips = Clips(_numbered([200]), 8, 4)
    dataset = clips.dataset(4, 6)
    assert int(dataset.cardinality()) == 2
    assert dataset.element_spec["frames"].shape == (4, 8, 8, 8, 3)
    assert dataset.element_spec["context"].shape == (4, 8, 8, 3)
    for step, batch in zip((4, 5), dataset.as_numpy_iterator(), strict=True):
        for name, array in clips.batch(step).items():
            np.testing.assert_array_equal(batch[name], array)


def test_footage_of_training_gives_new_clips_in_each_epoch():
    footage = _numbered([100, 60])
    dataset = footage.clips(length=8, batch_size=3, seed=5)
    clips = Clips(footage, 8, 3, seed=5)
    assert int(dataset.cardinality()) == clips.steps_in_epoch(0) == 6
    for epoch in range(2):
        for step, batch in enumerate(dataset.as_numpy_iterator(), 6 * epoch):
            np.testing.assert_array_equal(batch["frames"], clips.batch(step)["frames"])
            np.testing.assert_array_equal(batch["context"], clips.batch(step)["context"])


def test_footage_of_validation_gives_the_same_clips_in_order_and_a_smaller_last_batch():
    dataset = dataclasses.replace(_numbered([20, 7, 13]), split="val").clips(length=6, batch_size=2)
    assert int(dataset.cardinality()) == 3
    assert dataset.element_spec["poses"].shape == (None, 6, 8, 8, 3)
    for _ in range(2):
        batches = list(dataset.as_numpy_iterator())
        assert [_numbers(batch["frames"])[:, 0].tolist() for batch in batches] == [[0, 6], [12, 20], [27, 33]][:3]
        for batch in batches:
            np.testing.assert_array_equal(batch["context"], batch["frames"][:, 0])
    dataset = dataclasses.replace(_numbered([20]), split="val").clips(length=6, batch_size=2)
    assert [len(batch["frames"]) for batch in dataset.as_numpy_iterator()] == [2, 1]


def test_fast_train_uses_the_first_frames_in_the_first_epochs():
    clips = Clips(_numbered([160]), length=8, batch_size=2, order="tiled", early_share=0.4, early_epochs=2)
    assert [clips.steps_in_epoch(epoch) for epoch in range(4)] == [4, 4, 10, 10]
    assert [clips.first_step(epoch) for epoch in range(5)] == [0, 4, 8, 18, 28]
    assert [clips.epoch_of(step) for step in (0, 3, 4, 7, 8, 17, 18)] == [0, 0, 1, 1, 2, 2, 3]
    early = np.concatenate([_numbers(clips.batch(step)["frames"]).ravel() for step in range(8)])
    late = np.concatenate([_numbers(clips.batch(step)["frames"]).ravel() for step in range(8, 18)])
    assert early.max() == 63 and late.max() == 159
    far = Clips(_numbered([160]), length=8, batch_size=8, share=0.25)
    assert max(_numbers(far.batch(step)["context"]).max() for step in range(100)) == 39  # context frames too


def test_footage_shorter_than_a_clip_is_refused():
    with pytest.raises(InputError, match="longest uncut sequence in use has 7.*--train_vi_len"):
        Clips(_numbered([7, 6]), length=8, batch_size=1)


def test_validation_takes_the_beginning_of_the_longest_sequence():
    frames, poses = _numbered([5, 20]).longest(10)
    assert _numbers(frames).tolist() == list(range(5, 15)) and len(poses) == 10
    assert len(_numbered([5, 20]).longest(630)[0]) == 20
