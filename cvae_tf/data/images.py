"""Folders of PNG images: in order, in pairs, decoded at a model's size, and cached. No TensorFlow.

Images are ordered by the number in the file name and paired by name; a gap in the numbers is a cut.
"""

import glob
import hashlib
import os
import re
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import imageio.v3 as iio
import numpy as np
from PIL import Image, UnidentifiedImageError

from cvae_tf.errors import InputError
from cvae_tf.files import atomic, clean_up

CACHE_VERSION = "2"  # raise it when decoding or resizing changes
CHECKED = 2**30  # bytes of a cache up to which its checksum is compared at every start, which takes half a second
FORMATS = ("PNG", "JPEG")  # whatever the file is called; no other decoder is ever started
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError, EOFError, struct.error, IndexError)


def to_float(pixels):
    """uint8 pixels -> float32 in [0, 1]. Nothing else in the package scales pixels this way."""
    return np.asarray(pixels, np.float32) / np.float32(255)


def uncut(paths):
    """(start, length) of each run of images with consecutive numbers, in order."""
    numbers = [number_of(path) for path in paths]
    cuts = [0, *(i for i in range(1, len(numbers)) if numbers[i] != numbers[i - 1] + 1), len(numbers)]
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
        InputError: the folder is missing or holds no PNG file, two files have the same number, or one is no plain file.
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
        if not path.is_file():  # left out, it would make a gap
            raise InputError(f"{path}: is no file that can be read; replace or remove it")
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


def image_size(path):
    """(width, height) in pixels of an image, from its first bytes.

    Raises:
        InputError: the file is missing or is not a single image in one of `FORMATS`.
    """
    return _header(path)[0]


def _header(path):
    try:
        if not Path(path).is_file():  # a pipe would be waited for without end
            raise ValueError("no file that can be read" if os.path.lexists(path) else "no such file")
        with Image.open(path, formats=FORMATS) as image:
            if getattr(image, "n_frames", 1) > 1:
                raise ValueError(f"an animation of {image.n_frames} images")
            return image.size, image.mode
    except UNREADABLE as error:
        raise _unreadable(path, error) from error


def _unreadable(path, error):
    reason = "neither a PNG nor a JPEG file" if isinstance(error, UnidentifiedImageError) else error
    return InputError(f"{path}: not a readable image ({reason}); replace or remove it")


