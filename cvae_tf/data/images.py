"""Folders of PNG images: listed in order, paired, and decoded at a model's size.

Images are ordered by the number in the file name and paired by name; a gap in the numbers is a cut.
"""

import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import imageio.v3 as iio
import numpy as np
from PIL import Image, UnidentifiedImageError

from cvae_tf.errors import InputError, say

SQUEEZED = 0.1  # largest relative difference between the aspect ratios of images and frames
ORIENTATION = 0x0112  # in a photo's EXIF data; from 5 on, the picture is stored lying on its side
FORMATS = ("PNG", "JPEG")  # whatever the file's suffix; Pillow's other decoders never run


def to_float(pixels):
    """Convert pixels from uint8 to float32 in [0, 1]."""
    return np.asarray(pixels, np.float32) / np.float32(255)


def uncut(paths):
    """(start, length) of each run of images with consecutive numbers, in order, for sorted ``paths``."""
    numbers = [number_of(path) for path in paths]
    cuts = [0, *(i for i in range(1, len(numbers)) if numbers[i] != numbers[i - 1] + 1), len(numbers)]
    return tuple((a, b - a) for a, b in zip(cuts, cuts[1:], strict=False))


def number_of(path):
    """The number formed by all digits of a file's name, by which the lab orders its frames.

    Raises:
        InputError: the name holds no digit.
    """
    digits = "".join(re.findall(r"\d", path.stem))
    if not digits:
        raise InputError(f"{path}: the name holds no number; name the images like frame000001.png")
    return int(digits)


