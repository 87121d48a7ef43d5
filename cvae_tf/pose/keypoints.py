"""Key points of one person over time, and the file ``poses.json`` that holds those of a data set."""

import dataclasses
import json
from dataclasses import dataclass

import numpy as np

from cvae_tf.errors import InputError
from cvae_tf.files import atomic, plain
from cvae_tf.pose.skeleton import COCO, LANDMARKS, MIRRORED

DERIVED = {"neck": ("left_shoulder", "right_shoulder"), "pelvis": ("left_hip", "right_hip"),
           "head": ("left_ear", "right_ear")}  # each in the middle between two landmarks
_INDEX = {name: k for k, name in enumerate(LANDMARKS)}
_COCO = [_INDEX[name] for name in COCO]


@dataclass(frozen=True)
class KeyPoints:
    """The key points of one person in T frames.

    Attributes:
        points: (T, 33, 2) float32: x to the right and y down in pixels, in the order of `LANDMARKS`; the first pixel
            extends from 0 to 1. NaN where a point is missing.
        confidence: (T, 33) float32 in [0, 1]; 0 where a point is missing.
        size: (width, height) of the picture in pixels.
        fps: frames per second.
    """

    points: np.ndarray
    confidence: np.ndarray
    size: tuple
    fps: float

    @classmethod
    def from_joints(cls, joints: dict[str, np.ndarray], size: tuple, fps: float,
                    confidence: float = 1.0) -> "KeyPoints":
        """Key points from a dict of named positions (T, 2); names that are not landmarks are left out."""
        count = len(next(iter(joints.values())))
        points = np.full((count, len(LANDMARKS), 2), np.nan, np.float32)
        for name in joints.keys() & _INDEX.keys():
            points[:, _INDEX[name]] = joints[name]
        return cls(points, np.where(np.isnan(points[..., 0]), 0, confidence).astype(np.float32), tuple(size), fps)

    def __len__(self):
        return len(self.points)

    def __getitem__(self, frames: slice | np.ndarray) -> "KeyPoints":
        """The key points of some frames; ``frames`` is a slice or an array of indices."""
        return dataclasses.replace(self, points=self.points[frames], confidence=self.confidence[frames])

    @property
    def present(self) -> np.ndarray:
        """(T,) bool: the frames with a person, which have at least one point."""
        return ~np.isnan(self.points[..., 0]).all(axis=1)

    def joints(self) -> dict[str, np.ndarray]:
        """A dict from the name of each landmark, and of neck, pelvis and head, to its positions (T, 2)."""
        joints = {name: self.points[:, k] for name, k in _INDEX.items()}
        return joints | {name: (joints[a] + joints[b]) / 2 for name, (a, b) in DERIVED.items()}

    def mirrored(self) -> "KeyPoints":
        """The key points flipped left to right, with left and right joints exchanged."""
        points = self.points[:, MIRRORED] * np.float32([-1, 1]) + np.float32([self.size[0], 0])
        return dataclasses.replace(self, points=points, confidence=self.confidence[:, MIRRORED])

    def cropped(self, box: tuple, size: tuple) -> "KeyPoints":
        """The same key points in a part of the picture.

        Args:
            box: (x, y, width, height) of the part, in pixels of the picture; it may reach beyond the picture.
            size: (width, height) to which the part is scaled, in pixels.
        """
        x, y, width, height = box
        points = (self.points - np.float32([x, y])) * np.float32([size[0] / width, size[1] / height])
        return dataclasses.replace(self, points=points, size=tuple(size))

    def resampled(self, fps: float) -> "KeyPoints":
        """The key points at another frame rate, by linear interpolation; points next to missing ones are missing."""
        count = max(1, round(len(self) * fps / self.fps))
        times = np.minimum(np.arange(count) * self.fps / fps, len(self) - 1)
        before = np.floor(times).astype(int)
        after = np.minimum(before + 1, len(self) - 1)
        share = (times - before)[:, None].astype(np.float32)

        def between(values, share):
            # A weight of 0 must not spread NaN from a frame that has no part in the result.
            return np.where(share == 0, values[before], values[before] * (1 - share) + values[after] * share)

        points = between(self.points, share[..., None])
        confidence = np.where(np.isnan(points[..., 0]), 0, between(self.confidence, share))
        return dataclasses.replace(self, points=points, confidence=confidence, fps=fps)


