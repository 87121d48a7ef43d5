"""The terms of the evidence lower bound: distributions of the latent, their KL divergence, and frame errors.

Sohn et al., 2015 (conditional VAE); Kingma and Welling, 2014, arXiv:1312.6114 (reparameterisation). No other module
imports TensorFlow Probability.
"""

import tensorflow as tf
import tensorflow_probability as tfp

from cvae_tf.model.defaults import HIGHEST_PSNR

tfd = tfp.distributions


def diagonal_normal(mean, logvar):
    """N(mean, exp(logvar)), independent in every element; float32 whatever the compute dtype."""
    mean, logvar = tf.cast(mean, tf.float32), tf.cast(logvar, tf.float32)
    return tfd.Normal(mean, tf.exp(0.5 * logvar))


def standard_normal(shape):
    """The fixed prior p(z) = N(0, I) of ``shape``."""
    return tfd.Normal(tf.zeros(shape), tf.ones(shape))


def kl_divergence(posterior, prior):
    """KL(posterior || prior) in nats per frame.

    Args:
        posterior, prior: tfp Normals of batch shape (T, B, h, w, c).

    Returns:
        (T, B) float32: as in the lab, the sum over the latent (h, w, c), not the mean.
    """
    return tf.reduce_sum(tfd.kl_divergence(posterior, prior), axis=[-3, -2, -1])


def squared_error(frames, predictions):
    """Mean squared error of each frame over H, W and channels: two of (T, B, H, W, 3) in [0, 1] -> (T, B)."""
    return tf.reduce_mean(tf.square(tf.cast(predictions, tf.float32) - frames), axis=[-3, -2, -1])


def gradient_difference(frames, predictions):
    """Mean squared error of the differences between neighbouring pixels, across and down, per frame.

    The gradient difference loss of Mathieu et al., 2016, arXiv:1511.05440, with exponent 2. Coarse errors make up
    most of a frame's squared error. This loss stresses fine errors, so the network learns edges sooner.

    Returns:
        (T, B) float32: the mean for each direction, summed over both directions.
    """
    error = tf.cast(predictions, tf.float32) - frames
    across, down = error[..., 1:, :] - error[..., :-1, :], error[..., 1:, :, :] - error[..., :-1, :, :]
    return sum(tf.reduce_mean(tf.square(difference), axis=[-3, -2, -1]) for difference in (across, down))


def psnr(frames, predictions):
    """Peak signal-to-noise ratio per frame in dB for a peak of 1, with predictions clipped to [0, 1].

    Returns:
        (T, B) float32 for two inputs (T, B, H, W, 3); at most `HIGHEST_PSNR`.
    """
    error = squared_error(frames, tf.clip_by_value(predictions, 0.0, 1.0))
    return tf.minimum(HIGHEST_PSNR, -10 / tf.math.log(10.0) * tf.math.log(tf.maximum(error, 1e-30)))
