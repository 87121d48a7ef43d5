"""The sequences that an evaluation is about: whole, each frame with its pose, from a folder or from the studio."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from cvae_tf import data, studio
from cvae_tf.config import STUDIO
from cvae_tf.errors import InputError

STUDIO_TEST = range(1001, 1006)  # beyond what any training uses; five, like the lab's test sequences


@dataclass(frozen=True)
class Sequence:
    """An uncut sequence.

    Attributes:
        name: what it is called in reports.
        frames, poses: (T, H, W, 3) uint8, T at least 2; frame t and pose t are the same instant.
    """

    name: str
    frames: np.ndarray
    poses: np.ndarray


def load_sequences(data_dir, split, height, width, *, studio_seed=0, studio_variety=False):
    """The sequences of a split, in the order of their numbers, at the size of a model's frames.

    Args:
        data_dir: folder in the lab's layout, or ``"studio"``.
        split: ``"val"``, ``"test"``, or a folder in ``data_dir`` or elsewhere. It holds ``*_img`` and ``*_label``, with
            images in them, cut where their numbers have a gap, or with a numbered folder of images for each sequence.
        height, width: of the model's frames.
        studio_seed, studio_variety: of the studio.

    Raises:
        InputError: a folder is missing or empty, a frame lacks its pose or a pose its true frame, an image is
            unreadable, or the images are smaller than the model's frames or of another shape.
    """
    if data_dir == STUDIO:
        numbers = {"val": [0], "test": STUDIO_TEST}.get(split)
        if numbers is None:
            raise InputError(f"--split must be val or test with --data_dir {STUDIO}, received '{split}'")
        pairs = studio.sequences(numbers, height, width, seed=studio_seed, variety=studio_variety)
        return [Sequence(f"studio {number}", *pair) for number, pair in zip(numbers, pairs, strict=True)]
    root = Path(data_dir)
    folder = root / split if (root / split).is_dir() else Path(split)
    if not folder.is_dir():
        raise InputError(f"{root / split}: no such folder; --split takes val, test or a folder with *_img and *_label")
    frame_root, pose_root = (_only(folder, kind) for kind in ("img", "label"))
    found = []
    for name, frame_folder, pose_folder in _folders(frame_root, pose_root):
        frame_paths, pose_paths = data.pair(frame_folder, pose_folder)
        poses = len(data.list_images(pose_folder))
        if len(frame_paths) < poses:
            raise InputError(f"{frame_folder}: {len(frame_paths)} true frames for {poses} poses in {pose_folder}; "
                             "an evaluation needs the true frame of every pose")
        _check_shapes(frame_paths + pose_paths, height, width)
        cached = f"{folder.name}_{name}" if name else folder.name
        frames, poses = data.read_cached(folder.parent, cached, frame_paths, pose_paths, height, width)
        found += [Sequence(name or f"{frame_paths[a].stem} to {frame_paths[a + n - 1].stem}", frames[a:a + n],
                           poses[a:a + n]) for a, n in data.uncut(frame_paths) if n > 1]
    if not found:
        raise InputError(f"{frame_root}: no two frames with consecutive numbers; there is nothing to predict")
    return found


def _only(folder, kind):
    """The one folder ``*_img`` or ``*_label`` in ``folder``."""
    found = [path for path in folder.glob(f"*_{kind}") if path.is_dir()]
    if len(found) != 1:
        raise InputError(f"{folder}: {len(found)} folders named *_{kind}; expected one, such as {folder.name}_{kind}")
    return found[0]


def _folders(frame_root, pose_root):
    """(name, frame folder, pose folder) of each sequence; one without a name where the images lie there directly."""
    below = sorted((path for path in frame_root.iterdir() if path.is_dir() and not path.name.startswith(".")),
                   key=lambda path: (int("0" + "".join(re.findall(r"\d", path.name))), path.name))
    if any(path.suffix.lower() == ".png" for path in frame_root.iterdir()) or not below:
        return [("", frame_root, pose_root)]
    return [(path.name, path, pose_root / path.name) for path in below]


def _check_shapes(paths, height, width):
    for path in paths:
        try:
            with Image.open(path) as image:
                w, h = image.size
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise InputError(f"{path}: not a readable image ({error}); replace or remove it") from error
        if w < width or h < height or abs(w * height / (h * width) - 1) > 0.01:
            raise InputError(f"{path}: {w}x{h} pixels do not scale down to the model's {width}x{height}; give images "
                             "of that shape, at least as large, or a model trained for these")
