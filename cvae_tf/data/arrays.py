"""Decoded footage on disk: two NumPy arrays, given by the user or written as a cache of decoded images.

The folder NAME holds ``NAME_img.npy`` and ``NAME_label.npy``, frames and poses, both (N, H, W, 3) uint8; frame n and
pose n show the same instant. The arrays are memory-mapped, so they may be larger than the memory. The optional
``NAME_starts.txt`` lists the index, from 0, of the first frame of each uncut sequence, one per line; without it, all
frames are one sequence. A cache adds ``NAME_stamp.json``, which identifies the decoded images and holds checksums.

The program detects these changes of the data at its next start:

- Arrays up to 1 GiB: a change of any pixel. Larger arrays: a change in one of a hundred evenly spaced frames, in the
  number of frames, or in the files' modification times, which ``cp -p`` keeps.
- Decoded images: a change of a name, a size, a modification time (mtime) or a change time (ctime). The system sets the
  ctime itself, so replacing an image by another of equal size and mtime is detected too. Disk damage to an image that
  is already cached is not detected.
- Caches: as for arrays, but without the modification times of larger ones.

Changes while a command runs are not detected, and mapped arrays must not be made shorter meanwhile.
"""

import hashlib
import json
import os
from pathlib import Path

import numpy as np

from cvae_tf.data import images
from cvae_tf.errors import InputError, say
from cvae_tf.files import atomic, clean_up, plain

CACHE_VERSION = "4"  # raise it when decoding or resizing changes
CHECKED = 2**30  # up to this many bytes, all pixels are read at each start; a GiB takes a second


def read_arrays(folder, height, width):
    """Read the arrays in a folder.

    Args:
        folder: path of the folder.
        height, width: expected size of a frame in pixels.

    Returns:
        ``(frames, poses, sequences, checksum)``: frames and poses (N, height, width, 3) uint8, (start, length) of
        each uncut sequence, and the checksum of all pixels. For arrays above `CHECKED` bytes that are not a cache, the
        checksum covers a hundred frames and the files' modification times. None if there are no arrays.

    Raises:
        InputError: a file is missing, cannot be read or is damaged, or an array has the wrong shape or type.
    """
    folder = Path(folder)
    frame_path, pose_path = (folder / f"{folder.name}_{kind}.npy" for kind in ("img", "label"))
    stamp = folder / f"{folder.name}_stamp.json"
    if not any(os.path.lexists(path) for path in (frame_path, pose_path, stamp)):
        return None
    frames, poses = (_read_array(path, height, width) for path in (frame_path, pose_path))
    if len(frames) != len(poses):
        raise InputError(f"{pose_path}: has {len(poses)} poses for {len(frames)} frames; each frame needs its pose")
    sequences = _read_starts(folder / f"{folder.name}_starts.txt", len(frames))
    all_checked = frames.nbytes + poses.nbytes <= CHECKED
    if not os.path.lexists(stamp):
        times = [path.stat().st_mtime_ns for path in (frame_path, pose_path)]
        return frames, poses, sequences, checksum(frames, poses) if all_checked else _sample(frames, poses, times)
    try:
        saved = json.loads(plain(stamp).read_text(encoding="utf-8"))
        pixels, sample = saved["checksum"], saved.get("sample")
    except Exception as error:
        raise InputError(f"{stamp}: cannot be read ({error}); expected a JSON file with checksums") from error
    if checksum(frames, poses) != pixels if all_checked else _sample(frames, poses, pixels) != sample:
        raise InputError(f"{folder}: is damaged (the checksum of its pixels differs)")
    return frames, poses, sequences, pixels


def _read_array(path, height, width):
    try:
        array = np.lib.format.open_memmap(plain(path), mode="r")  # unlike `np.load`, rejects archives and pickles
        surplus = path.stat().st_size - array.offset - array.nbytes
    except Exception as error:
        raise InputError(f"{path}: cannot be read ({error}); expected an array of pixels") from error
    order = "" if array.flags.c_contiguous else " in Fortran order"
    if array.shape[1:] != (height, width, 3) or not len(array) or array.dtype != np.uint8 or order:
        raise InputError(f"{path}: has shape {array.shape} and type {array.dtype}{order}; expected (N, {height}, "
                         f"{width}, 3) and type uint8, or other --frame_H and --frame_W")
    if surplus:
        raise InputError(f"{path}: is damaged; expected {len(array)} frames, as its header says, received {surplus} "
                         "bytes more")
    return array


