"""Follow a person through a video: from frames to key points, which are then smoothed and have short gaps filled."""

import contextlib
import sys
import time
from typing import NamedTuple

import numpy as np

from cvae_tf.errors import InputError
from cvae_tf.files import atomic
from cvae_tf.pose.detector import Detector
from cvae_tf.pose.keypoints import KeyPoints
from cvae_tf.pose.skeleton import LANDMARKS
from cvae_tf.pose.smoothing import MAX_GAP, fill_gaps, smooth

DETAIL = 720  # frames are reduced for the search to at most this many pixels on their shorter side
SURE = 0.1  # landmarks of a lower confidence count as missing
SAVED_EVERY = 200  # frames in a saved part of the search


class Track(NamedTuple):
    """The result of `follow`.

    Attributes:
        key_points: `KeyPoints` of all frames, in pixels of the video's picture, as they were found.
        people: largest number of people found in a frame; one frame per second is searched for them.
    """

    key_points: KeyPoints
    people: int


def follow(video, fps, progress=None):
    """Find the person in each frame of a video; the largest, if there are several.

    Args:
        video: `Video`.
        fps: frames per second to take from it.
        progress: folder that keeps the results so far, so that an interrupted search can continue; the result is the
            same. None: nothing is kept.

    Returns:
        A `Track`.

    Raises:
        InputError: the video cannot be read.
    """
    scale = min(1, DETAIL / min(video.width, video.height))
    size = max(2, round(video.width * scale)), max(2, round(video.height * scale))
    detector = Detector()
    found, people = _restore(progress, detector) if progress else ([], 0)
    done = saved = len(found)
    frames, expected = video.frames(fps, size=size if scale < 1 else None), video.expected(fps)
    with contextlib.closing(frames):
        for t, frame in enumerate(counted(frames, expected, "Poses")):
            if t < done:
                continue
            if t > 2 * expected + 100:
                raise InputError(f"{video.path}: its times jump, so that it would have far more than the expected "
                                 f"{expected} frames; convert it to a constant frame rate")
            if t % max(1, round(fps)) == 0:
                people = max(people, len(detector.people(frame)))
            found.append(_row(detector(frame)))
            if progress and len(found) == saved + SAVED_EVERY:
                _save(progress / f"{saved:08d}.npz", detector, found[saved:], people)
                saved = len(found)
    if not found:
        raise InputError(f"{video.path}: no frame can be read; convert it, for example to MP4 with H.264")
    found = np.stack(found)
    points = found[..., :2] * np.float32([video.width / size[0], video.height / size[1]] if scale < 1 else 1)
    return Track(KeyPoints(points, found[..., 2], (video.width, video.height), fps), people)


def _row(result):
    """(33, 3) float32: x, y and confidence, with NaN, NaN and 0 where nothing was found."""
    row = np.full((len(LANDMARKS), 3), (np.nan, np.nan, 0), np.float32)
    if result is not None:
        points, confidence = result
        sure = confidence >= SURE
        row[sure, :2], row[sure, 2] = points[sure], confidence[sure]
    return row


def _save(path, detector, found, people):
    """Write a part of the search, and the detector's state after it."""
    region, tracking = detector.state
    with atomic(path) as unfinished, open(unfinished, "wb") as stream:
        np.savez(stream, found=np.stack(found), people=people, tracking=tracking,
                 region=np.zeros((0, 3)) if region is None else region)


def _restore(progress, detector):
    """Read the parts that `_save` wrote, up to the first missing or damaged one. Returns ``(found, people)``."""
    found, people = [], 0
    while True:
        try:
            with np.load(progress / f"{len(found):08d}.npz") as part:
                rows, count, region, tracking = (part[name] for name in ("found", "people", "region", "tracking"))
        except Exception:
            return found, people
        detector.state = region if len(region) else None, bool(tracking)
        found += list(rows)
        people = int(count)


def clean(key_points, max_gap=MAX_GAP):
    """Fill gaps of at most ``max_gap`` frames, and smooth over time."""
    return smooth(fill_gaps(key_points, max_gap))


def counted(items, total, what):
    """Yield ``items``; in a terminal, show how many of about ``total`` are done, and the time left."""
    began, shown = time.monotonic(), 0.0
    terminal = sys.stdout.isatty()
    number = 0
    for number, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if terminal and now - shown > 0.5:
            left = max(0, total - number) * (now - began) / number
            print(f"\r{what}: {number} of {max(total, number)} frames, {left / 60:.0f}:{left % 60:02.0f} left ", end="",
                  flush=True)
            shown = now
    if terminal and number:
        print(f"\r{what}: {number} frames" + " " * 30, flush=True)
