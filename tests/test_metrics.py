import numpy as np
import pytest

from cvae_tf.metrics import HIGHEST_PSNR, psnr_per_frame


def test_psnr_by_hand():
    frames = np.zeros((3, 4, 8, 3))
    predictions = frames + np.array([0.1, 0.01, 0.5])[:, None, None, None]
    np.testing.assert_allclose(psnr_per_frame(frames, predictions), [20, 40, -10 * np.log10(0.25)])


def test_psnr_mean_is_of_decibels_not_of_errors():
    frames = np.zeros((2, 2, 2, 3))
    predictions = frames + np.array([0.1, 0.001])[:, None, None, None]
    assert psnr_per_frame(frames, predictions).mean() == pytest.approx(40)


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
