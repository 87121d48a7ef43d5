import numpy as np
import tensorflow as tf

from cvae_tf.model import losses


def _posterior(seed=0, shape=(3, 2, 2, 2, 4)):
    random = np.random.default_rng(seed)
    return random.normal(size=shape).astype(np.float32), random.normal(size=shape).astype(np.float32)


def test_kl_equals_the_closed_form_of_the_lab():
    mean, logvar = _posterior()
    kl = losses.kl_divergence(losses.diagonal_normal(mean, logvar), losses.standard_normal(mean.shape))
    closed = -0.5 * np.sum(1 + logvar - mean**2 - np.exp(logvar), axis=(-3, -2, -1))
    assert kl.shape == (3, 2)
    np.testing.assert_allclose(kl, closed, rtol=1e-5)


def test_kl_equals_monte_carlo():
    mean, logvar = _posterior(shape=(1, 1, 1, 1, 3))
    q, p = losses.diagonal_normal(mean, logvar), losses.standard_normal(mean.shape)
    random = np.random.default_rng(1)
    std = np.exp(0.5 * logvar)
    z = mean + std * random.normal(size=(200_000, *mean.shape))
    log_q = -0.5 * ((z - mean) / std) ** 2 - np.log(std)
    monte_carlo = np.sum(log_q + 0.5 * z**2, axis=(-3, -2, -1)).mean()
    np.testing.assert_allclose(losses.kl_divergence(q, p)[0, 0], monte_carlo, rtol=0.01)


def test_kl_between_two_gaussians_equals_the_closed_form():
    (mean, logvar), (prior_mean, prior_logvar) = _posterior(), _posterior(seed=1)
    kl = losses.kl_divergence(losses.diagonal_normal(mean, logvar), losses.diagonal_normal(prior_mean, prior_logvar))
    variance, prior_variance = np.exp(logvar), np.exp(prior_logvar)
    closed = 0.5 * (prior_logvar - logvar - 1 + (variance + (mean - prior_mean) ** 2) / prior_variance)
    np.testing.assert_allclose(kl, closed.sum((-3, -2, -1)), rtol=1e-5)


def test_kl_of_equal_distributions_is_zero():
    mean, logvar = _posterior()
    q = losses.diagonal_normal(mean, logvar)
    np.testing.assert_allclose(losses.kl_divergence(q, q), 0, atol=1e-6)


def test_sample_is_reparameterised():
    mean, logvar = (tf.constant(x) for x in _posterior(shape=(1, 1, 1, 1, 2)))
    with tf.GradientTape() as tape:
        tape.watch([mean, logvar])
        z = losses.diagonal_normal(mean, logvar).sample(seed=[1, 2])
    by_mean, by_logvar = tape.gradient(z, [mean, logvar])
    np.testing.assert_allclose(by_mean, np.ones(mean.shape))
    np.testing.assert_allclose(by_logvar, 0.5 * (z - mean), rtol=1e-5)  # d(mean + exp(logvar / 2) eps) / d logvar


def test_sample_has_the_mean_and_deviation_asked_for():
    mean, logvar = np.full((1, 1, 200, 200, 1), 2.0, np.float32), np.full((1, 1, 200, 200, 1), np.log(9), np.float32)
    z = losses.diagonal_normal(mean, logvar).sample(seed=[0, 7]).numpy()
    assert abs(z.mean() - 2) < 0.06 and abs(z.std() - 3) < 0.05


def test_gradient_difference_by_hand():
    frames = np.zeros((1, 2, 2, 3, 1), np.float32)
    predictions = frames.copy()
    predictions[0, 1, 0, 1] = 0.6  # across: 0.6, -0.6, 0, 0; down: 0, -0.6, 0
    expected = [[0, 2 * 0.36 / 4 + 0.36 / 3]]
    np.testing.assert_allclose(losses.gradient_difference(frames, predictions), expected, rtol=1e-6)


def test_gradient_difference_ignores_a_shift_of_all_pixels():
    frames = np.random.default_rng(0).random((2, 3, 4, 6, 3), np.float32)
    np.testing.assert_allclose(losses.gradient_difference(frames, frames + 0.25), np.zeros((2, 3)), atol=1e-12)


def test_squared_error_by_hand():
    frames, predictions = np.zeros((1, 2, 2, 2, 3), np.float32), np.zeros((1, 2, 2, 2, 3), np.float32)
    predictions[0, 1, 0, 0, 0] = 0.6  # one of 12 values of the second clip's frame
    np.testing.assert_allclose(losses.squared_error(frames, predictions), [[0, 0.03]], rtol=1e-6)


def test_the_psnr_by_hand():
    frames = np.full((1, 3, 2, 2, 3), 0.5, np.float32)
    predictions = frames.copy()
    predictions[0, 0] += 0.1  # mean squared error 0.01
    predictions[0, 1, 0, 0, 0] = 7.5  # clipped to 1: one of 12 values is wrong by 0.5
    predictions[0, 2] = -2  # clipped to 0
    expected = [20, 10 * np.log10(12 / 0.25), 10 * np.log10(4)]
    np.testing.assert_allclose(losses.psnr(frames, predictions), [expected], rtol=1e-5)


def test_the_psnr_of_equal_frames_is_100_db_and_that_of_nearly_equal_ones_no_more():
    frames = np.full((1, 2, 2, 2, 3), 0.5, np.float32)
    np.testing.assert_array_equal(losses.psnr(frames, frames), [[100, 100]])
    np.testing.assert_array_equal(losses.psnr(frames, frames + np.float32(1e-6)), [[100, 100]])
