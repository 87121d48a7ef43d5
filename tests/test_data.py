import numpy as np
import pytest
from PIL import Image

from cvae_tf import data
from cvae_tf.config import Config
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


def test_pixels_fill_the_range_from_zero_to_one():
    pixels = data.to_float(np.array([0, 51, 255], np.uint8))
    assert pixels.dtype == np.float32
    np.testing.assert_array_equal(pixels, np.float32([0, 0.2, 1]))


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


# ---------------------------------------------------------------------- folders in the lab's layout

def _write(root, split, numbers, size=(64, 32), skip_pose=()):
    for kind in ("img", "label"):
        folder = root / split / f"{split}_{kind}"
        folder.mkdir(parents=True, exist_ok=True)
        for n in numbers:
            if kind == "img" or n not in skip_pose:
                colour = (n, n, n) if kind == "img" else (255 - n, 0, 0)
                Image.new("RGB", size, colour).save(folder / f"frame{n}.png")


def _config(root, **options):
    return Config(data_dir=str(root), **options)


def test_frames_are_ordered_by_number_and_cut_at_gaps(tmp_path):
    _write(tmp_path, "train", [9, 10, 100, 11, 101])
    (tmp_path / "train" / "train_img" / "._frame12.png").write_bytes(b"hidden")
    footage = data.load_footage(_config(tmp_path), "train")
    assert footage.frames[:, 0, 0, 0].tolist() == [9, 10, 11, 100, 101]
    assert footage.poses[:, 0, 0, 0].tolist() == [246, 245, 244, 155, 154]
    assert footage.sequences == ((0, 3), (3, 2))


def test_images_are_resized_as_the_lab_does(tmp_path):
    random = np.random.default_rng(0)
    native = np.uint8(random.integers(0, 256, (64, 128, 3)))
    Image.fromarray(native).save(tmp_path / "frame1.png")
    # Halving with the antialiased triangle filter: weights 1 3 3 1 over 8 in the interior, along both axes.
    small = data.read_image(tmp_path / "frame1.png", 32, 64).astype(float)
    weights = np.array([1, 3, 3, 1]) / 8
    expected = np.einsum("i,j,ijc->c", weights, weights, native[9:13, 19:23].astype(float))
    np.testing.assert_allclose(small[5, 10], expected, atol=1)


def test_grey_and_transparent_images_become_rgb(tmp_path):
    Image.new("L", (64, 32), 7).save(tmp_path / "frame1.png")
    Image.new("RGBA", (64, 32), (1, 2, 3, 4)).save(tmp_path / "frame2.png")
    assert data.read_image(tmp_path / "frame1.png", 32, 64)[0, 0].tolist() == [7, 7, 7]
    assert data.read_image(tmp_path / "frame2.png", 32, 64)[0, 0].tolist() == [1, 2, 3]


def test_decoded_images_are_cached_until_one_changes(tmp_path, monkeypatch):
    _write(tmp_path, "train", range(5))
    first = data.load_footage(_config(tmp_path), "train").frames.copy()
    decoded = []
    monkeypatch.setattr(data, "read_image", lambda *args: decoded.append(args) or np.zeros((32, 64, 3), np.uint8))
    np.testing.assert_array_equal(data.load_footage(_config(tmp_path), "train").frames, first)
    assert not decoded
    Image.new("RGB", (640, 320), (200, 0, 0)).save(tmp_path / "train" / "train_img" / "frame3.png")
    data.load_footage(_config(tmp_path), "train")
    assert len(decoded) == 10


def test_damaged_cache_is_made_anew(tmp_path):
    _write(tmp_path, "train", range(5))
    first = data.load_footage(_config(tmp_path), "train").frames.copy()
    [cache] = (tmp_path / ".cvae_tf_cache").iterdir()
    cache.write_bytes(cache.read_bytes()[:1000])
    np.testing.assert_array_equal(data.load_footage(_config(tmp_path), "train").frames, first)


def test_cache_goes_to_the_users_folder_where_the_data_cannot_be_written(tmp_path, monkeypatch):
    root, home = tmp_path / "data", tmp_path / "home"
    _write(root, "train", range(5))
    (root / ".cvae_tf_cache").write_text("a file, so no folder can be made here")
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    data.load_footage(_config(root), "train")
    assert len(list((home / "cvae_tf").glob("train_32x64_*.npy"))) == 1


@pytest.mark.parametrize("break_it, message", [
    (lambda root: (root / "train" / "train_img").rename(root / "elsewhere"), "train_img: no such folder"),
    (lambda root: [p.unlink() for p in (root / "train" / "train_label").iterdir()], "train_label: no PNG images"),
    (lambda root: (root / "train" / "train_label" / "frame2.png").unlink(), "frame2.png: this frame has no pose"),
    (lambda root: (root / "train" / "train_img" / "frame2.png").write_bytes(b""), "frame2.png: not a readable image"),
    (lambda root: (root / "train" / "train_img" / "frame2.png").write_bytes(
        (root / "train" / "train_img" / "frame2.png").read_bytes()[:60]), "frame2.png: not a readable image"),
    (lambda root: (root / "train" / "train_img" / "frame.png").write_bytes(b""), "frame.png: the name holds no number"),
    (lambda root: (root / "train" / "train_img" / "other2.png").write_bytes(b""), "have the same number"),
])
def test_bad_folders_are_refused_by_name_and_leave_no_cache(tmp_path, break_it, message):
    _write(tmp_path, "train", range(5))
    break_it(tmp_path)
    with pytest.raises(InputError, match=message):
        data.load_footage(_config(tmp_path), "train")
    assert not list(tmp_path.glob(".cvae_tf_cache/*"))
