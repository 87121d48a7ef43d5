"""Single images; tests/data/test_footage.py has whole folders."""

import os
import subprocess
import sys

import numpy as np
from conftest import ROOT
from PIL import Image

from cvae_tf.data import images


def test_pixels_fill_the_range_from_zero_to_one():
    pixels = images.to_float(np.array([0, 51, 255], np.uint8))
    assert pixels.dtype == np.float32
    np.testing.assert_array_equal(pixels, np.float32([0, 0.2, 1]))


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


def test_many_images_are_decoded_without_keras(tmp_path):
    code = ("import sys, pathlib; from PIL import Image; from cvae_tf.data import images; "
            "path = pathlib.Path('frame1.png'); Image.new('RGB', (16, 8)).save(path); "
            "assert len(images.read_images([path] * 500, 8, 16)) == 500; "
            "sys.exit(any(name in sys.modules for name in ('keras', 'tensorflow')))")
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