def read_image(path, height, width, size=None):
    """An image as (height, width, 3) uint8 RGB, resized as the lab does: Pillow's bilinear filter with antialiasing.

    Grey, palette and CMYK images become RGB, 16 bits become 8, and transparency is left out.

    Args:
        path: of the file.
        height, width: in pixels.
        size: (width, height) that the file must have; None: any that is not smaller than asked for.

    Raises:
        InputError: the file is missing, is not a whole, readable image, or has too few or other pixels.
    """
    (w, h), mode = _header(path)
    if w < width or h < height:
        raise InputError(f"{path}: {w}x{h} pixels are fewer than the model's {width}x{height}; give larger images, or "
                         "a model of smaller frames (--frame_H and --frame_W of train.py)")
    if size and (w, h) != tuple(size):
        raise InputError(f"{path}: {w}x{h} pixels, where the first image there has {size[0]}x{size[1]}; give images of "
                         "one size")
    try:
        if mode.startswith("I"):  # 16 bits, which Pillow would clip
            image = Image.fromarray(np.uint8(iio.imread(path, plugin="pillow", index=0) // 257)).convert("RGB")
        else:
            image = Image.fromarray(iio.imread(path, plugin="pillow", index=0, mode="RGB"))
        return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
    except UNREADABLE as error:
        raise _unreadable(path, error) from error


def read_images(paths, height, width, size=None):
    """Decode images of one size on all cores, with a progress bar from a few hundred on: (N, height, width, 3) uint8.

    Args:
        paths: of the files.
        height, width: in pixels.
        size: (width, height) that the files must have; None: that of the first.

    Raises:
        InputError: one is unreadable or too small, or they differ in size.
    """
    size = size or image_size(paths[0])
    out = np.empty((len(paths), height, width, 3), np.uint8)
    progress = lambda done: None  # noqa: E731
    if len(paths) >= 500:
        import keras  # slow to import, and only needed here

        progress = keras.utils.Progbar(len(paths), unit_name="image").update
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            for i, image in enumerate(pool.map(lambda path: read_image(path, height, width, size), paths)):
                out[i] = image
                if i % 100 == 99 or i + 1 == len(paths):
                    progress(i + 1)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return out


def read_cached(root, name, frame_paths, pose_paths, height, width):
    """Frames and poses, decoded once and then kept in a file below ``root``.

    The file's name begins with ``name``, changes when any image does, and ends with the checksum of the pixels.

    Returns:
        ``(frames, poses, checksum)``: two (N, height, width, 3) uint8, and the checksum of their pixels.

    Raises:
        InputError: an image is missing or unreadable, or sizes or shapes differ.
    """
    paths = frame_paths + pose_paths
    try:
        listing = [(str(p.relative_to(root)), s.st_size, s.st_mtime_ns) for p in paths for s in [p.stat()]]
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read ({error.strerror})") from error
    key = hashlib.sha256(repr((CACHE_VERSION, str(root.resolve()), listing)).encode()).hexdigest()[:16]
    name = f"{name}_{height}x{width}_{key}"
    shape = (2, len(frame_paths), height, width, 3)
    beside = root / ".cvae_tf_cache"
    elsewhere = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cvae_tf"
    for path in _list_caches((beside, elsewhere), name):
        cached = _read_cache(path, shape)
        if cached is not None:
            return cached[0], cached[1], path.stem.rpartition("_")[2]
        print(f"{path}: damaged, so not used", flush=True)
    (w, h), (pose_w, pose_h) = image_size(frame_paths[0]), image_size(pose_paths[0])
    if abs(w * pose_h / (h * pose_w) - 1) > 0.01:
        raise InputError(f"{pose_paths[0]}: {pose_w}x{pose_h} pixels are not of the shape of the frames, {w}x{h}")
    print(f"Reading {len(paths)} images of {root} ({name}) at {height}x{width}", flush=True)
    images = np.empty(shape, np.uint8)
    for i, part in enumerate((frame_paths, pose_paths)):
        images[i] = read_images(part, height, width)
    pixels = checksum(images)
    for folder in (beside, elsewhere):
        try:
            clean_up(folder, older_than=24 * 3600)  # of killed processes; another may be at work now
            with atomic(folder / f"{name}_{pixels}.npy") as unfinished, open(unfinished, "wb") as stream:
                np.save(stream, images)
            break
        except InputError as error:
            print(f"Not cached there: {error}", flush=True)
    return images[0], images[1], pixels


def read_arrays(folder, height, width):
    """Footage that is decoded already: ``NAME_img.npy`` and ``NAME_label.npy`` in the folder NAME.

    Both are (N, height, width, 3) uint8, frame n and pose n the same instant. They are read from the disk as they are
    needed, so they may be larger than the memory. ``NAME_starts.txt``, if there, has the number, from 0, of the first
    frame of each uncut sequence, a line each; without it, all is one sequence.

    Returns:
        ``(frames, poses, runs, checksum)``, with (start, length) of each uncut run, and a checksum of a hundred of the
        frames; None where there are no such files.

    Raises:
        InputError: one of the two is missing, a file cannot be read, or its shape is another.
    """
    folder = Path(folder)
    paths = [folder / f"{folder.name}_{kind}.npy" for kind in ("img", "label")]
    if not any(path.exists() for path in paths):
        return None
    arrays = []
    for path in paths:
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError, SyntaxError) as error:
            raise InputError(f"{path}: cannot be read ({error}); expected an array of pixels") from error
        if array.dtype != np.uint8 or array.ndim != 4 or array.shape[1:] != (height, width, 3) or not len(array):
            raise InputError(f"{path}: has shape {array.shape} and type {array.dtype}; expected uint8 and "
                             f"(N, {height}, {width}, 3), or other --frame_H and --frame_W")
        arrays.append(array)
    frames, poses = arrays
    if len(frames) != len(poses):
        raise InputError(f"{paths[1]}: has {len(poses)} poses for {len(frames)} frames; each frame needs its pose")
    sample = np.linspace(0, len(frames) - 1, min(len(frames), 100)).astype(int)  # each a seek on a disk
    return frames, poses, _read_starts(folder / f"{folder.name}_starts.txt", len(frames)), checksum(
        np.stack([frames[sample], poses[sample]]))


def _read_starts(path, count):
    """(start, length) of each run, from a file of their starts; all of them one run without it."""
    starts = [0]
    if path.exists():
        try:
            starts = [int(line) for line in path.read_text().split()]
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: cannot be read ({error}); expected a whole number a line") from error
        if starts[:1] != [0] or starts != sorted(set(starts)) or starts[-1] >= count:
            raise InputError(f"{path}: expected numbers that begin with 0, rise and stay below {count}, the number of "
                             "frames")
    return tuple((a, b - a) for a, b in zip(starts, [*starts[1:], count], strict=True))


def _list_caches(folders, name):
    found = []
    for folder in folders:
        try:
            found += folder.glob(f"{glob.escape(name)}_*.npy")
        except OSError:  # a folder that may not be read holds nothing for us
            pass
    return found


def _read_cache(path, shape):
    """The array in a cache, from the disk as it is needed, or None where it is not what was written."""
    try:
        cached = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, SyntaxError):
        return None
    if cached.shape != shape or cached.dtype != np.uint8:
        return None
    return cached if cached.nbytes > CHECKED or path.stem.endswith(checksum(cached)) else None


def checksum(array):
    """The beginning of the SHA-256 of an array's bytes, 16 hexadecimal digits."""
    return hashlib.sha256(array).hexdigest()[:16]
