"""Folders of PNG images: in order, in pairs, decoded at a model's size, and cached. No TensorFlow.

Images are ordered by the number in the file name and paired by name; a gap in the numbers is a cut.
"""

import hashlib
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import imageio.v3 as iio
import numpy as np
from PIL import Image

from cvae_tf.errors import InputError
from cvae_tf.files import atomic

CACHE_VERSION = "1"  # raise it when decoding or resizing changes


def to_float(pixels):
    """uint8 pixels -> float32 in [0, 1]. Nothing else in the package scales pixels this way."""
    return np.asarray(pixels, np.float32) / np.float32(255)


def uncut(paths):
    """(start, length) of each run of images with consecutive numbers, in order."""
    numbers = np.array([number_of(path) for path in paths])
    cuts = [0, *(np.flatnonzero(np.diff(numbers) != 1) + 1).tolist(), len(numbers)]
    return tuple((a, b - a) for a, b in zip(cuts, cuts[1:], strict=False))


def number_of(path):
    """The number in a file's name, of all its digits, as the lab orders its frames."""
    digits = "".join(re.findall(r"\d", path.stem))
    if not digits:
        raise InputError(f"{path}: the name holds no number; name the images like frame000001.png")
    return int(digits)


def list_images(folder):
    """The PNG files of a folder by the number in their names; hidden files do not count.

    Raises:
        InputError: the folder is missing or holds no PNG file, or two files have the same number.
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
    return paths


def pair(frame_folder, pose_folder):
    """The images of ``frame_folder`` and, by equal file name, their poses in ``pose_folder``: two lists of paths.

    Raises:
        InputError: a folder is missing or empty, or a frame has no pose.
    """
    frame_paths = list_images(frame_folder)
    poses = {path.name: path for path in list_images(pose_folder)}
    for path in frame_paths:
        if path.name not in poses:
            raise InputError(f"{path}: this frame has no pose; expected {Path(pose_folder) / path.name}")
    return frame_paths, [poses[path.name] for path in frame_paths]


def read_image(path, height, width):
    """An image as (height, width, 3) uint8 RGB, resized as the lab does: Pillow's bilinear filter with antialiasing.

    Raises:
        InputError: the file is missing or is not a whole, readable image.
    """
    try:
        image = Image.fromarray(iio.imread(path, plugin="pillow", index=0, mode="RGB"))
        return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: not a readable image ({error}); replace or remove it") from error


def read_images(paths, height, width):
    """Decode images on all cores, with a progress bar from a few hundred on: -> (N, height, width, 3) uint8."""
    out = np.empty((len(paths), height, width, 3), np.uint8)
    progress = lambda done: None  # noqa: E731
    if len(paths) >= 500:
        import keras  # slow to import, and only needed here

        progress = keras.utils.Progbar(len(paths), unit_name="image").update
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            for i, image in enumerate(pool.map(lambda path: read_image(path, height, width), paths)):
                out[i] = image
                if i % 100 == 99 or i + 1 == len(paths):
                    progress(i + 1)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return out


def read_cached(root, name, frame_paths, pose_paths, height, width):
    """Frames and poses, two (N, height, width, 3) uint8, decoded once and then kept in a file below ``root``.

    The file's name begins with ``name`` and changes when any image does.

    Raises:
        InputError: an image is missing or unreadable.
    """
    paths = frame_paths + pose_paths
    try:
        listing = [(str(p.relative_to(root)), s.st_size, s.st_mtime_ns) for p in paths for s in [p.stat()]]
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read ({error.strerror})") from error
    key = hashlib.sha256(repr((CACHE_VERSION, str(root.resolve()), listing)).encode()).hexdigest()[:16]
    file = f"{name}_{height}x{width}_{key}.npy"
    shape = (2, len(frame_paths), height, width, 3)
    beside = root / ".cvae_tf_cache"
    elsewhere = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cvae_tf"
    for folder in (beside, elsewhere):
        try:
            cached = np.load(folder / file, mmap_mode="r")
        except (OSError, ValueError, EOFError):
            continue
        if cached.shape == shape and cached.dtype == np.uint8:
            return cached[0], cached[1]
    print(f"Reading {len(paths)} images of {root} ({name}) at {height}x{width}", flush=True)
    images = read_images(paths, height, width).reshape(shape)
    for folder in (beside, elsewhere):
        try:
            with atomic(folder / file) as unfinished, open(unfinished, "wb") as stream:
                np.save(stream, images)
            break
        except InputError as error:
            print(f"Not cached there: {error}", flush=True)
    return images[0], images[1]
