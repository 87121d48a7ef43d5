"""The description of a prepared data set: the files ``prepare.json`` and ``poses.json`` beside its images."""

import json
import os
from pathlib import Path

from cvae_tf.config import STUDIO
from cvae_tf.errors import InputError
from cvae_tf.files import plain
from cvae_tf.pose.keypoints import read_poses

RECORD, POSES = "prepare.json", "poses.json"


def read_record(data_dir):
    """The content of ``prepare.json`` in a data set, or None if the data set was not prepared by this program.

    Raises:
        InputError: the file is damaged.
    """
    path = Path(data_dir) / RECORD
    if data_dir == STUDIO or not os.path.lexists(path):
        return None
    try:
        record = json.loads(plain(path).read_text(encoding="utf-8"))
        sizes, fps, train = record["frame_size"], record["fps"], record["frames"]["train"]
        if not all(type(number) in (int, float) for number in (*sizes, fps, train)):
            raise ValueError("numbers expected")
        if len(sizes) != 2 or not all(8 <= side <= 1024 and side == int(side) for side in sizes) or \
                not 0 < fps <= 1000 or not 0 <= train < 1e9 or not isinstance(record["request"], dict):
            raise ValueError("numbers out of range")
        return record
    except Exception as error:
        raise InputError(f"{path}: not a readable record of a prepared data set ({type(error).__name__}: {error}); "
                         "prepare it again with --overwrite") from error


def frame_size(data_dir):
    """The (height, width) of a prepared data set's frames in pixels, or None for another data set.

    Raises:
        InputError: the record is damaged.
    """
    record = read_record(data_dir)
    return record and tuple(record["frame_size"])


def key_points_of(root, paths):
    """The `KeyPoints` of a data set's frames from its ``poses.json``, or None without such a file.

    Args:
        root: folder of the data set.
        paths: paths of the frames in it.

    Raises:
        InputError: the file is damaged, or lacks one of the frames.
    """
    path = Path(root) / POSES
    if not os.path.lexists(path):
        return None
    key_points, names = read_poses(path)
    rows = {name: row for row, name in enumerate(names)}
    wanted = [frame.relative_to(root).as_posix() for frame in paths]
    missing = [name for name in wanted if name not in rows]
    if missing:
        raise InputError(f"{path}: has no key points of {missing[0]}; prepare the data set again, or remove this file")
    return key_points[[rows[name] for name in wanted]]