def joined(parts):
    """Some `KeyPoints` of one size and frame rate, one after the other."""
    return dataclasses.replace(parts[0], points=np.concatenate([part.points for part in parts]),
                               confidence=np.concatenate([part.confidence for part in parts]))


def write_poses(path, key_points, names):
    """Write ``poses.json``: COCO's key-point format, with the 33 landmarks beside the 17 key points.

    Programs that read COCO's format read this file. Each annotation has the field ``landmarks`` in addition:
    33 times x, y and confidence. Positions are in pixels of the frames, rounded to hundredths. As COCO demands,
    ``keypoints`` has visibility 2 for a point and 0, 0, 0 for a missing one.

    Args:
        path: the file.
        key_points: `KeyPoints` of T frames.
        names: names of the T frames' files.

    Raises:
        InputError: the file cannot be written.
    """
    with atomic(path) as unfinished, open(unfinished, "w", encoding="utf-8") as stream:
        stream.write(_head(key_points, names)[:-1] + ', "annotations": [')
        for number, t in enumerate(np.flatnonzero(key_points.present)):
            # Annotations are written one at a time: an hour of video has a hundred thousand.
            stream.write(("," if number else "") + "\n" + json.dumps(_annotation(key_points, int(t), number)))
        stream.write("]}\n")


def _head(key_points, names):
    """All of ``poses.json`` but the annotations."""
    width, height = key_points.size
    images = [{"id": t, "file_name": str(name), "width": width, "height": height} for t, name in enumerate(names)]
    categories = [{"id": 1, "name": "person", "keypoints": list(COCO), "landmarks": list(LANDMARKS)}]
    return json.dumps({"info": {"description": "key points by cvae_tf", "fps": key_points.fps},
                       "categories": categories, "images": images})


def _annotation(key_points, t, number):
    """The person in frame ``t`` as an annotation of COCO with the id ``number``."""
    found, there = key_points.points[t].astype(float), ~np.isnan(key_points.points[t, :, 0])
    landmarks = [[round(x, 2), round(y, 2), round(float(c), 3)] if ok else [0, 0, 0]
                 for (x, y), c, ok in zip(found.tolist(), key_points.confidence[t], there, strict=True)]
    low, high = found[there].min(axis=0), found[there].max(axis=0)
    box = [round(v, 2) for v in (*low.tolist(), *(high - low).tolist())]
    return {"id": number, "image_id": t, "category_id": 1, "iscrowd": 0, "bbox": box,
            "area": round(box[2] * box[3], 2), "num_keypoints": int(there[_COCO].sum()),
            "keypoints": [v for k in _COCO for v in (*landmarks[k][:2], 2 if there[k] else 0)],
            "landmarks": [v for landmark in landmarks for v in landmark]}


def read_poses(path):
    """Read a file that `write_poses` wrote.

    Returns:
        ``(key_points, names)``: `KeyPoints` of T frames, and the T names of their files.

    Raises:
        InputError: the file is missing, or was not written by `write_poses`.
    """
    try:
        content = json.loads(plain(path).read_text(encoding="utf-8"))
        images = content["images"]
        names = [str(image["file_name"]) for image in images]
        sizes = {(int(image["width"]), int(image["height"])) for image in images}
        (size,), fps = sizes, float(content["info"]["fps"])
        rows = {int(image["id"]): t for t, image in enumerate(images)}
        table = np.zeros((len(images), len(LANDMARKS), 3))
        for annotation in content["annotations"]:
            table[rows[annotation["image_id"]]] = np.reshape(annotation["landmarks"], table.shape[1:])
        if not (np.abs(table).max() < 1e6 and 0 <= table[..., 2].min() and table[..., 2].max() <= 1
                and 0 < fps < np.inf and min(size) > 0):
            raise ValueError("numbers out of range")
        if len(rows) < len(images):
            raise ValueError("two images with one number")
    except Exception as error:
        reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        raise InputError(f"{path}: not a readable file of key points ({reason}); prepare the data set again") from error
    missing = (table == 0).all(axis=2)
    points = np.where(missing[..., None], np.nan, table[..., :2]).astype(np.float32)
    return KeyPoints(points, table[..., 2].astype(np.float32), size, fps), names
