"""Lengths, folders and files that nobody thought of: valid ones work, all others are refused in one line.

``python -m pytest tests/data/test_fuzz_data.py --hypothesis-profile long`` tries many more.
"""

import os
import shutil
import tempfile
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
from hypothesis import given
from PIL import Image

from cvae_tf.data import arrays, images
from cvae_tf.data.clips import Clips
from cvae_tf.data.footage import Footage, load_footage
from cvae_tf.errors import InputError

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=5), st.integers(2, 12), st.integers(1, 4), st.booleans(),
       st.integers(0, 3), st.integers(0, 50), st.integers(0, 10**6))
def test_every_batch_is_of_uncut_clips_and_belongs_to_its_epoch(lengths, length, batch_size, tiled, early_epochs,
                                                                steps_per_epoch, step):
    count = sum(lengths)
    frames = np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None, None], (count, 2, 2, 3))
    starts = np.cumsum([0, *lengths[:-1]]).tolist()
    footage = Footage(frames, frames, tuple(zip(starts, lengths, strict=True)))
    try:
        clips = Clips(footage, length, batch_size, order="tiled" if tiled else "random", early_share=0.7,
                      early_epochs=early_epochs, steps_per_epoch=steps_per_epoch)
    except InputError:  # no sequence has a clip in the first 70% of all frames
        assert all(min(start + size, int(0.7 * count)) - start < length
                   for start, size in zip(starts, lengths, strict=True))
        return
    epoch = clips.epoch_of(step)
    assert clips.first_step(epoch) <= step < clips.first_step(epoch + 1)
    numbers = clips.batch(step)["frames"][:, :, 0, 0, 0].astype(int)
    assert numbers.shape == (batch_size, length) and np.all(np.diff(numbers) == 1)
    sequence = np.searchsorted(starts, numbers, side="right").T
    assert np.all(sequence == sequence[0])
    assert len(clips.names(step)) == batch_size


NAMES = st.one_of(st.sampled_from(["frame1.png", "frame2.PNG", "7.png", "x.png", "\u0663.png", ".9.png", "frame 8.png",
                                   "frame" + "9" * 60 + ".png", "note.txt"]), TEXT.map(lambda text: text + ".png"))
PLACES = st.sampled_from(["train_img", "train_label"])
INDEX = st.integers(0, 7)
MUTATIONS = st.lists(st.one_of(
    st.tuples(st.just("remove"), PLACES, INDEX), st.tuples(st.just("truncate"), PLACES, INDEX, st.integers(0, 90)),
    st.tuples(st.just("flip"), PLACES, INDEX, st.integers(0, 400), st.integers(1, 255)),
    st.tuples(st.just("rename"), PLACES, INDEX, NAMES), st.tuples(st.just("rename both"), PLACES, INDEX, NAMES),
    st.tuples(st.just("bytes"), PLACES, INDEX, st.binary(max_size=60)),
    st.tuples(st.just("resize"), PLACES, INDEX, st.integers(1, 80), st.integers(1, 80)),
    st.tuples(st.just("link"), PLACES, INDEX, NAMES), st.tuples(st.just("folder"), PLACES, INDEX, NAMES),
    st.tuples(st.just("new"), PLACES, INDEX, NAMES)), max_size=4)


def _mutate(train, what, place, index, *more):
    files = sorted(path for path in (train / place).iterdir() if path.is_file())
    if not files:
        return
    path = files[index % len(files)]
    content = bytearray(path.read_bytes())
    if what == "remove":
        path.unlink()
    elif what == "truncate":
        path.write_bytes(content[:-more[0] or None])
    elif what == "flip" and content:
        content[more[0] % len(content)] ^= more[1]
        path.write_bytes(content)
    elif what == "bytes":
        path.write_bytes(more[0])
    elif what == "resize":
        Image.new("RGB", more).save(path, format="PNG")
    elif what in ("rename", "rename both", "link", "folder", "new"):
        name = more[0].replace("/", "_").replace("\0", "_")
        for folder in (("train_img", "train_label") if what == "rename both" else (place,)):
            source, target = train / folder / path.name, train / folder / name
            if target.exists() or target.is_symlink() or not source.is_file() or not name.strip("."):
                continue
            if what == "link":
                target.symlink_to(path.name)
            elif what == "folder":
                target.mkdir()
            elif what == "new":
                shutil.copy(source, target)
            else:
                source.rename(target)


def _colour(path):
    """The first pixel of an image, read without this project's code."""
    with Image.open(path) as image:
        return list(image.convert("RGB").getpixel((0, 0)))


@given(MUTATIONS)
def test_a_spoilt_folder_is_refused_or_read_as_it_is(mutations):
    with tempfile.TemporaryDirectory() as root:
        train = Path(root, "train")
        for kind in ("img", "label"):
            (train / f"train_{kind}").mkdir(parents=True)
            for n in range(6):
                Image.new("RGB", (16, 8), (n, 100 + n, 7 if kind == "img" else 9)).save(
                    train / f"train_{kind}" / f"frame{n + 3}.png")
        for mutation in mutations:
            _mutate(train, *mutation)
        (Path(root) / "val").mkdir()
        for kind in ("img", "label"):
            np.save(Path(root) / "val" / f"val_{kind}.npy", np.zeros((2, 8, 16, 3), np.uint8))
        try:
            footage = load_footage(root, frame_size=(8, 16)).train
        except InputError as error:
            assert str(error)
            return
        names = {int("".join(c for c in Path(name).stem if c.isdecimal())): name for name in
                 os.listdir(train / "train_img") if name.lower().endswith(".png") and not name.startswith(".")}
        numbers = sorted(names)
        for found, place in ((footage.frames, "train_img"), (footage.poses, "train_label")):
            assert found[:, 0, 0].tolist() == [_colour(train / place / names[n]) for n in numbers]
        cuts = [i for i in range(len(numbers)) if i == 0 or numbers[i] != numbers[i - 1] + 1]
        assert [start for start, _ in footage.sequences] == cuts
        np.testing.assert_array_equal(load_footage(root, frame_size=(8, 16)).train.frames, footage.frames)


@given(st.binary(max_size=300), st.sampled_from(["png", "jpeg", "nothing"]))
def test_any_bytes_are_an_image_or_refused(content, kind):
    start = {"png": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "jpeg": b"\xff\xd8\xff\xe0\0\x10JFIF\0", "nothing": b""}[kind]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "frame1.png")
        path.write_bytes(start + content)
        try:
            assert images.read_image(path, 8, 8).shape == (8, 8, 3)
        except InputError as error:
            assert "frame1.png" in str(error)


@given(st.sampled_from(["img.npy", "label.npy", "starts.txt", "stamp.json"]), st.one_of(
    st.binary(max_size=200), st.tuples(st.integers(0, 200), st.integers(1, 255))))
def test_any_bytes_are_arrays_or_refused(name, change):
    with tempfile.TemporaryDirectory() as root:
        folder, pixels = Path(root, "train"), np.zeros((3, 8, 16, 3), np.uint8)
        arrays.write_arrays(folder, pixels, pixels, ((0, 3),), {"checksum": arrays.checksum(pixels, pixels)})
        path = folder / f"train_{name}"
        content = bytearray(path.read_bytes())
        if isinstance(change, tuple):
            content[change[0] % len(content)] ^= change[1]
        path.write_bytes(content if isinstance(change, tuple) else change)
        try:
            frames, poses, _, _ = arrays.read_arrays(folder, 8, 16)
            assert not frames.any() and not poses.any()
        except InputError as error:
            assert "train" in str(error)
