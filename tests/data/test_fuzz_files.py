"""Damaged images and arrays: what they hold, or one line; a damaged cache is made anew.

``python -m pytest tests/data/test_fuzz_files.py --hypothesis-profile long`` tries 10,000 files for each reader.
"""

import io
import os
import zlib
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from mutations import FILES, damage, damaged, in_memory, outcome
from PIL import Image

from cvae_tf.data import arrays, images
from cvae_tf.data.footage import load_footage
from cvae_tf.errors import InputError
from cvae_tf.inference.driver import from_images
from cvae_tf.studio import scene

SIZE = (8, 16)
RANDOM = np.random.default_rng(0)
PIXELS = np.uint8(RANDOM.integers(0, 256, (4, *SIZE, 3)))


@pytest.fixture(scope="module")
def folder():
    with in_memory() as folder:
        yield folder


# ---------------------------------------------------------------------- images

def _encoded(image, kind="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, format=kind, **options)
    return stream.getvalue()


RGB = Image.fromarray(PIXELS[0])
IMAGES = {mode: _encoded(RGB.convert(mode)) for mode in ("RGB", "RGBA", "P", "L", "LA", "1")}
IMAGES["RGB in many parts"] = _encoded(RGB, transparency=(1, 2, 3), dpi=(72, 72), icc_profile=bytes(200))
IMAGES["16 bits"] = _encoded(Image.fromarray(np.uint16(RANDOM.integers(0, 2**16, SIZE))))
IMAGES["animation"] = _encoded(RGB, save_all=True, append_images=[Image.fromarray(PIXELS[1])])
IMAGES["JPEG"] = _encoded(RGB, "JPEG")
IN_PNG = ("IHDR", "IDAT", "PLTE", "tRNS", "iCCP", "pHYs", "acTL", "fcTL", "IEND", "PNG")


def _with_checksums(content):
    """A PNG whose parts have the checksums that they should have, so that the damage reaches the decoder."""
    found, at = content[:8], 8
    while at + 12 <= len(content):
        length = min(int.from_bytes(content[at:at + 4], "big"), len(content) - at - 12)
        part = content[at + 4:at + 8 + length]
        found += content[at:at + 4] + part + zlib.crc32(part).to_bytes(4, "big")
        at += 12 + length
    return found + content[at:]


@settings(max_examples=FILES)
@given(st.sampled_from(sorted(IMAGES)), damage(*IN_PNG), st.booleans())
def test_a_damaged_image_is_what_it_was_or_refused(folder, kind, changes, repaired):
    place = folder / "images"
    place.mkdir(exist_ok=True)
    path = place / "frame1.png"
    path.write_bytes(IMAGES[kind])
    whole = outcome(images.read_images, images.list_images(place), *SIZE)
    content = damaged(IMAGES[kind], changes)
    path.write_bytes(_with_checksums(content) if repaired else content)
    found = outcome(lambda: images.read_images(images.pair(place, place)[0], *SIZE))
    if found is not None and (repaired or kind == "JPEG"):  # nothing tells that these pixels are not meant
        assert found.shape == (1, *SIZE, 3) and found.dtype == np.uint8
    elif found is not None:
        np.testing.assert_array_equal(found, whole)


def test_no_flipped_bit_in_an_image_changes_what_is_read(folder):
    frame = scene.sequence(1, 16, 32, length=2)[0][0]  # its PNG refers to earlier pixels, where a bit moves the place
    path, whole = folder / "frame1.png", _encoded(Image.fromarray(frame))
    for bit in range(8 * len(whole)):
        path.write_bytes(damaged(whole, [("flip", bit // 8, bit % 8)]))
        found = outcome(images.read_image, path, 16, 32)
        assert found is None or np.array_equal(found, frame)


class _Model:
    height, width = SIZE
    path = Path("no model")


@settings(max_examples=FILES)
@given(st.sampled_from(["poses/frame0.png", "poses/frame2.png", "truth/frame0.png", "truth/frame1.png", "first.png"]),
       damage(*IN_PNG))
def test_damaged_poses_and_first_frames_are_what_they_were_or_refused(folder, name, changes):
    place = folder / "prediction"
    for below in ("poses", "truth"):
        if not (place / below).is_dir():
            (place / below).mkdir(parents=True)
            for n in range(3):
                Image.fromarray(PIXELS[n]).save(place / below / f"frame{n}.png")
            Image.fromarray(PIXELS[3]).save(place / "first.png")
    whole = (place / name).read_bytes()
    (place / name).write_bytes(damaged(whole, changes))
    try:
        first = place / "first.png" if name == "first.png" else None
        opened = outcome(from_images, _Model, first, place / "poses", place / "truth")
        if opened is None:
            return
        np.testing.assert_array_equal(np.uint8(np.rint(255 * opened.first_frame)), PIXELS[3 if first else 0])
        for part in outcome(opened.read, slice(0, 3)) or ():
            np.testing.assert_array_equal(np.uint8(np.rint(255 * part)), PIXELS[:3])
    finally:
        (place / name).write_bytes(whole)


# ---------------------------------------------------------------------- arrays

HEADERS = st.fixed_dictionaries({}, optional={
    "descr": st.sampled_from(["|u1", ">u1", "<u2", ">u2", "|O", "|b1", "|i1", "|S3", "|V1", "<f4", "u1", "", "xyz", 7,
                              [("a", "|u1")], [("a", "|O")], ("|u1", (3,)), "<M8[s]"]),
    "fortran_order": st.sampled_from([True, 1, None, "no"]),
    "shape": st.sampled_from([(4, 8, 16), (4,), (), 4, (10**30, 8, 16, 3), (2**62, 8, 16, 3), (10**9, 8, 16, 3),
                              (-1, 8, 16, 3), (0, 8, 16, 3), (3, 8, 16, 3), (5, 8, 16, 3), (4, 16, 8, 3),
                              (4.0, 8, 16, 3), (True, 8, 16, 3), "4", None, (4, 8, 16, 3, 1), (1,) * 70])})
IN_ARRAYS = ("NUMPY", "descr", "'|u1'", "fortran_order", "False", "shape", "(4, 8, 16, 3)", "4", "\n", "{", "}")
ARRAYS = ("img.npy", "label.npy", "starts.txt", "stamp.json")


def _with_header(changed):
    """Four frames as ``.npy`` with a header that says something else."""
    header = {"descr": "|u1", "fortran_order": False, "shape": PIXELS.shape, **changed}
    text = repr(header).encode().ljust(245) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + PIXELS.tobytes()


def _write(folder, stamped):
    pixels = arrays.checksum(PIXELS, PIXELS[::-1].copy())
    arrays.write_arrays(folder, PIXELS, PIXELS[::-1], ((0, 2), (2, 2)), {"checksum": pixels})
    if not stamped:
        (folder / f"{folder.name}_stamp.json").unlink()
    return pixels


@settings(max_examples=FILES)
@given(st.sampled_from(ARRAYS), st.one_of(damage(*IN_ARRAYS), HEADERS), st.booleans())
def test_damaged_arrays_are_what_they_were_or_refused(folder, name, changes, stamped):
    place = folder / ("stamped" if stamped else "given")
    pixels = _write(place, stamped)
    path = place / f"{place.name}_{name}"
    whole = path.read_bytes() if path.exists() else b""
    path.write_bytes(_with_header(changes) if isinstance(changes, dict) else damaged(whole, changes))
    found = outcome(arrays.read_arrays, place, *SIZE)
    if found is None:
        return
    frames, poses, sequences, checksum = found
    changed = not (np.array_equal(frames, PIXELS) and np.array_equal(poses, PIXELS[::-1]))
    assert (checksum == pixels) != changed and not (changed and stamped)
    assert frames.shape == poses.shape == PIXELS.shape
    assert [n for start, length in sequences for n in range(start, start + length)] == [0, 1, 2, 3]


@settings(max_examples=FILES)
@given(st.sampled_from(ARRAYS), st.one_of(damage(*IN_ARRAYS), HEADERS))
def test_a_damaged_cache_is_made_anew(folder, name, changes):
    root = folder / "cached"
    paths = [[root / f"{kind}{n}.png" for n in (1, 2, 3, 7)] for kind in ("a", "b")]
    if not root.is_dir():
        root.mkdir()
        for part, pixels in zip(paths, (PIXELS, PIXELS[::-1]), strict=True):
            for path, image in zip(part, pixels, strict=True):
                Image.fromarray(image).save(path)
        arrays.decode(root, "train", *paths, *SIZE)
    [path] = root.glob(f".cvae_tf_cache/*/*_{name}")
    path.write_bytes(_with_header(changes) if isinstance(changes, dict) else damaged(path.read_bytes(), changes))
    frames, poses, sequences, _ = outcome(arrays.decode, root, "train", *paths, *SIZE)
    np.testing.assert_array_equal(frames, PIXELS)
    np.testing.assert_array_equal(poses, PIXELS[::-1])
    assert sequences == ((0, 3), (3, 1))


@pytest.mark.parametrize("stamped", [True, False])
def test_no_flipped_bit_in_the_header_of_an_array_changes_what_is_read(folder, stamped):
    place = folder / "bits"
    pixels = _write(place, stamped)
    path = place / "bits_img.npy"
    whole = path.read_bytes()
    assert whole[128:] == PIXELS.tobytes()
    same = 0
    for bit in range(8 * 128):
        path.write_bytes(damaged(whole, [("flip", bit // 8, bit % 8)]))
        found = outcome(arrays.read_arrays, place, *SIZE)
        assert found is None or found[3] == pixels and np.array_equal(found[0], PIXELS)
        same += found is not None
    assert same < 8


def _archive(path):
    with open(path, "wb") as stream:
        np.savez(stream, PIXELS)


def _instead(make):
    def replace(path):
        path.unlink()
        make(path)
    return replace


PLAIN = {"a pipe": _instead(os.mkfifo), "a folder": _instead(os.mkdir),
         "a link to itself": _instead(lambda p: p.symlink_to(p)),
         "a link to nothing": _instead(lambda p: p.symlink_to(p.with_name("gone"))),
         "a device": _instead(lambda p: p.symlink_to("/dev/zero")), "empty": lambda p: p.write_bytes(b"")}
OTHER = {"an archive": _archive, "Fortran order": lambda p: np.save(p, np.asfortranarray(PIXELS)),
         "big-endian": lambda p: np.save(p, PIXELS.astype(">u2")),
         "too long": lambda p: p.write_bytes(p.read_bytes() + b"0"),
         "code": lambda p: p.write_bytes(_with_header({}).replace(b"(4, 8, 16, 3)", b"exit()       ")),
         "enormous": lambda p: p.write_bytes(_with_header({"shape": (10**30, 8, 16, 3)}))}


@pytest.mark.parametrize("name, damage_", [
    *(pytest.param(name, PLAIN[kind], id=f"{name} is {kind}") for name in ARRAYS for kind in PLAIN),
    *(pytest.param(name, OTHER[kind], id=f"{name} is {kind}") for name in ARRAYS[:2] for kind in OTHER)])
def test_what_is_no_array_is_refused_by_its_name(name, damage_, tmp_path):
    for split in ("train", "val"):
        _write(tmp_path / split, name == "stamp.json")
    damage_(tmp_path / "train" / f"train_{name}")
    with pytest.raises(InputError, match=f"train_{name}: "):
        load_footage(tmp_path, frame_size=SIZE)