def _read_starts(path, count):
    """(start, length) of each uncut sequence, from a file of their starts; one sequence if there is no file."""
    starts = [0]
    if os.path.lexists(path):
        try:
            starts = [int(line) for line in plain(path).read_text(encoding="utf-8").split()]
        except Exception as error:
            raise InputError(f"{path}: cannot be read ({error}); expected one whole number per line") from error
        if starts[:1] != [0] or starts != sorted(set(starts)) or starts[-1] >= count:
            raise InputError(f"{path}: expected rising numbers that begin with 0 and are below {count}, the number of "
                             "frames")
    return tuple((a, b - a) for a, b in zip(starts, [*starts[1:], count], strict=True))


def write_arrays(folder, frames, poses, sequences, stamp):
    """Write arrays for `read_arrays`, atomically; ``stamp`` is a dict, the content of the stamp file.

    Raises:
        InputError: the folder cannot be written.
    """
    with atomic(folder) as unfinished:
        unfinished.mkdir()
        np.save(unfinished / f"{folder.name}_img.npy", frames)
        np.save(unfinished / f"{folder.name}_label.npy", poses)
        (unfinished / f"{folder.name}_starts.txt").write_text("".join(f"{start}\n" for start, _ in sequences))
        (unfinished / f"{folder.name}_stamp.json").write_text(json.dumps(stamp, indent=2) + "\n")


def decode(root, name, frame_paths, pose_paths, height, width):
    """Decode images once, and cache the arrays in a folder under ``root``, or in the user's cache folder.

    Args:
        root: folder of the data set.
        name: prefix of the cache's name. The rest depends on the folder and on the images' names, sizes and times. So
            a copied data set, or one with changed permissions, is decoded anew.
        frame_paths, pose_paths: paths of the images in ``root``, equally many of each.
        height, width: size of a frame in pixels.

    Returns:
        As `read_arrays`.

    Raises:
        InputError: an image is missing or unreadable, or sizes or shapes differ.
    """
    paths = [*frame_paths, *pose_paths]
    try:
        listing = [(str(path.relative_to(root)), found.st_size, found.st_mtime_ns, found.st_ctime_ns)
                   for path, found in ((path, path.stat()) for path in paths)]
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read ({error.strerror})") from error
    listed = hashlib.sha256(repr((CACHE_VERSION, str(root.resolve()), listing)).encode()).hexdigest()
    name = f"{name}_{height}x{width}_{listed[:16]}"
    user_caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    places, sequences = (root / ".cvae_tf_cache", user_caches / "cvae_tf"), images.uncut(frame_paths)
    for folder in places:
        try:
            if os.path.lexists(folder / name / f"{name}_stamp.json"):
                frames, poses, _, pixels = read_arrays(folder / name, height, width)
                return frames, poses, sequences, pixels
        except Exception as error:
            say(f"{folder / name}: not used, made anew ({error})")
    say(f"Reading {len(paths)} images of {root} at {height}x{width} pixels")
    frames, poses = (images.read_images(part, height, width) for part in (frame_paths, pose_paths))
    pixels = checksum(frames, poses)
    stamp = {"images": listed, "size": [height, width], "checksum": pixels, "sample": _sample(frames, poses, pixels)}
    for folder in places:
        try:
            clean_up(folder, older_than=24 * 3600)  # left by killed processes; newer ones may be in use
            write_arrays(folder / name, frames, poses, sequences, stamp)
            break
        except InputError as error:
            say(f"Not cached there: {error}")
    return frames, poses, sequences, pixels


def checksum(*parts):
    """The first 16 hexadecimal digits of the SHA-256 of ``parts`` (arrays or bytes), one after the other."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:16]


def _sample(frames, poses, about):
    """The checksum of a hundred frames with their poses, and of ``about``. Each frame costs a disk seek."""
    sample = np.linspace(0, len(frames) - 1, min(len(frames), 100)).astype(int)
    return checksum(frames[sample], poses[sample], repr((len(frames), about)).encode())
