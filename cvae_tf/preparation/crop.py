"""The part of a video's picture that becomes the frames: a fixed box for each video, of one shape for all videos."""

import numpy as np

from cvae_tf.errors import InputError

MARGIN = 0.12  # around the key points, in body heights: hair, hands and shoes reach beyond them
PIXELS = 32 * 64  # as many as the lab's frames have: 2,000 steps take a quarter of an hour on two CPU cores
STEP = 8  # frame sizes are multiples of it, because the network halves a frame three times


def track_box(key_points):
    """The box that holds the person in all frames, without a margin, and the person's height.

    Returns:
        ``(left, top, right, bottom)`` and the median height of the person, in pixels of the picture.
    """
    width, height = key_points.size
    points = key_points.points[key_points.present]
    low = np.clip(np.nanmin(points, axis=1), 0, (width, height))
    high = np.clip(np.nanmax(points, axis=1), 0, (width, height))
    # A single wrong frame must not widen the box of a whole video.
    (left, top), (right, bottom) = np.percentile(low, 0.5, axis=0), np.percentile(high, 99.5, axis=0)
    return (left, top, right, bottom), max(1.0, float(np.median(high[:, 1] - low[:, 1])))


def person_boxes(tracks, height):
    """Boxes that hold the person of each video, at the same size in all of them as far as the pictures allow.

    Args:
        tracks: `KeyPoints` of each video, in pixels of its picture.
        height: height of the frames in pixels; 0: see `frame_size`.

    Returns:
        ``(boxes, size)``: a box (x, y, width, height) for each video, ints in pixels of its picture, and the (width,
        height) of the frames. All boxes have the shape of the frames.
    """
    found = [track_box(track) for track in tracks]
    # The size is in body heights, so that a person who is filmed from farther away gets a smaller box.
    needed = np.max([[(right - left) / person, (bottom - top) / person]
                     for (left, top, right, bottom), person in found], axis=0) + 2 * MARGIN
    possible = np.min([np.divide(track.size, person) for track, (_, person) in zip(tracks, found, strict=True)], axis=0)
    needed = np.minimum(needed, possible)
    width, height = frame_size(height, *needed)
    boxes = []
    for track, ((left, top, right, bottom), person) in zip(tracks, found, strict=True):
        box_height = min(max(needed[1] * person, needed[0] * person * height / width), track.size[1],
                         track.size[0] * height / width)
        boxes.append(_placed((left + right) / 2, (top + bottom) / 2, box_height * width / height, box_height,
                             track.size))
    return boxes, (width, height)


def fixed_box(box, picture, height):
    """The largest part of ``box``, around its centre, that has the shape of the frames.

    Args:
        box: (x, y, width, height) in pixels of the picture; None: the whole picture.
        picture: (width, height) of the picture in pixels.
        height: height of the frames in pixels; 0: see `frame_size`.

    Returns:
        ``(box, size)``, as in `person_boxes`.
    """
    x, y, w, h = box or (0, 0, *picture)
    width, height = frame_size(height, w, h)
    box_height = min(h, w * height / width)
    return _placed(x + w / 2, y + h / 2, box_height * width / height, box_height, picture), (width, height)


def frame_size(height, box_width, box_height):
    """(width, height) of frames with the shape of a box, in pixels; the width is rounded to a multiple of `STEP`.

    A ``height`` of 0 stands for the multiple of `STEP` with which frames have the box's shape best, and about `PIXELS`
    pixels: a shape that is wrong by a percent counts as much as ten percent of the pixels.
    """
    ratio = box_width / box_height
    heights = [height] if height else range(2 * STEP, 513, STEP)
    sizes = [(int(np.clip(round(h * ratio / STEP) * STEP, STEP, 1024)), h) for h in heights]
    return min(sizes, key=lambda size: 10 * abs(np.log(size[0] / size[1] / ratio)) +
               abs(np.log(size[0] * size[1] / PIXELS)))


def _placed(x, y, width, height, picture):
    """A box of ints around the point (x, y), moved so that it lies in the picture."""
    width, height = (int(np.clip(round(side), 1, limit)) for side, limit in zip((width, height), picture, strict=True))
    return (int(np.clip(round(x - width / 2), 0, picture[0] - width)),
            int(np.clip(round(y - height / 2), 0, picture[1] - height)), width, height)


def cut_share(key_points, box):
    """The share of the frames with a person, of whom a point is in the picture and outside of ``box``."""
    x, y, width, height = box
    points = key_points.points[key_points.present]
    inside = ((points >= 0) & (points <= np.float32(key_points.size))).all(axis=-1)
    boxed = ((points >= (x, y)) & (points <= (x + width, y + height))).all(axis=-1)
    return float((inside & ~boxed).any(axis=1).mean())


def read_crop(text):
    """Read the flag ``--crop``: ``"person"``, ``"whole"``, or four numbers.

    Returns:
        The text, or (x, y, width, height) as ints.

    Raises:
        InputError: ``text`` is none of these.
    """
    if text in ("person", "whole"):
        return text
    try:
        x, y, width, height = (int(part) for part in text.split(","))
        if min(x, y) < 0 or min(width, height) < 1:
            raise ValueError
    except ValueError as error:
        raise InputError(f"--crop must be person, whole, or X,Y,W,H in pixels such as 0,0,720,1280, received '{text}'"
                         ) from error
    return x, y, width, height


def check_box(box, video):
    """Check that a box lies in the picture of a video.

    Raises:
        InputError: the box reaches beyond it.
    """
    x, y, width, height = box
    if x + width > video.width or y + height > video.height:
        raise InputError(f"--crop {x},{y},{width},{height}: reaches beyond the picture of {video.path}, "
                         f"{video.width}x{video.height} pixels")
