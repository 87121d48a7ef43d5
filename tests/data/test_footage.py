"""Footage as arrays, as images decoded into a cache, and from the studio."""

import json

import numpy as np
import pytest
from PIL import Image

from cvae_tf.data import images
from cvae_tf.data.footage import Footage, load_footage
from cvae_tf.data.sequences import load_sequences
from cvae_tf.errors import InputError
from cvae_tf.studio import scene as studio


def _load(root, **options):
    return load_footage(str(root), frame_size=(8, 16), **options)


def _pixels(count, seed):
    return np.uint8(np.random.default_rng(seed).integers(0, 256, (count, 8, 16, 3)))


def _write_arrays(root, frames, poses, starts=None):
    for split in ("train", "val"):
        folder = root / split
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / f"{split}_img.npy", frames)
        np.save(folder / f"{split}_label.npy", poses)
        if starts is not None:
            (folder / f"{split}_starts.txt").write_text(starts)


def _write_images(root, numbers, size=(16, 8), stem="frame"):
    for split in ("train", "val"):
        for kind, shade in (("img", 0), ("label", 200)):
            folder = root / split / f"{split}_{kind}"
            folder.mkdir(parents=True, exist_ok=True)
            for number in numbers:
                Image.new("RGB", size, (number, shade, 0)).save(folder / f"{stem}{number}.png")


def test_validation_takes_the_beginning_of_the_longest_sequence():
    frames = np.broadcast_to(np.arange(25, dtype=np.uint8)[:, None, None, None], (25, 8, 8, 3))
    footage = Footage(frames, 255 - frames, ((0, 5), (5, 20)))
    found, poses = footage.longest(10)
    assert found[:, 0, 0, 0].tolist() == list(range(5, 15)) and poses[0, 0, 0, 0] == 250
    assert len(footage.longest(630)[0]) == 20
    with pytest.raises(InputError, match="at least 2 frames"):
        Footage(frames, frames, ((0, 1), (1, 1))).longest(10)


def test_the_studio_is_cut_to_the_frames_asked_for():
    splits = load_footage(frame_size=(8, 16), max_frames=60, studio_sequences=3)
    assert splits.train.sequences == splits.val.sequences == ((0, 60),)
    assert (splits.train.split, splits.val.split) == ("train", "val")
    np.testing.assert_array_equal(splits.train.poses, studio.sequence(1, 8, 16, length=60)[1])
    np.testing.assert_array_equal(splits.val.frames, studio.sequence(0, 8, 16, length=60)[0])


@pytest.mark.parametrize("flag, options", [
    ("--frame_W", dict(frame_size=(8, 4))), ("--max_frames", dict(max_frames=-1)),
    ("--studio_sequences", dict(studio_sequences=0))])
def test_values_out_of_range_are_refused_by_their_names(flag, options):
    with pytest.raises(InputError, match=flag):
        load_footage(**options)


# ---------------------------------------------------------------------- arrays

def test_arrays_are_footage_and_sequences_and_stay_on_the_disk(tmp_path):
    frames, poses = _pixels(30, 0), _pixels(30, 1)
    _write_arrays(tmp_path, frames, poses, "0\n12\n29\n")
    footage = _load(tmp_path).train
    np.testing.assert_array_equal(footage.frames, frames)
    np.testing.assert_array_equal(footage.poses, poses)
    assert isinstance(footage.frames, np.memmap)
    assert footage.sequences == ((0, 12), (12, 17), (29, 1))
    assert _load(tmp_path, max_frames=15).train.sequences == ((0, 12), (12, 3))
    found = load_sequences(str(tmp_path), "val", 8, 16)
    assert [(one.name, len(one.frames)) for one in found] == [("0 to 11", 12), ("12 to 28", 17)]
    (tmp_path / "train" / "train_starts.txt").unlink()
    assert _load(tmp_path).train.sequences == ((0, 30),)
    poses[7] += 1
    _write_arrays(tmp_path, frames, poses)
    assert _load(tmp_path).train.checksum != footage.checksum


@pytest.mark.parametrize("damage, complaint", [
    (lambda folder: (folder / "train_label.npy").unlink(), "train_label.npy: cannot be read"),
    (lambda folder: (folder / "train_img.npy").write_bytes(b"half a file"), "train_img.npy: cannot be read"),
    (lambda folder: (folder / "train_img.npy").write_bytes((folder / "train_img.npy").read_bytes()[:-1]),
     "train_img.npy: cannot be read"),
    (lambda folder: np.save(folder / "train_img.npy", np.array([{}], object)), "train_img.npy: cannot be read"),
    (lambda folder: np.save(folder / "train_img.npy", np.uint8(3)), "train_img.npy"),
    (lambda folder: np.save(folder / "train_img.npy", np.zeros((30, 8, 16, 3))), "type float64; expected"),
    (lambda folder: np.save(folder / "train_img.npy", np.zeros((30, 8, 8, 3), np.uint8)), "--frame_H and --frame_W"),
    (lambda folder: np.save(folder / "train_img.npy", np.zeros((0, 8, 16, 3), np.uint8)), "expected"),
    (lambda folder: np.save(folder / "train_img.npy", np.asfortranarray(_pixels(30, 1))), "Fortran"),
    (lambda folder: np.save(folder / "train_label.npy", _pixels(29, 1)), "29 poses for 30 frames"),
    (lambda folder: (folder / "train_starts.txt").write_text("0 x"), "one whole number per line"),
    (lambda folder: (folder / "train_starts.txt").write_text("0 9 9"), "rising numbers"),
    (lambda folder: (folder / "train_starts.txt").write_text("0 30"), "below 30"),
])
def test_arrays_that_do_not_fit_are_refused(damage, complaint, tmp_path):
    _write_arrays(tmp_path, _pixels(30, 0), _pixels(30, 1))
    damage(tmp_path / "train")
    with pytest.raises(InputError, match=complaint):
        _load(tmp_path)


