"""Single images; tests/data/test_footage.py has whole folders."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, image_tree
from PIL import Image

from cvae_tf.data import images
from cvae_tf.errors import InputError


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


def _two(tmp_path, size, pose=None):
    paths = tmp_path / "frame1.png", tmp_path / "pose1.png"
    for path, shape in zip(paths, (size, pose or size), strict=True):
        Image.new("RGB", shape).save(path)
    return paths


@pytest.mark.parametrize("size", [(64, 32), (1024, 512), (646, 320), (323, 160)])
def test_images_of_the_frames_shape_pass_in_silence(size, tmp_path, capsys):
    assert images.check_shapes(*_two(tmp_path, size), 32, 64) == "" and not capsys.readouterr().out


@pytest.mark.parametrize("size", [(640, 300), (640, 350), (109, 50)])
def test_images_of_nearly_the_frames_shape_are_squeezed_and_said_so_once(size, tmp_path, capsys):
    note = images.check_shapes(*_two(tmp_path, size), 32, 64)
    assert f"{size[0]}x{size[1]}" in note and "64x32" in note
    assert capsys.readouterr().out.count("\n") == 1


@pytest.mark.parametrize("size", [(480, 640), (1080, 1920), (640, 480), (1280, 720), (720, 576), (64, 64), (200, 33),
                                  (2000, 40), (1000, 9), (40, 3000)])
def test_images_of_another_shape_are_refused_with_sizes_that_fit(size, tmp_path):
    paths = _two(tmp_path, size)
    with pytest.raises(InputError, match=f"{size[0]}x{size[1]}") as caught:
        images.check_shapes(*paths, 32, 64)
    offered = re.search(r"--frame_H (\d+) --frame_W (\d+)", str(caught.value))
    if not offered:  # no width from 8 to 1024 pixels has that shape
        assert "other --frame_H and --frame_W" in str(caught.value) and max(size) / min(size) > 16
        return
    height, width = map(int, offered.groups())
    assert height % 8 == width % 8 == 0 and 8 <= height <= size[1] and 8 <= width <= size[0]
    images.check_shapes(*paths, height, width)
    assert images.read_image(paths[0], height, width).shape == (height, width, 3)


@pytest.mark.parametrize("pose", [(32, 64), (64, 33), (60, 32), (640, 330)])
def test_a_pose_of_another_shape_than_its_frame_is_refused(pose, tmp_path):
    with pytest.raises(InputError, match=f"pose1.png: {pose[0]}x{pose[1]} .* 64x32 in .*frame1.png"):
        images.check_shapes(*_two(tmp_path, (64, 32), pose), 32, 64)


@pytest.mark.slow
def test_a_portrait_video_is_refused_by_training_evaluation_and_prediction_before_they_write(end_of, tmp_path):
    model = ["--model", ROOT / "saved_models" / "studio"]
    image_tree(tmp_path / "data", 4, (90, 160), name="")
    Image.new("RGB", (160, 80)).save(tmp_path / "wide.png")
    poses = ["--poses", "data/val/val_label"]
    for words, message in (
            (["train", "--data_dir", "data", "--preset", "debug"], "--frame_H"),
            (["evaluate", "--data_dir", "data", *model], "--frame_H"),
            (["predict", *poses, "--truth", "data/val/val_img", *model], "--frame_H"),
            (["predict", *poses, "--first_frame", "data/val/val_img/000.png", *model], "--frame_H"),
            (["predict", "--data_dir", "data", "--split", "val", *model], "--frame_H"),
            (["predict", *poses, "--first_frame", "wide.png", *model], "000.png: 90x160 .* 160x80 in wide.png")):
        ended = end_of(*words)
        lines = [line for line in ended.err.splitlines() if line.startswith("error: ")]
        assert ended.code == 2 and len(lines) == 1 and re.search(f"90x160 .*{message}|{message}", lines[0]), ended.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "wide.png"]
    assert not list(tmp_path.rglob("*.npy"))


def test_a_photo_that_lies_on_its_side_stands_upright(tmp_path):
    pixels = np.zeros((16, 24, 3), np.uint8)
    pixels[:8] = 200  # the upper half is light
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: upright after a quarter turn clockwise
    Image.fromarray(np.rot90(pixels)).save(tmp_path / "1.jpg", exif=exif, quality=95)
    assert images.image_size(tmp_path / "1.jpg") == (24, 16)
    np.testing.assert_allclose(images.read_image(tmp_path / "1.jpg", 16, 24), pixels, atol=6)
