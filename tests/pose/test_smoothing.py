import dataclasses

import numpy as np
import pytest
from scipy.signal import savgol_filter

from cvae_tf.pose.keypoints import KeyPoints
from cvae_tf.pose.smoothing import fill_gaps, smooth

NAN = np.nan


def _key_points(points, fps=25):
    confidence = np.where(np.isnan(points[..., 0]), 0, 0.9).astype(np.float32)
    return KeyPoints(np.float32(points), confidence, (640, 480), fps)


def _walk(frames, seed=0):
    return np.random.default_rng(seed).normal(0, 3, (frames, 33, 2)).cumsum(axis=0) + 200


def _one(values, confidence=None):
    """Key points all of whose points have x from ``values`` (T,) and y = 2 x."""
    points = np.repeat(np.stack([np.float32(values), 2 * np.float32(values)], -1)[:, None], 33, 1)
    there = _key_points(points)
    return there if confidence is None else dataclasses.replace(
        there, confidence=np.repeat(np.float32(confidence)[:, None], 33, 1))


@pytest.mark.parametrize("max_gap, expected, confidence", [
    (0, [NAN, 1, NAN, 3, NAN, NAN, NAN, 7, 8, NAN], [0, 0.8, 0, 0.6, 0, 0, 0, 0.9, 1, 0]),
    (1, [NAN, 1, 2, 3, NAN, NAN, NAN, 7, 8, NAN], [0, 0.8, 0.6, 0.6, 0, 0, 0, 0.9, 1, 0]),
    (2, [NAN, 1, 2, 3, NAN, NAN, NAN, 7, 8, NAN], [0, 0.8, 0.6, 0.6, 0, 0, 0, 0.9, 1, 0]),
    (3, [NAN, 1, 2, 3, 4, 5, 6, 7, 8, NAN], [0, 0.8, 0.6, 0.6, 0.6, 0.6, 0.6, 0.9, 1, 0]),
    (99, [NAN, 1, 2, 3, 4, 5, 6, 7, 8, NAN], [0, 0.8, 0.6, 0.6, 0.6, 0.6, 0.6, 0.9, 1, 0]),
])
def test_short_gaps_are_filled(max_gap, expected, confidence):
    result = fill_gaps(_one([NAN, 1, NAN, 3, NAN, NAN, NAN, 7, 8, NAN], [0, 0.8, 0, 0.6, 0, 0, 0, 0.9, 1, 0]), max_gap)
    np.testing.assert_allclose(result.points, _one(expected).points, rtol=1e-6)
    np.testing.assert_allclose(result.confidence, np.repeat(np.float32(confidence)[:, None], 33, 1))


def test_each_point_has_its_own_gaps():
    points = _walk(60)
    whole = points.copy()
    random = np.random.default_rng(1)
    points[random.random((60, 33)) < 0.4] = NAN
    before = points.copy()
    result = fill_gaps(_key_points(points), 60)
    frames = np.arange(60)
    for k in range(33):
        there = np.flatnonzero(~np.isnan(before[:, k, 0]))
        expected = [np.interp(frames, there, whole[there, k, axis], left=NAN, right=NAN) for axis in (0, 1)]
        np.testing.assert_allclose(result.points[:, k], np.stack(expected, 1), rtol=1e-5)
    assert (np.isnan(result.points[..., 0]) == (result.confidence == 0)).all()
    assert result.points.dtype == result.confidence.dtype == np.float32


@pytest.mark.parametrize("function", [lambda kp: fill_gaps(kp, 3), smooth], ids=["fill_gaps", "smooth"])
def test_the_input_stays_and_no_point_or_no_frame_is_no_error(function):
    key_points = _key_points(_walk(20))
    key_points.points[3:5, 2] = NAN
    before = key_points.points.copy()
    function(key_points)
    np.testing.assert_array_equal(key_points.points, before)
    assert len(function(key_points[:0])) == 0
    nobody = _key_points(np.full((5, 33, 2), NAN))
    np.testing.assert_array_equal(function(nobody).points, nobody.points)


@pytest.mark.parametrize("fps, seconds, window", [(25, 0.25, 7), (30, 0.3, 9), (20, 0.3, 7), (5, 0.8, 5)])
def test_smoothed_as_scipy_does_up_to_the_ends(fps, seconds, window):
    points = _walk(50)
    result = smooth(_key_points(points, fps), seconds)
    np.testing.assert_allclose(result.points, savgol_filter(points, window, 2, axis=0, mode="interp"), rtol=1e-5)
    assert result.points.dtype == np.float32


def test_runs_between_gaps_are_smoothed_on_their_own_and_short_ones_in_a_smaller_window():
    points = _walk(40)
    gaps = {0: [], 1: [9, 20, 28, 33], 2: [0, 39], 3: [9, 20, 28, 33], 4: range(40), 5: range(1, 40, 2)}
    expected = points.copy()
    for k in range(6):
        points[list(gaps[k]), k] = expected[list(gaps[k]), k] = NAN
        edges = [-1, *gaps[k], 40]
        for start, end in zip(edges[:-1], edges[1:], strict=True):
            run = slice(start + 1, end)
            length = end - start - 1
            window = min(9, length if length % 2 else length - 1)
            if window > 2:
                expected[run, k] = savgol_filter(points[run, k], window, 2, axis=0, mode="interp")
    result = smooth(_key_points(points, 30), 0.3)
    np.testing.assert_allclose(result.points[:, :6], expected[:, :6], rtol=1e-5)


def test_a_still_joint_trembles_half_as_much_and_a_parabola_stays():
    t = np.arange(500.0)
    noise = np.random.default_rng(0).normal(0, 2, (500, 33, 2))
    assert smooth(_key_points(100 + noise)).points[..., 0].std() < 0.52 * noise[..., 0].std()
    parabola = _one(3 + 0.4 * t - 0.01 * t**2)
    np.testing.assert_allclose(smooth(parabola).points, parabola.points, atol=5e-3)


def test_movements_do_not_lag():
    t = np.arange(250) / 25
    result = smooth(_one(200 + 50 * np.sin(2 * np.pi * 1.5 * t))).points[25:-25, 0, 0] - 200
    waves = np.exp(2j * np.pi * 1.5 * t[25:-25])
    phase, before = (np.angle(np.sum(values * waves)) for values in (result, np.sin(2 * np.pi * 1.5 * t[25:-25])))
    assert phase == pytest.approx(before, abs=1e-3)
    assert 0.97 * 50 < result.max() < 50


def test_a_window_of_one_frame_changes_nothing():
    key_points = _key_points(_walk(20))
    np.testing.assert_allclose(smooth(key_points, 0.01).points, key_points.points, rtol=1e-6)
