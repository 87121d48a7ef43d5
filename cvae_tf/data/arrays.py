"""Decoded footage on disk: two NumPy arrays, which a user may provide and which the cache of decoded images holds.

The folder NAME holds ``NAME_img.npy`` and ``NAME_label.npy``, frames and poses, both (N, H, W, 3) uint8; frame n and
pose n are of the same instant. They are mapped into memory, so that they may be larger than it. The optional
``NAME_starts.txt`` has the number, from 0, of the first frame of each uncut sequence, one per line; without it, all
frames are one sequence. The cache adds ``NAME_stamp.json``: which images were decoded, and the checksum of the pixels.
"""

import hashlib
import json
import os
from pathlib import Path

import numpy as np

from cvae_tf.data import images
from cvae_tf.errors import InputError
from cvae_tf.files import atomic, clean_up

CACHE_VERSION = "3"  # raise it when decoding or resizing changes
CHECKED = 2**30  # bytes up to which the checksum of a cache is compared at each start, which takes half a second


def read_arrays(folder, height, width):
    """Read the arrays in a folder.

    Args:
        folder: path of the folder.
        height, width: expected size of a frame in pixels.

    Returns:
        ``(frames, poses, sequences, checksum)``: two (N, height, width, 3) uint8, (start, length) of each uncut
        sequence, and the checksum of all pixels in a cache, of a hundred frames elsewhere. None if there are no
        arrays.

    Raises:
        InputError: a file is missing, cannot be read or is damaged, or an array has another shape or type.
    """
    folder = Path(folder)
    frame_path, pose_path = (folder / f"{folder.name}_{kind}.npy" for kind in ("img", "label"))
    stamp = folder / f"{folder.name}_stamp.json"
    if not any(path.exists() for path in (frame_path, pose_path, stamp)):
        return None
    frames, poses = (_read_array(path, height, width) for path in (frame_path, pose_path))
    if len(frames) != len(poses):
        raise InputError(f"{pose_path}: has {len(poses)} poses for {len(frames)} frames; each frame needs its pose")
    sequences = _read_starts(folder / f"{folder.name}_starts.txt", len(frames))
    if not stamp.exists():
        sample = np.linspace(0, len(frames) - 1, min(len(frames), 100)).astype(int)  # each is a seek on the disk
        return frames, poses, sequences, checksum(frames[sample], poses[sample])
    try:
        expected = json.loads(stamp.read_text())["checksum"]
    except Exception as error:
        raise InputError(f"{stamp}: cannot be read ({error}); expected a JSON file with a checksum") from error
    if frames.nbytes + poses.nbytes <= CHECKED and checksum(frames, poses) != expected:
        raise InputError(f"{folder}: is damaged (the checksum of its pixels differs)")
    return frames, poses, sequences, expected


def _read_array(path, height, width):
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        found = f"{array.shape} and type {array.dtype}" + ("" if array.flags.c_contiguous else " in Fortran order")
    except Exception as error:
        raise InputError(f"{path}: cannot be read ({error}); expected an array of pixels") from error
    if array.shape[1:] != (height, width, 3) or not len(array) or not found.endswith("uint8"):
        raise InputError(f"{path}: has shape {found}; expected (N, {height}, {width}, 3) and type uint8, or other "
                         "--frame_H and --frame_W")
    return array


def _read_starts(path, count):
    """(start, length) of each uncut sequence, from a file with their starts; all one sequence without the file."""
    starts = [0]
    if path.exists():
        try:
            starts = [int(line) for line in path.read_text().split()]
        except Exception as error:
            raise InputError(f"{path}: cannot be read ({error}); expected one whole number per line") from error
        if starts[:1] != [0] or starts != sorted(set(starts)) or starts[-1] >= count:
            raise InputError(f"{path}: expected rising numbers that begin with 0 and are below {count}, the number of "
                             "frames")
    return tuple((a, b - a) for a, b in zip(starts, [*starts[1:], count], strict=True))


def write_arrays(folder, frames, poses, sequences, stamp):
    """Write what `read_arrays` reads, atomically; ``stamp`` is a dict for the stamp file.

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
    """Decode images once: the arrays are kept in a cache below ``root``, or in the user's cache folder.

    Args:
        root: folder of the data set.
        name: beginning of the cache's name, which also depends on the names, sizes and times of the images.
        frame_paths, pose_paths: paths of the images in ``root``, as many of each.
        height, width: size of a frame in pixels.

    Returns:
        As `read_arrays`.

    Raises:
        InputError: an image is missing or unreadable, or sizes or shapes differ.
    """
    paths = [*frame_paths, *pose_paths]
    try:
        listing = [(str(path.relative_to(root)), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read ({error.strerror})") from error
    listed = hashlib.sha256(repr((CACHE_VERSION, str(root.resolve()), listing)).encode()).hexdigest()
    name = f"{name}_{height}x{width}_{listed[:16]}"
    user_caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    places = root / ".cvae_tf_cache", user_caches / "cvae_tf"
    for folder in places:
        try:
            if (folder / name / f"{name}_stamp.json").exists():
                return read_arrays(folder / name, height, width)
        except Exception as error:
            print(f"{folder / name}: not used, made anew ({error})", flush=True)
    (w, h), (pose_w, pose_h) = images.image_size(frame_paths[0]), images.image_size(pose_paths[0])
    if abs(w * pose_h / (h * pose_w) - 1) > 0.01:
        raise InputError(f"{pose_paths[0]}: {pose_w}x{pose_h} pixels are not of the shape of the frames, {w}x{h}")
    print(f"Reading {len(paths)} images of {root} at {height}x{width} pixels", flush=True)
    frames, poses = (images.read_images(part, height, width) for part in (frame_paths, pose_paths))
    sequences, pixels = images.uncut(frame_paths), checksum(frames, poses)
    stamp = {"images": listed, "size": [height, width], "checksum": pixels}
    for folder in places:
        try:
            clean_up(folder, older_than=24 * 3600)  # of killed processes; others may be writing now
            write_arrays(folder / name, frames, poses, sequences, stamp)
            break
        except InputError as error:
            print(f"Not cached there: {error}", flush=True)
    return frames, poses, sequences, pixels


def checksum(frames, poses):
    """The first 16 hexadecimal digits of the SHA-256 of frames and poses."""
    digest = hashlib.sha256(frames)
    digest.update(poses)
    return digest.hexdigest()[:16]
