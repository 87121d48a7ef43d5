"""Enlarged clips against straight ramps, whose enlargement is known in closed form."""

import numpy as np
import pytest

from cvae_tf.data.clips import ZOOMED, Clips
from cvae_tf.data.footage import Footage
from cvae_tf.data.zoom import zoomed

HEIGHT, WIDTH, LENGTH = 24, 40, 3


def _clip(place):
    """A horizontal ramp in red, a vertical one in green; poses with a red line of one column at ``place``."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    frame = np.stack([6 * x, 10 * y, 0 * x], -1).astype(np.uint8)
    pose = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
    pose[4:20, place] = 255, 0, 0
    return np.stack(LENGTH * [frame]), np.stack(LENGTH * [pose]), frame


@pytest.mark.parametrize("seed", range(6))
def test_an_enlargement_is_a_window_around_the_person(seed):
    frames, poses, context = zoomed(*_clip(place=30), np.random.default_rng(seed), largest=3.0)
    inner = frames[0, 4:-4, 4:-4].astype(float)
    across, down = np.diff(inner[:, :, 0], axis=1).mean() / 6, np.diff(inner[:, :, 1], axis=0).mean() / 10
    factor = 3.0 ** np.random.default_rng(seed).random()  # the first draw
    assert across == pytest.approx(1 / factor, abs=0.02) and down == pytest.approx(1 / factor, abs=0.02)
    np.testing.assert_array_equal(frames[0], context)
    np.testing.assert_array_equal(frames[0], frames[2])
    # The line is where the ramp has the value of column 30, and its ink is that of a line of one pixel.
    ink = 255 - poses[0, HEIGHT // 2, :, 1].astype(float)
    assert ink.sum() == pytest.approx(255, rel=0.05)
    column = (ink * np.arange(WIDTH)).sum() / ink.sum()
    assert np.interp(column, np.arange(WIDTH), frames[0, HEIGHT // 2, :, 0]) / 6 == pytest.approx(30, abs=0.5)


def test_no_enlargement_changes_nothing():
    clip = _clip(place=10)
    for before, after in zip(clip, zoomed(*clip, np.random.default_rng(0), largest=1.0), strict=True):
        np.testing.assert_array_equal(after, before)


def test_poses_without_a_person_are_enlarged_around_the_middle():
    frames, poses, context = _clip(place=10)
    frames, poses, _ = zoomed(frames, np.full_like(poses, 255), context, np.random.default_rng(1), largest=2.0)
    assert (poses == 255).all() and frames.shape == (LENGTH, HEIGHT, WIDTH, 3)


def test_a_quarter_of_the_clips_is_enlarged():
    frames, poses, _ = _clip(place=10)
    footage = Footage(np.repeat(frames, 4, 0), np.repeat(poses, 4, 0), ((0, 12),))
    plain, clips = (Clips(footage, 3, 5, zoom=zoom) for zoom in (1.0, 2.0))
    changed = [np.any(clips.batch(step)["frames"] != plain.batch(step)["frames"], axis=(1, 2, 3, 4))
               for step in range(80)]
    assert np.mean(changed) == pytest.approx(ZOOMED, abs=0.08)
