import dataclasses

import numpy as np
import pytest

from cvae_tf.config import Config
from cvae_tf.data.footage import Clips, Footage, load_footage
from cvae_tf.data.sequences import load_sequences
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


def _write_arrays(root, split, frames, poses, starts=None):
    folder = root / split
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / f"{split}_img.npy", frames)
    np.save(folder / f"{split}_label.npy", poses)
    if starts is not None:
        (folder / f"{split}_starts.txt").write_text(starts)


def _pixels(count, seed):
    return np.uint8(np.random.default_rng(seed).integers(0, 256, (count, 8, 16, 3)))


def test_arrays_are_footage_like_images(tmp_path):
    frames, poses = _pixels(30, 0), _pixels(30, 1)
    _write_arrays(tmp_path, "train", frames, poses, "0\n12\n20\n")
    config = Config(data_dir=str(tmp_path), frame_H=8, frame_W=16)
    footage = load_footage(config, "train")
    np.testing.assert_array_equal(footage.frames, frames)
    np.testing.assert_array_equal(footage.poses, poses)
    assert isinstance(footage.frames, np.memmap)  # not in memory
    assert footage.sequences == ((0, 12), (12, 8), (20, 10))
    assert load_footage(dataclasses.replace(config, max_frames=15), "train").sequences == ((0, 12), (12, 3))
    (tmp_path / "train" / "train_starts.txt").unlink()
    assert load_footage(config, "train").sequences == ((0, 30),)
    other = poses.copy()
    other[7] += 1
    _write_arrays(tmp_path, "train", frames, other)
    assert load_footage(config, "train").checksum != footage.checksum


@pytest.mark.parametrize("damage, complaint", [
    (lambda folder: (folder / "train_label.npy").unlink(), "train_label.npy: cannot be read"),
    (lambda folder: (folder / "train_img.npy").write_bytes(b"half a file"), "train_img.npy: cannot be read"),
    (lambda folder: np.save(folder / "train_img.npy", np.zeros((30, 8, 16, 3))), "type float64; expected uint8"),
    (lambda folder: np.save(folder / "train_img.npy", np.zeros((30, 8, 8, 3), np.uint8)), "--frame_H and --frame_W"),
    (lambda folder: np.save(folder / "train_label.npy", _pixels(29, 1)), "29 poses for 30 frames"),
    (lambda folder: (folder / "train_starts.txt").write_text("0 x"), "a whole number a line"),
    (lambda folder: (folder / "train_starts.txt").write_text("0 9 9"), "begin with 0, rise and stay below 30"),
    (lambda folder: (folder / "train_starts.txt").write_text("0 30"), "stay below 30"),
])
def test_arrays_that_do_not_fit_are_refused(damage, complaint, tmp_path):
    _write_arrays(tmp_path, "train", _pixels(30, 0), _pixels(30, 1))
    damage(tmp_path / "train")
    with pytest.raises(InputError, match=complaint):
        load_footage(Config(data_dir=str(tmp_path), frame_H=8, frame_W=16), "train")


def test_arrays_can_be_evaluated(tmp_path):
    _write_arrays(tmp_path, "val", _pixels(30, 0), _pixels(30, 1), "0\n12\n29\n")
    found = load_sequences(str(tmp_path), "val", 8, 16)
    assert [(one.name, len(one.frames)) for one in found] == [("0 to 11", 12), ("12 to 28", 17)]
