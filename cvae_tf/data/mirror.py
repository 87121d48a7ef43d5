"""Mirrored footage: drawn poses left to right, with the colours of left and right limbs exchanged.

A mirrored person is another person doing other things, for nothing. But a drawn pose tells left from right, and so a
face from a back, by the colours of the limbs, and these have to change sides with them.
"""

import numpy as np

# Hues in degrees of the lab's drawings: thigh, shank, foot, forearm and upper arm of the left and of the right; and of
# the spine and the head.
LAB = ((0, 20, 48, 184, 192), (161, 141, 113, 212, 226), (240, 290))

CHUNK = 256  # poses at a time, so that the floats take little memory
# `unevenness` above which poses are drawn in other colours. Real and studio footage have 0.09 to 0.18 with their own
# hues, and 0.40 to 0.56 with each other's.
UNEVEN = 0.25


def _nearest(poses, limbs):
    """Of each pixel hue, saturation and value, in [0, 1], and the number of the limb whose hue is nearest."""
    from matplotlib.colors import rgb_to_hsv  # slow to load, and most who load footage mirror nothing

    hsv = rgb_to_hsv(poses / 255)
    degrees = np.arange(361)
    nearest = np.argmin(np.abs((degrees[:, None] - limbs + 180) % 360 - 180), axis=1)
    return hsv, nearest[np.rint(360 * hsv[..., 0]).astype(int)]


def unevenness(poses, left, right, middle):
    """By how much drawings have more of the left limbs' colours than of the right ones', or less; see `mirrored`.

    Footage shows both sides about alike; drawings in other colours seldom do.

    Returns:
        The sum of the differences between a left limb's and its right one's, over the sum of all; 0 without colour.
    """
    amounts = np.zeros(len(left) + len(right) + len(middle))
    for start in range(0, len(poses), CHUNK):
        hsv, limb = _nearest(poses[start:start + CHUNK:8], np.array([*left, *right, *middle]))
        amounts += np.bincount(limb.ravel(), hsv[..., 1].ravel(), len(amounts))
    of_left, of_right = amounts[:len(left)], amounts[len(left):len(left) + len(right)]
    return np.abs(of_left - of_right).sum() / max((of_left + of_right).sum(), 1e-9)


def mirrored(poses, left, right, middle):
    """Mirror drawn poses.

    Thin limbs are drawn in few pixels and mixed with the paper, so a pixel's hue is moved as that of the limb with the
    nearest hue; saturation and value stay, also of the paper.

    Args:
        poses: (N, H, W, 3) uint8.
        left, right: hues in degrees of left limbs, and of the same limbs on the right.
        middle: hues of what is neither.

    Returns:
        (N, H, W, 3) uint8.
    """
    from matplotlib.colors import hsv_to_rgb

    limbs = np.array([*left, *right, *middle])
    moves = np.array([*right, *left, *middle]) - limbs
    result = np.empty_like(poses)
    for start in range(0, len(poses), CHUNK):
        hsv, limb = _nearest(poses[start:start + CHUNK, :, ::-1], limbs)
        hsv[..., 0] = (hsv[..., 0] + moves[limb] / 360) % 1
        result[start:start + CHUNK] = np.rint(255 * hsv_to_rgb(hsv))
    return result