def list_images(folder):
    """The PNG files of a folder in the order of the numbers in their names, without hidden files.

    Raises:
        InputError: the folder is missing or holds no PNG file, two files have the same number, or one is not a
            plain file.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; expected a folder of PNG images")
    try:
        files = list(folder.iterdir())
    except OSError as error:
        raise InputError(f"{folder}: cannot be listed ({error.strerror})") from error
    paths = sorted((p for p in files if p.suffix.lower() == ".png" and not p.name.startswith(".")), key=number_of)
    if not paths:
        raise InputError(f"{folder}: no PNG images in this folder")
    for one, other in zip(paths, paths[1:], strict=False):
        if number_of(one) == number_of(other):
            raise InputError(f"{folder}: {one.name} and {other.name} have the same number; remove one of them")
    for path in paths:
        if not path.is_file():  # leaving it out would make a cut
            raise InputError(f"{path}: is not a readable file; replace or remove it")
    return paths


def pair(frame_folder, pose_folder):
    """The images in ``frame_folder`` and the poses of the same names in ``pose_folder``, as two lists of paths.

    Raises:
        InputError: a folder is missing or empty, or a frame has no pose.
    """
    frame_paths = list_images(frame_folder)
    poses = {path.name: path for path in list_images(pose_folder)}
    for path in frame_paths:
        if path.name not in poses:
            raise InputError(f"{path}: this frame has no pose; expected {Path(pose_folder) / path.name}")
    return frame_paths, [poses[path.name] for path in frame_paths]


def image_size(path):
    """(width, height) of an image in pixels, read from the header of its file.

    Raises:
        InputError: the file is missing, or is not a single image in one of `FORMATS`.
    """
    return _header(path)[0]


def _header(path):
    """((width, height), mode, format) of an image; a photo that lies on its side counts as upright."""
    try:
        if not Path(path).is_file():  # opening a pipe would block for ever
            raise ValueError("not a plain file" if os.path.lexists(path) else "no such file")
        with Image.open(path, formats=FORMATS) as image:
            if getattr(image, "n_frames", 1) > 1:
                raise ValueError(f"an animation of {image.n_frames} images")
            turned = image.format == "JPEG" and image.getexif().get(ORIENTATION, 1) > 4
            found = image.size[::-1] if turned else image.size, image.mode, image.format
            image.verify()  # checks a PNG's checksums, some of which decoding ignores
            return found
    except Exception as error:
        raise _unreadable(path, error) from error


def _unreadable(path, error):
    reason = "neither a PNG nor a JPEG file" if isinstance(error, UnidentifiedImageError) else error
    return InputError(f"{path}: not a readable image ({reason}); replace or remove it")


def distance(size, other):
    """Relative difference between the aspect ratios of two sizes (width, height): 0.1 for 10 percent."""
    ratio = size[0] * other[1] / (size[1] * other[0])
    return max(ratio, 1 / ratio) - 1


def check_shapes(path, pose_path, height, width):
    """Check that an image has the aspect ratio of its pose, and roughly that of a model's frames.

    Returns:
        A note for readers of the results if the image is squeezed by 1 to 10 percent to fit the frames; otherwise an
        empty string. The note is also printed.

    Raises:
        InputError: an image is unreadable, the pose's aspect ratio differs from the image's by more than 1 percent, or
            the frames' aspect ratio by more than `SQUEEZED`.
    """
    size, pose, frame = image_size(path), image_size(pose_path), (width, height)
    if distance(size, pose) > 0.01:
        raise InputError(f"{pose_path}: {pose[0]}x{pose[1]} pixels are not of the shape of the frames, "
                         f"{size[0]}x{size[1]} in {path}; draw the poses on the frames, or cut both alike")
    if distance(size, frame) > SQUEEZED:
        heights = sorted(range(8, min(1024, size[1]) + 1, 8), key=lambda h: abs(h - height))
        fitting = [(h, w) for h in heights if 8 <= (w := round(h * size[0] / size[1] / 8) * 8) <= min(1024, size[0])]
        close = next((f"--frame_H {h} --frame_W {w}" for limit in (0.01, SQUEEZED) for h, w in fitting[:4]
                      if distance(size, (w, h)) <= limit), "other --frame_H and --frame_W")
        raise InputError(f"{path}: {size[0]}x{size[1]} pixels are not of the shape of the model's {width}x{height}; "
                         f"give images of that shape, or a model of other frames (train with {close})")
    if distance(size, frame) <= 0.01:
        return ""
    note = f"Images of {size[0]}x{size[1]} pixels are squeezed into the model's {width}x{height}."
    say(f"{path.parent}: {note}")
    return note


def read_image(path, height, width, size=None):
    """Read an image, and resize it as in the lab: with Pillow's bilinear filter and antialiasing.

    Grey, palette and CMYK images become RGB, 16 bits become 8, and the alpha channel is dropped.

    Args:
        path: path of the file.
        height, width: size of the result in pixels.
        size: (width, height) that the file must have; None: any that is not smaller than the result.

    Returns:
        (height, width, 3) uint8, RGB.

    Raises:
        InputError: the file is missing, is not a whole, readable image, is too small, or has another ``size``.
    """
    (w, h), mode, kind = _header(path)
    if w < width or h < height:
        raise InputError(f"{path}: {w}x{h} pixels are fewer than the model's {width}x{height}; give larger images, or "
                         "a model of smaller frames (train with lower --frame_H and --frame_W)")
    if size and (w, h) != tuple(size):
        raise InputError(f"{path}: {w}x{h} pixels; expected {size[0]}x{size[1]}, as the first image there has; give "
                         "images of one size")
    try:
        if mode.startswith("I"):  # 16 bits, which Pillow would clip
            image = Image.fromarray(np.uint8(iio.imread(path, plugin="pillow", index=0) // 257)).convert("RGB")
        else:
            image = Image.fromarray(iio.imread(path, plugin="pillow", index=0, mode="RGB", rotate=kind == "JPEG"))
        return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
    except Exception as error:
        raise _unreadable(path, error) from error


def read_images(paths, height, width, size=None):
    """Decode images of one size on all cores; in a terminal, show the progress.

    Args:
        paths: paths of the files.
        height, width: size of the result in pixels.
        size: (width, height) that the files must have; None: the size of the first image.

    Returns:
        (N, height, width, 3) uint8.

    Raises:
        InputError: an image is unreadable or too small, or their sizes differ.
    """
    size = size or image_size(paths[0])
    images = np.empty((len(paths), height, width, 3), np.uint8)
    show = len(paths) >= 500 and sys.stdout.isatty()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            for i, image in enumerate(pool.map(lambda path: read_image(path, height, width, size), paths)):
                images[i] = image
                if show and (i % 100 == 99 or i + 1 == len(paths)):
                    print(f"{i + 1} of {len(paths)} images", end="\n" if i + 1 == len(paths) else "\r", flush=True)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return images
