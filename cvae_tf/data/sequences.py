"""Whole sequences for an evaluation, each frame with its pose, from a folder or from the studio."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cvae_tf.config import STUDIO
from cvae_tf.data import arrays, images, record
from cvae_tf.errors import InputError, printable
from cvae_tf.pose.keypoints import KeyPoints
from cvae_tf.studio import scene as studio

PREPARED = ("train", "val")  # the splits of a prepared data set; a test beside them is the user's own
STUDIO_TEST = range(1001, 1006)  # sequence numbers that no training uses; five sequences, as in the lab's test


@dataclass(frozen=True)
class Sequence:
    """An uncut sequence.

    Attributes:
        name: unique and `printable` name for reports.
        frames, poses: (T, H, W, 3) uint8, T at least 2; frame t and pose t show the same instant.
        note: remark for the readers of a report, or an empty string.
        key_points: `KeyPoints` of the frames, in their pixels; None if they are unknown.
    """

    name: str
    frames: np.ndarray
    poses: np.ndarray
    note: str = ""
    key_points: KeyPoints | None = None


def load_sequences(data_dir, split, height, width, *, studio_seed=0, studio_variety=False, studio_lamp=False):
    """Load the sequences of a split, in the order of their numbers, at the size of a model's frames.

    Args:
        data_dir: folder in the lab's layout, or ``"studio"``.
        split: ``"val"``, ``"test"``, or a folder in ``data_dir`` or elsewhere. It holds arrays (see `arrays`), or
            the folders ``*_img`` and ``*_label``. These hold images, which are cut where their numbers have a gap, or a
            numbered folder of images for each sequence.
        height, width: size of the model's frames in pixels.
        studio_seed, studio_variety, studio_lamp: as for `studio.scene.sequence`.

    Returns:
        A list of `Sequence`; single frames between two cuts are left out.

    Raises:
        InputError: a folder is missing or empty, a frame has no pose, a pose has no true frame, an image is
            unreadable, the images of a folder differ in size or are smaller than the model's frames, or the key points
            of a prepared data set are damaged.
    """
    if data_dir == STUDIO:
        numbers = {"val": [0], "test": STUDIO_TEST}.get(split)
        if numbers is None:
            raise InputError(f"--split must be val or test with --data_dir {STUDIO}, received '{split}'")
        pairs = studio.sequences(numbers, height, width, seed=studio_seed, variety=studio_variety, lamp=studio_lamp)
        return [Sequence(f"studio {number}", *pair, key_points=studio.key_points(
            number, height, width, seed=studio_seed, length=len(pair[0])))
            for number, pair in zip(numbers, pairs, strict=True)]
    folder, found = split_folder(data_dir, split), []
    if decoded := arrays.read_arrays(folder, height, width):
        found = _cut("", range(len(decoded[0])), decoded, "")
    else:
        for name, frame_folder, pose_folder in sequence_folders(folder):
            frame_paths, pose_paths = images.pair(frame_folder, pose_folder)
            poses = len(images.list_images(pose_folder))
            if len(frame_paths) < poses:
                raise InputError(f"{frame_folder}: {len(frame_paths)} true frames for {poses} poses in {pose_folder}; "
                                 "an evaluation needs the true frame of every pose")
            note = images.check_shapes(frame_paths[0], pose_paths[0], height, width)
            cache = f"{folder.name}_{name}" if name else folder.name
            decoded = arrays.decode(folder.parent, cache, frame_paths, pose_paths, height, width)
            key_points = record.key_points_of(folder.parent, frame_paths) if folder.name in PREPARED else None
            if key_points is not None:
                key_points = key_points.cropped((0, 0, *key_points.size), (width, height))
            found += _cut(name, [path.stem for path in frame_paths], decoded, note, key_points)
    if not found:
        raise InputError(f"{folder}: no two frames with consecutive numbers; there is nothing to predict")
    return found


def _cut(name, frame_names, decoded, note, key_points=None):
    """A `Sequence` for each uncut part of at least two frames in a result of `arrays.read_arrays`."""
    frames, poses, parts, _ = decoded
    spans = [f"{frame_names[start]} to {frame_names[start + length - 1]}" for start, length in parts]
    if name:
        spans = [name] if len(parts) == 1 else [f"{name}: {span}" for span in spans]
    return [Sequence(printable(span), frames[start:start + length], poses[start:start + length], note,
                     key_points and key_points[start:start + length])
            for span, (start, length) in zip(spans, parts, strict=True) if length > 1]


def split_folder(data_dir, split):
    """The folder of a split: in ``data_dir``, or elsewhere unless the split is called val or test.

    Raises:
        InputError: there is no such folder.
    """
    root = Path(data_dir)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; --data_dir takes a folder in the lab's layout")
    folder = root / split
    if not folder.is_dir() and split not in ("val", "test"):
        folder = Path(split)
    if not folder.is_dir():
        raise InputError(f"{root / split}: no such folder; --split takes val, test or a folder with *_img and *_label")
    return folder


def _only(folder, kind):
    """The one folder ``*_img`` or ``*_label`` in ``folder``."""
    found = [path for path in folder.glob(f"*_{kind}") if path.is_dir()]
    if len(found) != 1:
        raise InputError(f"{folder}: {len(found)} folders named *_{kind}; expected one, such as {folder.name}_{kind}")
    return found[0]


def sequence_folders(folder):
    """List the sequences of a split in the order of their numbers.

    Returns:
        A list of (name, folder of frames, folder of poses); a single entry, with an empty name, if the images lie
        directly in ``*_img``.

    Raises:
        InputError: ``*_img`` or ``*_label`` is missing or not unique, or a sequence lacks frames or poses.
    """
    frame_root, pose_root = (_only(folder, kind) for kind in ("img", "label"))
    below, poses_below = ({path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")}
                          for root in (frame_root, pose_root))
    files = [path for path in frame_root.glob("*.[pP][nN][gG]") if not path.name.startswith(".")]
    if files or not below:
        return [("", frame_root, pose_root)]
    for name in sorted(below ^ poses_below):
        has, lacks = (frame_root, pose_root) if name in below else (pose_root, frame_root)
        raise InputError(f"{lacks / name}: no such folder, for the sequence in {has / name}")
    names = sorted(below, key=lambda name: (int("0" + "".join(re.findall(r"\d", name))), name))
    return [(name, frame_root / name, pose_root / name) for name in names]
