"""Picture quality. Plain NumPy."""

import numpy as np

HIGHEST_PSNR = 100.0  # dB, of equal frames: their true value is infinite and would swallow every mean


def psnr_per_frame(frames, predictions):
    """Peak signal-to-noise ratio of each frame in dB, against a peak of 1.

    Both are clipped to [0, 1] first, as a viewer would see them; a pixel that is no number is off by 1.

    Args:
        frames, predictions: (..., H, W, 3) floats.

    Returns:
        (...) float64: ``-10 log10`` of the mean squared error over H, W and channels; `HIGHEST_PSNR` at most.
    """
    if np.shape(frames) != np.shape(predictions):
        raise ValueError(f"shapes must agree, received {np.shape(frames)} and {np.shape(predictions)}")
    error = np.clip(np.asarray(frames, np.float64), 0, 1) - np.clip(np.asarray(predictions, np.float64), 0, 1)
    error = np.nan_to_num(error, nan=1.0)
    mse = np.mean(np.square(error), axis=(-3, -2, -1))
    return -10 * np.log10(np.maximum(mse, 10 ** (-HIGHEST_PSNR / 10)))


def psnr_table(curves):
    """Header and rows of a table of PSNR curves, name -> (T,) dB of frames 1 to T: ``frame`` and ``psnr_NAME``."""
    header = ["frame", *(f"psnr_{name.replace(' ', '_').replace('-', '_')}" for name in curves)]
    columns = ((f"{value:.4f}" for value in values) for values in curves.values())
    return header, list(zip(range(1, 1 + len(next(iter(curves.values())))), *columns, strict=True))
