"""Folders of images, on their own and as the footage of a data set."""

import numpy as np
import pytest
from PIL import Image

from cvae_tf.config import Config
from cvae_tf.data import footage as data
from cvae_tf.data import images
from cvae_tf.errors import InputError


def test_pixels_fill_the_range_from_zero_to_one():
    pixels = images.to_float(np.array([0, 51, 255], np.uint8))
    assert pixels.dtype == np.float32
    np.testing.assert_array_equal(pixels, np.float32([0, 0.2, 1]))


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
    small = images.read_image(tmp_path / "frame1.png", 32, 64).astype(float)
    weights = np.array([1, 3, 3, 1]) / 8
    expected = np.einsum("i,j,ijc->c", weights, weights, native[9:13, 19:23].astype(float))
    np.testing.assert_allclose(small[5, 10], expected, atol=1)


def test_grey_and_transparent_images_become_rgb(tmp_path):
    Image.new("L", (64, 32), 7).save(tmp_path / "frame1.png")
    Image.new("RGBA", (64, 32), (1, 2, 3, 4)).save(tmp_path / "frame2.png")
    assert images.read_image(tmp_path / "frame1.png", 32, 64)[0, 0].tolist() == [7, 7, 7]
    assert images.read_image(tmp_path / "frame2.png", 32, 64)[0, 0].tolist() == [1, 2, 3]


def test_decoded_images_are_cached_until_one_changes(tmp_path, monkeypatch):
    _write(tmp_path, "train", range(5))
    first = data.load_footage(_config(tmp_path), "train").frames.copy()
    decoded = []
    monkeypatch.setattr(images, "read_image", lambda *args: decoded.append(args) or np.zeros((32, 64, 3), np.uint8))
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


def test_images_are_read_by_their_content_whatever_their_kind(tmp_path):
    path, colour = tmp_path / "frame1.png", (200, 100, 50)
    for image, expected in (
            (Image.new("1", (64, 32), 1), (255, 255, 255)),
            (Image.new("RGB", (64, 32), colour).quantize(4), colour),
            (Image.fromarray(np.full((32, 64), 257 * 77, np.uint16)), (77, 77, 77)),  # 16 bits
            (Image.new("LA", (64, 32), (9, 128)), (9, 9, 9))):
        image.save(path, format="PNG")
        assert images.read_image(path, 32, 64)[0, 0].tolist() == list(expected), image.mode
    for image, expected in ((Image.new("RGB", (64, 32), colour), colour),
                            (Image.new("CMYK", (64, 32), (0, 0, 0, 255)), (0, 0, 0))):
        image.save(path, format="JPEG", quality=100)
        np.testing.assert_allclose(images.read_image(path, 32, 64)[0, 0], expected, atol=4)


def test_names_may_hold_spaces_and_any_letters(tmp_path):
    root = tmp_path / "Videos von Zoë [1]"
    _write(root, "train", range(5))
    for kind in ("img", "label"):
        for path in (root / "train" / f"train_{kind}").iterdir():
            path.rename(path.with_name(f"Bild ü {path.stem[5:]}.png"))
    for _ in range(2):  # decoded, and from the cache
        assert data.load_footage(_config(root), "train").frames[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4]
    assert len(list((root / ".cvae_tf_cache").iterdir())) == 1


def test_a_flipped_bit_in_the_cache_is_noticed(tmp_path, capsys):
    _write(tmp_path, "train", range(5))
    first = data.load_footage(_config(tmp_path), "train").frames.copy()
    [cache] = (tmp_path / ".cvae_tf_cache").iterdir()
    content = bytearray(cache.read_bytes())
    content[-5] ^= 1
    cache.write_bytes(content)
    np.testing.assert_array_equal(data.load_footage(_config(tmp_path), "train").frames, first)
    assert ".npy: damaged, so not used" in capsys.readouterr().out
