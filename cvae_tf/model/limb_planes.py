"""Drawn poses as the network reads them: one plane for each limb instead of three colours."""

import numpy as np
import tensorflow as tf

RADII = 2, 5  # of the blurred planes, in pixels of frames of 32 rows
STRENGTH = 4  # so that the planes have the scale of a frame that is centred for an encoder


class LimbPlanes:
    """Drawn poses (B, H, W, 3) -> a plane for each limb, sharp and blurred at two radii: (B, H, W, 3 limbs).

    The value of a sharp plane is the saturation of the pixel's colour if its hue is nearest to the limb's hue, else 0.
    So it is proportional to the share of the pixel that the limb covers. As colours, limbs that are neighbours on the
    hue circle look alike, and a thin limb is seen only by the few cells that it crosses. A blurred plane has the height
    of the sharp one on a long line, and shows how far away the limb is.

    Args:
        hues: three sequences: the left limbs, the same limbs on the right, and the limbs in the middle of the body.
            Each limb is a sequence of its hues in degrees.
        scale: factor of the radii of the blur.
    """

    def __init__(self, hues, scale=1):
        left, right, middle = hues
        limbs, other_side = [*left, *right, *middle], [*right, *left, *middle]
        degrees = np.arange(361)[:, None]
        distances = [np.abs((degrees - np.array(limb) + 180) % 360 - 180).min(axis=1) for limb in limbs]
        self.limb_of_hue = np.argmin(distances, axis=0).astype(np.int32)  # for each whole degree
        self.mirrored_hue = np.float32([limb[0] / 360 for limb in other_side])[self.limb_of_hue]
        self.limbs, self.scale = len(limbs), scale

    def __call__(self, drawing):
        hue, saturation, _ = tf.unstack(tf.image.rgb_to_hsv(drawing), axis=-1)
        planes = STRENGTH * tf.one_hot(tf.gather(self.limb_of_hue, _degrees(hue)), self.limbs) * saturation[..., None]
        return tf.concat([planes, *(self._blurred(planes, radius) for radius in RADII)], -1)

    def mirrored(self, drawing):
        """Flip drawings (..., H, W, 3) left to right, and give the limbs the hues of the other side."""
        hue, saturation, value = tf.unstack(tf.image.rgb_to_hsv(drawing), axis=-1)
        flipped = tf.stack([tf.gather(self.mirrored_hue, _degrees(hue)), saturation, value], -1)
        return tf.reverse(tf.image.hsv_to_rgb(flipped), [-2])

    def _blurred(self, planes, radius):
        """Convolve with a Gaussian of ``radius`` pixels, in a picture that is smaller by ``scale``."""
        size = tf.shape(planes)[1:3]
        small = tf.nn.avg_pool2d(planes, self.scale, self.scale, "SAME") if self.scale > 1 else planes
        offsets = np.arange(-2 * radius, 2 * radius + 1)
        kernel = np.exp(-offsets ** 2 / (2 * radius ** 2), dtype=np.float32)
        kernel = np.tile(kernel[:, None, None, None] / kernel.sum() ** 0.5, (1, 1, self.limbs, 1))
        for axes in ((0, 1), (1, 0)):
            small = tf.nn.depthwise_conv2d(small, kernel.transpose(*axes, 2, 3), (1, 1, 1, 1), "SAME")
        return tf.image.resize(small, size) if self.scale > 1 else small


def _degrees(hue):
    """Whole degrees from 0 to 360 of a hue in [0, 1]."""
    return tf.cast(tf.round(360 * hue), tf.int32)
