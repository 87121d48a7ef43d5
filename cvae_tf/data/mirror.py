"""Mirrored poses: drawings flipped left to right, with the colours of left and right limbs exchanged.

At no cost, a mirrored clip shows another person doing other things. In a drawn pose, the limb colours tell left from
right, and thus front from back. So these colours have to change sides.
"""

from typing import NamedTuple

import numpy as np

from cvae_tf.pose import skeleton

SAMPLED = 256  # number of evenly spaced poses from which the palette of a data set is found
# A limb counts as absent if its hue has less than this fraction of an equal share of the total saturation.
ABSENT = 0.2
# Largest fraction of absent limbs. Measured: at most 0.29 in poses of either palette, 0.53 or more if each side of the
# body has one colour.
MOST_ABSENT = 0.4


class Palette(NamedTuple):
    """Hues in degrees of the limbs in a drawn pose.

    Attributes:
        left, right: hues of the left limbs, and of the same limbs on the right.
        others: hues of the limbs in the middle of the body.
        farthest: largest mean distance, in degrees, of the coloured pixels from the nearest of these hues. A drawing
            above it has another palette.
        style: the `skeleton.Style` with these colours.
    """

    left: tuple
    right: tuple
    others: tuple
    farthest: float
    style: skeleton.Style

    def distance(self, hues, weights):
        """The distance of a drawing from this palette, in degrees.

        Args:
            hues: (N,) float in degrees, of the coloured pixels.
            weights: (N,) float, their saturations.

        Returns:
            The weighted mean distance of ``hues`` from the nearest hue of a limb; infinity if the hues of too many
            limbs are absent.
        """
        limb, distance = self.nearest(hues)
        count = len(self.left) + len(self.right) + len(self.others)
        absent = np.bincount(limb, weights, count) < ABSENT * weights.sum() / count
        return np.inf if absent.mean() > MOST_ABSENT else np.average(distance, weights=weights)

    def nearest(self, hues):
        """The number of the limb with the nearest hue, and the distance from it in degrees, for ``hues`` (N,)."""
        degrees = np.arange(361)
        distances = np.abs((degrees[:, None] - [*self.left, *self.right, *self.others] + 180) % 360 - 180)
        whole = np.rint(hues).astype(int)
        return np.argmin(distances, axis=1)[whole], np.min(distances, axis=1)[whole]


# Thigh, shank, foot, forearm and upper arm on each side; spine and head.
# ``farthest``, measured on windows of 96 poses: real poses in these colours have at most 5.73 degrees, drawings in
# random, permuted or rainbow colours at least 6.37.
LAB = Palette((0, 20, 48, 184, 192), (161, 141, 113, 212, 226), (240, 290), 6.3, skeleton.LAB)
# ``farthest``, measured on 96 or more of the studio's poses of at least 16x32 pixels: at most 3.34 degrees. Other
# colours have at least 3.92 degrees; OpenPose's rainbow is the nearest of them.
STUDIO = Palette(*skeleton.hues(skeleton.STUDIO), 3.6, skeleton.STUDIO)


def find_palette(poses):
    """The palette that poses are drawn in, or None.

    Args:
        poses: (N, H, W, 3) uint8. At most `SAMPLED` poses are read, also from an array on disk.

    Returns:
        `LAB` or `STUDIO`; None if the drawings have other colours, or no colour.
    """
    chosen = np.linspace(0, len(poses) - 1, min(len(poses), SAMPLED)).astype(int)
    step = max(1, min(poses.shape[1:3]) // 64)  # in large drawings, a part of the pixels is enough
    sample = poses[:, ::step, ::step][chosen]
    pixels = sample[_coloured(sample)]
    if not len(pixels):
        return None
    hue, saturation, _ = _rgb_to_hsv(pixels)
    distance, palette = min(((palette.distance(360 * hue, saturation), palette) for palette in (LAB, STUDIO)),
                            key=lambda pair: pair[0])
    return palette if distance <= palette.farthest else None


def mirrored(poses, palette):
    """Mirror drawn poses.

    Limbs are few pixels wide and blend with the paper. So the hue of each coloured pixel is shifted as the nearest
    limb's hue is; its saturation and value are kept. Grey pixels keep their values.

    Args:
        poses: (..., H, W, 3) uint8.
        palette: `Palette` of the drawings.

    Returns:
        (..., H, W, 3) uint8.
    """
    hues = [*palette.left, *palette.right, *palette.others]
    moves = np.subtract([*palette.right, *palette.left, *palette.others], hues)
    result = poses[..., ::-1, :].copy()
    coloured = _coloured(result)  # few pixels, so that this is fast
    hue, saturation, value = _rgb_to_hsv(result[coloured])
    hue = (hue + moves[palette.nearest(360 * hue)[0]] / 360) % 1
    result[coloured] = np.rint(255 * _hsv_to_rgb(hue, saturation, value))
    return result


def _coloured(images):
    """Which pixels of (..., 3) uint8 are not grey."""
    red, green, blue = np.moveaxis(images, -1, 0)
    return (red != green) | (green != blue)


def _rgb_to_hsv(pixels):
    """Hue, saturation and value in [0, 1], each (N,), of coloured pixels (N, 3) uint8."""
    red, green, blue = np.moveaxis(pixels / 255, -1, 0)
    value, lowest = np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)
    spread = value - lowest
    hue = np.where(value == blue, 4 + (red - green) / spread,
                   np.where(value == green, 2 + (blue - red) / spread, (green - blue) / spread))
    return hue / 6 % 1, spread / value, value


def _hsv_to_rgb(hue, saturation, value):
    """The inverse of `_rgb_to_hsv`: (N, 3) float in [0, 1]."""
    sector = (6 * hue).astype(int)
    part = 6 * hue - sector
    low, falling, rising = (value * (1 - saturation * share) for share in (1, part, 1 - part))
    red = np.choose(sector, [value, falling, low, low, rising, value], mode="wrap")
    green = np.choose(sector, [rising, value, value, falling, low, low], mode="wrap")
    blue = np.choose(sector, [low, low, rising, value, value, falling], mode="wrap")
    return np.stack([red, green, blue], -1)
