"""Limbs in films: whether a pose detector finds the person, and finds each joint where the driving pose has it.

The driving pose is the pose that a frame was generated from. The measure is the percentage of correct key points (Yang
and Ramanan 2013, "Articulated Human Detection with Flexible Mixtures of Parts", PAMI 35): a joint is correct if it lies
near its place, relative to the longer side of the box around the person.
"""

import importlib.util

import numpy as np
from PIL import Image

from cvae_tf.pose.detector import Detector
from cvae_tf.pose.skeleton import LANDMARKS

ROWS = {  # row -> its title, and whether its film was made from the true frames that it should predict
    "truth": ("truth (the yardstick)", False),
    "prior": ("prior z, first sample", False),
    "posterior": ("posterior z (encoder sees the target)", True),
    "copy_first": ("copy-first (baseline)", False),
}
EVERY = 10  # every tenth frame of a film is searched ...
FEWEST, MOST = 10, 63  # ... but at least about the first number of its frames, and at most the second
LEAST_HEIGHT = 256  # in pixels; smaller frames are enlarged, because the detector finds fewer people in them
TOLERANCE = 0.05  # largest distance of a correct joint from its place, as a share of the body height
ENDS = ("left_wrist", "right_wrist", "left_ankle", "right_ankle")
JOINTS = (*ENDS, *(f"{side}_{joint}" for joint in ("shoulder", "elbow", "hip", "knee") for side in ("left", "right")))


def is_installed():
    """Whether ai-edge-litert is installed, the package that runs the pose detector fast."""
    return importlib.util.find_spec("ai_edge_litert") is not None


def open_detector():
    """The pose detector for frames that do not follow each other, as a function like `Detector`.

    Raises:
        InputError: `Detector` cannot be opened.
    """
    detector = Detector()

    def find(frame):
        detector.reset()
        return detector(frame)
    return find


def searched(count):
    """The frames of a film of ``count`` frames that are searched, evenly spaced: an array of indices."""
    return np.arange(0, count, max(1, min(EVERY, count // FEWEST), -(-count // MOST)))


def count_limbs(find, films, key_points=None):
    """Search for the person in films of one sequence, and compare the joints with the driving pose.

    The body height is the longer side of the box around the points of the driving pose: the median over the searched
    frames with a person.

    Args:
        find: function from a frame (H, W, 3) uint8 to None if nobody is found, or else to ``(points, confidence)``,
            with points (33, 2) in pixels.
        films: row -> film (T, H, W, 3) uint8; the row ``truth`` has the true frames.
        key_points: the driving pose, `KeyPoints` of the T frames; None: the points that are found in the true frames.

    Returns:
        A dict: ``driving_pose`` is "key points" or "detector", and ``rows`` has for each row a dict of counts:

        - ``frames``: the frames that were searched, and ``found``: those of them in which a person is found
        - ``people``: the frames in which the driving pose has one of the `JOINTS` in the picture
        - ``joints``: the `JOINTS` of the driving pose that lie in the picture, and ``joints_near``: those of them found
          within `TOLERANCE` of their place
        - ``ends``, ``ends_near``: the same of the `ENDS`

        Without ``key_points``, the truth has no joints to count: they are in their place by definition.
    """
    height, width = films["truth"].shape[1:3]
    frames = searched(len(films["truth"]))
    found = {row: _find_points(find, film[frames]) for row, film in films.items()}
    driving = found["truth"] if key_points is None else key_points.points[frames]
    rows = {row: _counts(points, driving, (width, height)) for row, points in found.items()}
    if key_points is None:
        rows["truth"] |= dict.fromkeys(("joints", "joints_near", "ends", "ends_near"), 0)
    return {"driving_pose": "detector" if key_points is None else "key points", "rows": rows}


def enlargement(height):
    """The whole number by which frames of a height in pixels are enlarged for the detector."""
    return max(1, -(-LEAST_HEIGHT // height))


def _find_points(find, frames):
    """The points in frames of a film, in their pixels: (N, 33, 2), NaN where nobody is found."""
    points = np.full((len(frames), len(LANDMARKS), 2), np.nan)
    height, width = frames.shape[1:3]
    factor = enlargement(height)
    for t, frame in enumerate(frames):
        if t and np.array_equal(frame, frames[t - 1]):  # a baseline that stands still
            points[t] = points[t - 1]
        else:
            large = Image.fromarray(frame).resize((factor * width, factor * height), Image.Resampling.BICUBIC)
            found = find(np.asarray(large))
            if found is not None:
                points[t] = found[0] / factor
    return points


def _counts(points, driving, size):
    """The counts of `count_limbs`, for points and driving pose (N, 33, 2) in a picture of ``size`` (width, height)."""
    inside = ((driving >= 0) & (driving < size)).all(axis=-1)  # False for NaN
    near = np.linalg.norm(points - driving, axis=-1) <= TOLERANCE * _body_height(driving)
    joints, ends = ([LANDMARKS.index(name) for name in names] for names in (JOINTS, ENDS))
    counts = {"frames": len(points), "found": (~np.isnan(points[..., 0]).all(axis=1)).sum(),
              "people": inside[:, joints].any(axis=1).sum(),
              "joints": inside[:, joints].sum(), "joints_near": (inside & near)[:, joints].sum(),
              "ends": inside[:, ends].sum(), "ends_near": (inside & near)[:, ends].sum()}
    return {name: int(count) for name, count in counts.items()}


def _body_height(driving):
    """The median over frames of the longer side of the box around the points, in pixels; NaN without points."""
    there = driving[~np.isnan(driving[..., 0]).all(axis=1)]
    sides = np.nanmax(there, axis=1) - np.nanmin(there, axis=1) if len(there) else np.full((1, 2), np.nan)
    return np.median(sides.max(axis=1))


def shares(results):
    """The shares of frames and joints over sequences.

    Args:
        results: list of what `count_limbs` returned, one for each sequence, of the same rows.

    Returns:
        A dict for the report: ``driving_pose``; ``searched_frames`` and, of these, ``frames_with_person``; and
        ``rows``: row -> ``found``, ``joints`` and ``hands_and_feet`` in [0, 1], or None if there is nothing to count.
    """
    rows = {row: {name: sum(one["rows"][row][name] for one in results) for name in first}
            for row, first in results[0]["rows"].items()}
    return {"driving_pose": results[0]["driving_pose"], "searched_frames": rows["truth"]["frames"],
            "frames_with_person": rows["truth"]["people"],
            "rows": {row: {"found": total["found"] / total["frames"],
                           "joints": _share(total["joints_near"], total["joints"]),
                           "hands_and_feet": _share(total["ends_near"], total["ends"])}
                     for row, total in rows.items()}}


def _share(part, whole):
    return part / whole if whole else None
