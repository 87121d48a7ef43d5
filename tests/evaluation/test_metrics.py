import numpy as np
import pytest
from skimage import metrics as skimage_metrics

from cvae_tf.evaluation import metrics
from cvae_tf.evaluation.metrics import HIGHEST_PSNR, psnr_per_frame


def _noisy(count=3, size=(20, 30), seed=0):
    random = np.random.default_rng(seed)
    frames = random.random((count, *size, 3))
    return frames, np.clip(frames + 0.1 * random.standard_normal(frames.shape), 0, 1)


def test_psnr_by_hand():
    frames = np.zeros((3, 4, 8, 3))
    predictions = frames + np.array([0.1, 0.01, 0.5])[:, None, None, None]
    np.testing.assert_allclose(psnr_per_frame(frames, predictions), [20, 40, -10 * np.log10(0.25)])


def test_psnr_equals_scikit_images():
    frames, predictions = _noisy()
    expected = [skimage_metrics.peak_signal_noise_ratio(a, b, data_range=1)
                for a, b in zip(frames, predictions, strict=True)]
    np.testing.assert_allclose(psnr_per_frame(frames, predictions), expected, rtol=1e-12)


def test_psnr_mean_is_of_decibels_not_of_errors():
    frames = np.zeros((2, 2, 2, 3))
    predictions = frames + np.array([0.1, 0.001])[:, None, None, None]
    assert psnr_per_frame(frames, predictions).mean() == pytest.approx(40)
    of_mean = metrics.decibels(metrics.mse_per_frame(frames, predictions).mean())
    assert of_mean == pytest.approx(-10 * np.log10((1e-2 + 1e-6) / 2))


def test_psnr_clips_what_a_viewer_cannot_see():
    assert psnr_per_frame(np.ones((1, 2, 2, 3)), np.full((1, 2, 2, 3), 1.7))[0] == HIGHEST_PSNR


def test_equal_frames_have_the_highest_psnr():
    frames = np.random.default_rng(0).random((2, 2, 2, 3))
    assert psnr_per_frame(frames, frames).tolist() == [HIGHEST_PSNR] * 2


def test_psnr_refuses_other_shapes():
    with pytest.raises(ValueError, match="shapes"):
        psnr_per_frame(np.zeros((2, 4, 4, 3)), np.zeros((3, 4, 4, 3)))


def test_what_is_no_number_scores_as_the_worst_picture():
    assert psnr_per_frame(np.zeros((1, 2, 2, 3)), np.full((1, 2, 2, 3), np.nan)).tolist() == [0.0]


def test_psnr_of_a_region_counts_its_pixels_alone():
    frames = np.zeros((2, 2, 2, 3))
    predictions = frames.copy()
    predictions[0, 0, 0] = 0.1  # error 0.01 in one of four pixels
    predictions[0, 1, 1] = 0.9
    region = np.zeros((2, 2, 2), bool)
    region[0, 0] = True  # the first row; nothing in the second frame
    np.testing.assert_allclose(psnr_per_frame(frames, predictions, region), [-10 * np.log10(0.01 / 2), np.nan])
    everywhere = np.ones((2, 2, 2), bool)
    np.testing.assert_allclose(psnr_per_frame(frames, predictions, everywhere), psnr_per_frame(frames, predictions))


def test_ssim_by_hand_of_flat_frames():
    # Of two constants a and b only the luminance term is left: (2ab + C) / (a^2 + b^2 + C), C = 0.01^2.
    a, b = 0.2, 0.6
    expected = (2 * a * b + 1e-4) / (a * a + b * b + 1e-4)
    score = metrics.ssim_per_frame(np.full((1, 16, 16, 3), a), np.full((1, 16, 16, 3), b))
    np.testing.assert_allclose(score, [expected], atol=2e-4)  # float32


def test_ssim_equals_scikit_images():
    frames, predictions = _noisy(size=(32, 64))
    expected = [skimage_metrics.structural_similarity(a, b, data_range=1, channel_axis=-1, gaussian_weights=True,
                                                      sigma=1.5, use_sample_covariance=False)
                for a, b in zip(frames, predictions, strict=True)]
    np.testing.assert_allclose(metrics.ssim_per_frame(frames, predictions), expected, atol=2e-5)


