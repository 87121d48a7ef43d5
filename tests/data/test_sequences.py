import functools
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from cvae_tf.data.sequences import load_sequences
from cvae_tf.errors import InputError
from cvae_tf.pose.keypoints import KeyPoints, write_poses
from cvae_tf.studio import scene as studio


def _write(folder, numbers, size=(64, 32), shade=0):
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        Image.new("RGB", size, (number % 256, shade, 0)).save(folder / f"frame{number:04d}.png")


def _both(root, split, numbers, below="", **options):
    for kind, shade in (("img", 0), ("label", 200)):
        _write(root / split / f"{split}_{kind}" / below, numbers, shade=shade, **options)


def test_validation_of_a_data_set_is_read_whole(lab_tree):
    (only,) = load_sequences(lab_tree, "val", 32, 64)
    frames, poses = studio.sequence(0, 32, 64, length=40)
    np.testing.assert_array_equal(only.frames, frames)
    np.testing.assert_array_equal(only.poses, poses)
    assert only.name == "frame00000000 to frame00000039"


def test_a_gap_in_the_numbers_makes_two_sequences_and_single_frames_are_none(tmp_path):
    _both(tmp_path, "val", [1, 2, 3, 10, 11, 50])
    found = load_sequences(tmp_path, "val", 32, 64)
    assert [(one.name, one.frames[:, 0, 0, 0].tolist()) for one in found] == [
        ("frame0001 to frame0003", [1, 2, 3]), ("frame0010 to frame0011", [10, 11])]


def test_numbered_folders_come_in_numeric_order(tmp_path):
    for name, first in (("10", 30), ("2", 20), ("1", 10)):
        _both(tmp_path, "test", [first, first + 1], below=name)
    found = load_sequences(tmp_path, "test", 32, 64)
    assert [(one.name, int(one.frames[0, 0, 0, 0])) for one in found] == [("1", 10), ("2", 20), ("10", 30)]
    assert all(np.all(one.poses[..., 1] == 200) for one in found)


def test_a_folder_of_another_name_is_a_split_too(tmp_path):
    _both(tmp_path / "elsewhere", "val", [1, 2])
    (tmp_path / "elsewhere" / "val").rename(tmp_path / "mine")
    for split in ("mine", str(tmp_path / "mine")):
        assert len(load_sequences(tmp_path, split, 32, 64)) == 1


def test_images_are_scaled_down_to_the_models_size(tmp_path):
    _both(tmp_path, "val", [7, 8], size=(256, 128))
    (only,) = load_sequences(tmp_path, "val", 32, 64)
    assert only.frames.shape == (2, 32, 64, 3)


def test_the_studio_keeps_its_test_sequences_from_training(monkeypatch):
    monkeypatch.setattr(studio, "sequence", functools.partial(studio.sequence, length=9))  # of 630
    (validation,) = load_sequences("studio", "val", 16, 32)
    test = load_sequences("studio", "test", 16, 32, studio_seed=3)
    assert len(test) == 5 and validation.frames.shape == (9, 16, 32, 3)
    np.testing.assert_array_equal(test[0].frames, studio.sequence(1001, 16, 32, seed=3)[0])


def test_the_studio_knows_the_key_points_of_its_frames(monkeypatch):
    monkeypatch.setattr(studio, "sequence", functools.partial(studio.sequence, length=9))  # of 630
    one = load_sequences("studio", "test", 16, 32, studio_seed=3, studio_variety=True)[1]
    assert len(one.key_points) == 9 and one.key_points.size == (32, 16)
    np.testing.assert_array_equal(one.key_points.points, studio.key_points(1002, 16, 32, seed=3, length=9).points)


def _key_points(root, numbers, split="val", size=(128, 64)):
    """Write poses.json: in the image of number n, all points are at (n, n) pixels."""
    points = np.float32(np.broadcast_to(np.reshape(numbers, (-1, 1, 1)), (len(numbers), 33, 2)))
    write_poses(root / "poses.json", KeyPoints(points, np.ones(points.shape[:2], np.float32), size, 20),
                [f"{split}/{split}_img/frame{number:04d}.png" for number in numbers])


def test_key_points_of_a_prepared_data_set_come_in_pixels_of_the_frames(tmp_path):
    _both(tmp_path, "val", [8, 9, 20, 21, 22], size=(128, 64))
    assert [one.key_points for one in load_sequences(tmp_path, "val", 32, 64)] == [None, None]
    _key_points(tmp_path, [22, 21, 20, 9, 8, 7])
    one, other = load_sequences(tmp_path, "val", 32, 64)
    assert one.key_points.size == other.key_points.size == (64, 32)
    assert one.key_points.points[:, 5].tolist() == [[4, 4], [4.5, 4.5]]
    assert other.key_points.points[:, 32].tolist() == [[10, 10], [10.5, 10.5], [11, 11]]


