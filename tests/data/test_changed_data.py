"""Data that changed between two starts: what `arrays` says is noticed is, by the checksum that a run keeps."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cvae_tf.data import arrays
from cvae_tf.data.footage import load_footage

COUNT, SIZE = 250, (8, 16)


def _load(root):
    return load_footage(str(root), frame_size=SIZE).train


def _pixels():
    return np.uint8(np.random.default_rng(0).integers(1, 256, (COUNT, *SIZE, 3)))


@pytest.fixture
def given(tmp_path):
    """A data set of arrays without a stamp, as a user makes them."""
    for split in ("train", "val"):
        (tmp_path / "given" / split).mkdir(parents=True)
        for kind in ("img", "label"):
            np.save(tmp_path / "given" / split / f"{split}_{kind}.npy", _pixels())
    return tmp_path / "given"


@pytest.fixture
def drawn(tmp_path):
    """A data set of PNG images without compression, so that those of one shape are of one size."""
    for split in ("train", "val"):
        for kind in ("img", "label"):
            folder = tmp_path / "drawn" / split / f"{split}_{kind}"
            folder.mkdir(parents=True)
            for n, pixels in enumerate(_pixels()[:5]):
                Image.fromarray(pixels).save(folder / f"frame{n}.png", compress_level=0)
    return tmp_path / "drawn"


def _change_in_place(path, frame, keep_time=False):
    times = os.stat(path)
    mapped = np.lib.format.open_memmap(path, mode="r+")
    mapped[frame] = 0
    mapped.flush()
    del mapped
    time = times.st_mtime_ns if keep_time else times.st_mtime_ns + 10**9
    os.utime(path, ns=(time, time))


@pytest.mark.parametrize("kind", ["img", "label"])
@pytest.mark.parametrize("frame", [0, 1, 124, 248, 249])
def test_a_frame_blackened_in_an_array_is_noticed_wherever_it_is(kind, frame, given):
    before = _load(given).checksum
    _change_in_place(given / "train" / f"train_{kind}.npy", frame, keep_time=True)
    assert _load(given).checksum != before


def test_of_a_large_array_a_hundred_frames_the_count_and_the_times_are_noticed(given, monkeypatch):
    monkeypatch.setattr(arrays, "CHECKED", 2 * COUNT * 8 * 16 * 3 - 1)
    path, before = given / "train" / "train_img.npy", _load(given).checksum
    unsampled = sorted(set(range(COUNT)) - set(np.linspace(0, COUNT - 1, 100).astype(int)))
    _change_in_place(path, unsampled[7], keep_time=True)
    assert _load(given).checksum == before  # as the documentation says
    _change_in_place(path, unsampled[8])
    timed = _load(given).checksum
    assert timed != before
    _change_in_place(path, COUNT - 1, keep_time=True)
    assert _load(given).checksum not in (before, timed)


@pytest.mark.parametrize("copy", [shutil.copy, shutil.copy2])
def test_a_copy_of_arrays_is_the_same_footage(copy, given, tmp_path, monkeypatch):
    before = _load(given).checksum
    shutil.copytree(given, tmp_path / "copy", copy_function=copy)
    assert _load(tmp_path / "copy").checksum == before
    monkeypatch.setattr(arrays, "CHECKED", 0)
    assert (_load(tmp_path / "copy").checksum == _load(given).checksum) == (copy is shutil.copy2)  # which keeps times


def _exchange(path, other, times):
    """Another picture in the place of the one at ``path``, as a file moved there."""
    shutil.copyfile(other, path.with_name("new"))
    os.utime(path.with_name("new"), ns=(times.st_atime_ns, times.st_mtime_ns))
    os.replace(path.with_name("new"), path)


def _overwrite(path, other, times):
    path.write_bytes(Path(other).read_bytes())
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.mark.parametrize("replace", [_exchange, _overwrite])
@pytest.mark.parametrize("kind", ["img", "label"])
def test_an_image_replaced_by_one_of_equal_size_and_time_is_noticed(replace, kind, drawn):
    before = _load(drawn)
    images = [drawn / "train" / f"train_{kind}" / f"frame{n}.png" for n in (3, 4)]
    times, other = os.stat(images[0]), os.stat(images[1])
    assert times.st_size == other.st_size
    replace(*images, times)
    assert os.stat(images[0]).st_mtime_ns == times.st_mtime_ns
    after = _load(drawn)
    assert after.checksum != before.checksum
    np.testing.assert_array_equal((after.frames if kind == "img" else after.poses)[3], _pixels()[4])


def test_a_copy_of_images_is_the_same_footage_though_its_cache_is_made_anew(drawn, tmp_path, capsys):
    before = _load(drawn).checksum
    shutil.copytree(drawn, tmp_path / "copy", copy_function=shutil.copy)
    capsys.readouterr()
    assert _load(tmp_path / "copy").checksum == before
    assert "Reading 10 images" in capsys.readouterr().out


def test_of_a_large_cache_a_hundred_frames_and_its_stamp_are_compared(drawn, monkeypatch, capsys):
    monkeypatch.setattr(arrays, "CHECKED", 0)
    before = _load(drawn)
    checksum, frames = before.checksum, before.frames.copy()
    [path] = drawn.glob(".cvae_tf_cache/train_*/*_img.npy")
    stamp = path.with_name(path.name.replace("img.npy", "stamp.json"))
    for damage in (lambda: _change_in_place(path, 4, keep_time=True),
                   lambda: stamp.write_text(stamp.read_text().replace(checksum, "0" * 16))):
        damage()
        capsys.readouterr()
        after = _load(drawn)
        assert "made anew" in capsys.readouterr().out
        assert after.checksum == checksum
        np.testing.assert_array_equal(after.frames, frames)