@pytest.mark.parametrize("height, window", [(8, 7), (9, 9)])
def test_ssim_of_small_frames_has_the_largest_odd_window(height, window):
    frames, predictions = _noisy(size=(height, 16))
    bell = np.exp(-0.5 * (np.arange(window) - window // 2) ** 2 / 1.5 ** 2)
    weights = (np.outer(bell, bell) / np.outer(bell, bell).sum())[..., None]
    expected = []
    for x, y in zip(frames, predictions, strict=True):
        scores = []
        for i in range(height - window + 1):
            for j in range(16 - window + 1):
                a, b = (image[i:i + window, j:j + window] for image in (x, y))
                mean_a, mean_b = ((weights * part).sum((0, 1)) for part in (a, b))
                var_a, var_b, cov = ((weights * p * q).sum((0, 1)) - m * n for p, q, m, n in
                                     ((a, a, mean_a, mean_a), (b, b, mean_b, mean_b), (a, b, mean_a, mean_b)))
                scores.append((2 * mean_a * mean_b + 1e-4) * (2 * cov + 9e-4)
                              / ((mean_a ** 2 + mean_b ** 2 + 1e-4) * (var_a + var_b + 9e-4)))
        expected.append(np.mean(scores))
    np.testing.assert_allclose(metrics.ssim_per_frame(frames, predictions), expected, atol=2e-5)


def test_ssim_of_many_frames_is_that_of_each():
    frames, predictions = _noisy(count=130, size=(16, 16))
    alone = [metrics.ssim_per_frame(frames[t:t + 1], predictions[t:t + 1])[0] for t in (0, 127, 128, 129)]
    np.testing.assert_allclose(metrics.ssim_per_frame(frames, predictions)[[0, 127, 128, 129]], alone, rtol=1e-6)


def test_lab_psnr_by_hand():
    # 10.4 and 12.6 of 255 are rounded to 10 and 13: an error of 3 everywhere, 20 log10(255 / 3) = 38.588 dB.
    score = metrics.lab_psnr_per_frame(np.full((1, 2, 2, 3), 10.4 / 255), np.full((1, 2, 2, 3), 12.6 / 255))
    assert score[0] == pytest.approx(38.588, abs=1e-3)
    # A value above 1 is clipped: 255 against 250, 20 log10(255 / 5) = 34.151 dB.
    assert metrics.lab_psnr_per_frame(np.full((1, 2, 2, 3), 250 / 255), np.full((1, 2, 2, 3), 1.4))[0] \
        == pytest.approx(34.151, abs=1e-3)


def test_gradient_energy_by_hand():
    stripes = np.zeros((1, 4, 4, 3))
    stripes[:, :, 1::2] = 0.5  # differences of 0.5 across, none down
    assert metrics.gradient_energy(stripes)[0] == pytest.approx(0.25)
    assert metrics.gradient_energy(np.full((2, 4, 4, 3), 0.7)).tolist() == [0, 0]


def test_a_blurred_film_has_less_gradient_energy():
    frames, _ = _noisy()
    blurred = (frames + np.roll(frames, 1, 1) + np.roll(frames, 1, 2)) / 3
    assert np.all(metrics.gradient_energy(blurred) < 0.6 * metrics.gradient_energy(frames))


def test_colour_drift_has_a_sign_and_a_channel():
    frames = np.full((1, 4, 4, 3), 0.5)
    np.testing.assert_allclose(metrics.colour_drift(frames, frames + [0.1, 0, -0.2]), [[0.1, 0, -0.2]], atol=1e-12)


@pytest.mark.parametrize("paper", [1.0, 0.0])
def test_person_region_is_the_limbs_and_a_margin(paper):
    poses = np.full((2, 32, 64, 3), paper)
    poses[0, 10:20, 30] = (0.9, 0.1, 0.5)  # an upright limb; the second frame has none
    region = metrics.person_region(poses)
    expected = np.zeros((32, 64), bool)
    expected[7:23, 27:34] = True  # 3 pixels around, 9 % of 32
    np.testing.assert_array_equal(region[0], expected)
    assert not region[1].any()
