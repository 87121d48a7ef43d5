"""Measures of image quality per frame, in NumPy, or in TensorFlow where TensorFlow provides the measure.

Frames and predictions are (T, H, W, 3) floats. All measures clip them to [0, 1] first, as a display does. A NaN pixel
counts as an error of 1, and as black in SSIM and gradients.
"""

import numpy as np

from cvae_tf.model.defaults import HIGHEST_PSNR

PERSON_MARGIN = 0.09  # margin around the drawn limbs for the body, as a share of the frame height


def _error(frames, predictions):
    if np.shape(frames) != np.shape(predictions):
        raise ValueError(f"shapes must agree, received {np.shape(frames)} and {np.shape(predictions)}")
    error = np.clip(np.asarray(frames, np.float64), 0, 1) - np.clip(np.asarray(predictions, np.float64), 0, 1)
    return np.nan_to_num(error, nan=1.0)


def decibels(mse, peak=1.0):
    """Convert a mean squared error to PSNR in dB, at most `HIGHEST_PSNR`."""
    return np.minimum(HIGHEST_PSNR, -10 * np.log10(np.maximum(mse, 1e-30) / peak ** 2))


def mse_per_frame(frames, predictions):
    """Mean squared error of each frame over pixels and channels. Both inputs: (..., H, W, 3); result: (...) float64."""
    return np.mean(np.square(_error(frames, predictions)), axis=(-3, -2, -1))


def psnr_per_frame(frames: np.ndarray, predictions: np.ndarray, region: np.ndarray | None = None) -> np.ndarray:
    """Peak signal-to-noise ratio of each frame in dB, against a peak of 1.

    Args:
        frames, predictions: (..., H, W, 3) floats.
        region: (..., H, W) bool, True at the pixels to compare; None: all pixels.

    Returns:
        (...) float64: ``-10 log10`` of the mean squared error over pixels and channels; at most `HIGHEST_PSNR`, and NaN
        for an empty region.
    """
    if region is None:
        return decibels(mse_per_frame(frames, predictions))
    squares = np.mean(np.square(_error(frames, predictions)), axis=-1)
    count = np.sum(region, axis=(-2, -1))
    mse = np.sum(squares * region, axis=(-2, -1)) / np.maximum(count, 1)
    return np.where(count > 0, decibels(mse), np.nan)


def lab_psnr_per_frame(frames, predictions):
    """PSNR of each frame in dB, computed as by the lab's scorer: on integers from 0 to 255, with a peak of 255.

    There are two differences from the lab's scorer: predictions are clipped first, and equal frames have
    `HIGHEST_PSNR`, not infinity.
    """
    frames, predictions = (np.rint(255 * np.clip(np.asarray(x, np.float64), 0, 1)) for x in (frames, predictions))
    error = np.nan_to_num(frames - predictions, nan=255.0)
    return decibels(np.mean(np.square(error), axis=(-3, -2, -1)), peak=255.0)


def ssim_per_frame(frames, predictions):
    """Structural similarity of each frame (Wang et al., 2004), mean over channels: (T,) float64; 1 for equal frames.

    The Gaussian window is 11 pixels wide (less in smaller frames), with a standard deviation of 1.5 pixels, and lies
    inside the frame. The computation is in float32: for two frames of uniform colour, the error is up to about 2e-4.
    """
    import tensorflow as tf  # slow to import, and needed only here and in `person_region`

    smallest = min(np.shape(frames)[-3:-1])
    window = min(11, smallest - 1 + smallest % 2)
    true, predicted = (np.clip(np.nan_to_num(np.asarray(x, np.float32)), 0, 1) for x in (frames, predictions))
    return tf.image.ssim(true, predicted, max_val=1.0, filter_size=window).numpy().astype(np.float64)


def gradient_energy(frames):
    """Mean squared difference between neighbouring pixels, a measure of sharpness: (T,) float64."""
    frames = np.clip(np.nan_to_num(np.asarray(frames, np.float64)), 0, 1)
    across, down = np.diff(frames, axis=-2), np.diff(frames, axis=-3)
    return np.mean(np.square(across), axis=(-3, -2, -1)) + np.mean(np.square(down), axis=(-3, -2, -1))


def colour_drift(frames, predictions):
    """Mean colour of each prediction minus mean colour of the frame: (T, 3) float64 in [-1, 1], as RGB."""
    return -np.mean(_error(frames, predictions), axis=(-3, -2))


def person_region(poses):
    """Estimate the pixels of the person from the drawn pose: the limbs and a margin of `PERSON_MARGIN` around them.

    Args:
        poses: (T, H, W, 3) floats, limbs drawn on a background of uniform colour.

    Returns:
        (T, H, W) bool, True at the person; all False in a frame without a pose.
    """
    import tensorflow as tf

    poses = np.asarray(poses, np.float32)
    background = np.median(poses, axis=(0, 1, 2))
    limbs = np.max(np.abs(poses - background), axis=-1, keepdims=True) > 0.15
    reach = 2 * round(PERSON_MARGIN * poses.shape[1]) + 1
    return tf.nn.max_pool2d(np.float32(limbs), reach, 1, "SAME").numpy()[..., 0] > 0