def test_key_points_that_lack_a_frame_are_refused_and_own_test_frames_need_none(tmp_path):
    for split in ("val", "test"):
        _both(tmp_path, split, [8, 9])
    _key_points(tmp_path, [8])
    with pytest.raises(InputError, match="poses.json: has no key points of val/val_img/frame0009.png"):
        load_sequences(tmp_path, "val", 32, 64)
    (only,) = load_sequences(tmp_path, "test", 32, 64)
    assert only.key_points is None


def test_what_cannot_be_evaluated_is_refused_with_the_place(tmp_path, lab_tree):
    def refused(message, split="val", root=tmp_path / "data", **size):
        with pytest.raises(InputError, match=message):
            load_sequences(root, split, size.get("height", 32), size.get("width", 64))

    refused("nothing: no such folder", root=tmp_path / "nothing", split=str(lab_tree / "val"))
    refused("elsewhere: no such folder", root=lab_tree, split="elsewhere")
    refused("--split must be val or test", root="studio", split="train")
    refused("1 true frames for 40 poses", root=lab_tree, split="test")  # the lab hands out the first frame only
    refused("64x32 pixels are fewer than the model's 128x64", root=lab_tree, height=64, width=128)
    _both(tmp_path / "data", "val", [1, 3, 5])
    refused("no two frames with consecutive numbers")
    (tmp_path / "data" / "val" / "val_label" / "frame0003.png").unlink()
    refused("frame0003.png: this frame has no pose")
    (tmp_path / "data" / "val" / "val_img" / "frame0003.png").write_bytes(b"no image")
    _write(tmp_path / "data" / "val" / "val_label", [3])
    refused("frame0003.png: not a readable image")
    shutil.rmtree(tmp_path / "data" / "val" / "val_img")
    refused("0 folders named \\*_img")
    (tmp_path / "data" / "val" / "val_img").mkdir()
    refused("val_img: no PNG images in this folder")


def test_images_of_two_sizes_are_refused(tmp_path):
    _both(tmp_path, "val", [1, 2])
    _write(tmp_path / "val" / "val_img", [2], size=(100, 100))
    with pytest.raises(InputError, match="frame0002.png: 100x100 pixels; expected 64x32"):
        load_sequences(tmp_path, "val", 32, 64)


def test_frames_and_poses_of_different_shapes_are_refused_and_of_different_sizes_are_not(tmp_path):
    _write(tmp_path / "val" / "val_img", [1, 2])
    _write(tmp_path / "val" / "val_label", [1, 2], size=(256, 128))
    assert load_sequences(tmp_path, "val", 32, 64)[0].poses.shape == (2, 32, 64, 3)
    _write(tmp_path / "val" / "val_label", [1, 2], size=(128, 128))
    with pytest.raises(InputError, match="128x128 pixels are not of the shape of the frames, 64x32"):
        load_sequences(tmp_path, "val", 32, 64)


def test_footage_of_about_the_shape_is_squeezed_as_in_training_and_said_so(tmp_path, capsys):
    _both(tmp_path, "val", [1, 2], size=(128, 70))
    (only,) = load_sequences(tmp_path, "val", 32, 64)
    assert only.frames.shape == (2, 32, 64, 3) and "128x70 pixels are squeezed" in only.note
    assert capsys.readouterr().out.count("128x70 pixels are squeezed") == 1


def test_names_of_files_and_folders_are_shown_by_their_codes(tmp_path):
    for name in ("a\n\x1b[31m1", os.fsdecode(b"b\xff2")):
        _both(tmp_path, "test", [1, 2], below=name)
    assert [one.name for one in load_sequences(tmp_path, "test", 32, 64)] == ["b\\udcff2", "a\\n\\x1b[31m1"]


def test_a_cut_within_a_numbered_folder_gives_two_names(tmp_path):
    _both(tmp_path, "test", [1, 2, 5, 6, 7], below="0")
    assert [one.name for one in load_sequences(tmp_path, "test", 32, 64)] == [
        "0: frame0001 to frame0002", "0: frame0005 to frame0007"]


def test_a_sequence_of_frames_or_poses_alone_is_refused(tmp_path):
    _both(tmp_path, "test", [1, 2], below="0")
    _write(tmp_path / "test" / "test_label" / "1", [1, 2])
    with pytest.raises(InputError, match="test_img/1: no such folder, for the sequence in .*test_label/1"):
        load_sequences(tmp_path, "test", 32, 64)


def test_val_is_never_taken_from_elsewhere(tmp_path, monkeypatch):
    _both(tmp_path, "val", [1, 2])
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="data/val: no such folder"):
        load_sequences("data", "val", 32, 64)


def test_hidden_files_are_no_images(tmp_path):
    _both(tmp_path, "test", [1, 2], below="0")
    (tmp_path / "test" / "test_img" / "._x.png").write_bytes(b"")
    assert [one.name for one in load_sequences(tmp_path, "test", 32, 64)] == ["0"]