# ---------------------------------------------------------------------- images and their cache

def test_frames_are_ordered_by_number_and_cut_at_gaps(tmp_path):
    _write_images(tmp_path, [9, 10, 100, 11, 101])
    (tmp_path / "train" / "train_img" / "._frame12.png").write_bytes(b"hidden")
    for _ in range(2):  # decoded, and from the cache
        footage = _load(tmp_path).train
        assert footage.frames[:, 0, 0].tolist() == [[n, 0, 0] for n in (9, 10, 11, 100, 101)]
        assert footage.poses[:, 0, 0].tolist() == [[n, 200, 0] for n in (9, 10, 11, 100, 101)]
        assert footage.sequences == ((0, 3), (3, 2))
        assert [path.name for path in footage.names[2:4]] == ["frame11.png", "frame100.png"]
    assert _load(tmp_path, max_frames=4).train.sequences == ((0, 3), (3, 1))


def test_decoded_images_are_cached_until_one_changes(tmp_path, monkeypatch):
    _write_images(tmp_path, range(5))
    first = _load(tmp_path)
    decoded = []
    monkeypatch.setattr(images, "read_image", lambda *args: decoded.append(args) or np.zeros((8, 16, 3), np.uint8))
    again = _load(tmp_path)
    np.testing.assert_array_equal(again.train.frames, first.train.frames)
    assert (again.train.checksum, again.train.sequences) == (first.train.checksum, first.train.sequences)
    assert not decoded and isinstance(again.train.frames, np.memmap)
    Image.new("RGB", (160, 80), (200, 0, 0)).save(tmp_path / "train" / "train_img" / "frame3.png")
    assert _load(tmp_path).train.checksum != first.train.checksum
    assert len(decoded) == 10


def _flip(path):
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [
    lambda img: img.write_bytes(img.read_bytes()[:100]), _flip, lambda img: img.unlink(),
    lambda img: np.save(img, np.zeros((5, 8, 16, 3))), lambda img: np.save(img, np.array([{}], object)),
    lambda img: np.save(img, np.asfortranarray(_pixels(5, 0))), lambda img: np.save(img, _pixels(4, 0)),
    lambda img: img.with_name(img.name.replace("img.npy", "stamp.json")).write_text("{"),
    lambda img: img.with_name(img.name.replace("img.npy", "starts.txt")).write_text("5"),
], ids=["cut", "flipped bit", "missing", "float", "objects", "Fortran", "short", "stamp", "starts"])
def test_a_damaged_cache_is_made_anew(damage, tmp_path, capsys):
    _write_images(tmp_path, range(5))
    first = _load(tmp_path).val.frames.copy()
    [img] = tmp_path.glob(".cvae_tf_cache/val_*/*_img.npy")
    damage(img)
    capsys.readouterr()
    np.testing.assert_array_equal(_load(tmp_path).val.frames, first)
    assert "made anew" in capsys.readouterr().out
    np.testing.assert_array_equal(_load(tmp_path).val.frames, first)
    assert not capsys.readouterr().out


def test_the_cache_goes_to_the_users_folder_if_the_data_cannot_be_written(tmp_path, monkeypatch, capsys):
    root, home = tmp_path / "data", tmp_path / "home"
    _write_images(root, range(5))
    (root / ".cvae_tf_cache").write_text("a file, so that no folder can be made here")
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    _load(root)
    [stamp] = (home / "cvae_tf").glob("train_8x16_*/*_stamp.json")
    assert json.loads(stamp.read_text())["size"] == [8, 16]
    assert isinstance(_load(root).train.frames, np.memmap)


@pytest.mark.parametrize("damage, complaint", [
    (lambda train: (train / "train_img").rename(train / "elsewhere"), "train_img: no such folder"),
    (lambda train: [path.unlink() for path in (train / "train_label").iterdir()], "train_label: no PNG images"),
    (lambda train: (train / "train_label" / "frame2.png").unlink(), "frame2.png: this frame has no pose"),
    (lambda train: (train / "train_img" / "frame2.png").write_bytes(b""), "frame2.png: not a readable image"),
    (lambda train: (train / "train_img" / "frame2.png").write_bytes(
        (train / "train_img" / "frame2.png").read_bytes()[:50]), "frame2.png: not a readable image"),
    (lambda train: (train / "train_img" / "frame.png").write_bytes(b""), "frame.png: the name holds no number"),
    (lambda train: (train / "train_img" / "other2.png").write_bytes(b""), "have the same number"),
])
def test_bad_folders_are_refused_by_name_and_leave_no_cache(tmp_path, damage, complaint):
    _write_images(tmp_path, range(5))
    damage(tmp_path / "train")
    with pytest.raises(InputError, match=complaint):
        _load(tmp_path)
    assert not list(tmp_path.glob(".cvae_tf_cache/*"))


def test_names_may_hold_spaces_and_any_letters(tmp_path):
    root = tmp_path / "Videos von Zoë [1]"
    _write_images(root, range(5), stem="Bild ü ")
    for _ in range(2):  # decoded, and from the cache
        assert _load(root).train.frames[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4]
    assert len(list((root / ".cvae_tf_cache").iterdir())) == 2
