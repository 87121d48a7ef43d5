"""Key points over time: fill short gaps, and smooth the jitter of a detector without lag."""

import dataclasses

import numpy as np

MAX_GAP = 5  # longest gap that is filled by default, in frames
ORDER = 2  # of the polynomial: a steady acceleration passes unchanged


def fill_gaps(key_points, max_gap):
    """Fill short gaps of each point by linear interpolation.

    A gap at the start or the end stays. A filled point has the lower confidence of both ends of its gap.

    Args:
        key_points: `KeyPoints` of T frames.
        max_gap: longest gap that is filled, in frames.

    Returns:
        `KeyPoints` of T frames.
    """
    points, confidence = key_points.points, key_points.confidence
    missing = np.isnan(points[..., 0])
    frames = np.arange(len(points))[:, None]
    before = np.maximum.accumulate(np.where(missing, -1, frames))
    after = np.minimum.accumulate(np.where(missing, len(points), frames)[::-1])[::-1]
    t, k = np.nonzero(missing & (before >= 0) & (after < len(points)) & (after - before <= max_gap + 1))
    first, last = before[t, k], after[t, k]
    share = ((t - first) / (last - first))[:, None]
    points, confidence = points.copy(), confidence.copy()
    points[t, k] = (1 - share) * points[first, k] + share * points[last, k]
    confidence[t, k] = np.minimum(confidence[first, k], confidence[last, k])
    return dataclasses.replace(key_points, points=points, confidence=confidence)


def smooth(key_points, seconds=0.3):
    """Smooth each point over time with the filter of Savitzky and Golay (1964), which has no lag.

    Each position becomes the value of the parabola that fits the window around its frame best. Near the ends, the
    parabola is that of the first or last whole window. The frames of a point between two gaps are smoothed on their
    own, in a smaller window if they are few. Confidence stays as it is.

    Args:
        key_points: `KeyPoints` of T frames.
        seconds: length of the window. The default lowers the jitter of a still joint to about half, and keeps at
            least 93% of the amplitude of a movement that repeats twice a second.

    Returns:
        `KeyPoints` of T frames.
    """
    window = 2 * round(seconds * key_points.fps / 2) + 1
    points = key_points.points.copy()
    there = ~np.isnan(points[..., 0])
    patterns, pattern_of = np.unique(there, axis=1, return_inverse=True)
    for number, pattern in enumerate(patterns.T):  # points that exist in the same frames are smoothed together
        columns = np.flatnonzero(pattern_of.reshape(-1) == number)
        edges = np.flatnonzero(np.diff(pattern, prepend=False, append=False))
        for start, end in edges.reshape(-1, 2):
            points[start:end, columns] = _filtered(points[start:end, columns], window)
    return dataclasses.replace(key_points, points=points)


def _filtered(values, window):
    """Values (T, ...) filtered along the first axis, in a window of at most ``window`` frames, an odd number."""
    window = min(window, len(values) - 1 + len(values) % 2)
    half = window // 2
    powers = np.vander(np.arange(window) - half, min(ORDER + 1, window))
    fit = powers @ np.linalg.pinv(powers)  # from the window's values to those of the parabola
    windows = np.lib.stride_tricks.sliding_window_view(values, window, axis=0)
    ends = [np.tensordot(rows, part, 1) for rows, part in
            ((fit[:half], values[:window]), (fit[half + 1:], values[len(values) - window:]))]
    return np.concatenate([ends[0], windows @ fit[half], ends[1]])
