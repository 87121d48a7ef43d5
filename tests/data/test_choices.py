"""Which colour a film shows, against the studio's own draw and hand-counted shares."""

import sys
from unittest import mock

import numpy as np
import pytest
from conftest import ROOT

from cvae_tf.data.images import to_float
from cvae_tf.studio import scene as studio

sys.path.insert(0, str(ROOT / "benchmarks"))
import choices  # noqa: E402


def test_the_colour_found_in_the_truth_is_the_one_that_the_studio_drew():
    drawn = []

    def draw(*args, original=studio._lamp_colours):
        drawn.append(original(*args))
        return drawn[-1]

    with mock.patch.object(studio, "_lamp_colours", draw):
        frames, _ = studio.sequence(3, 32, 64, lamp=True, length=200)
    painted = choices.in_each_colour(3, 32, 64, length=200)
    found, drawn = choices.chosen(to_float(frames), painted), drawn[0]
    clear = found >= 0
    assert len(set(found[clear])) == 3 and np.count_nonzero(clear) > 60
    np.testing.assert_array_equal(found[clear], drawn[clear])
    assert np.count_nonzero(drawn >= 0) - np.count_nonzero(clear) < 20  # those of few coloured pixels


def test_a_film_is_between_where_the_mean_of_the_colours_is_nearest_and_pixels_that_do_not_differ_do_not_count():
    painted = np.zeros((3, 4, 4, 40, 3))
    for colour in range(3):
        painted[colour, :3, :3, :4, colour] = 0.9  # 12 pixels differ; in the last frame none does
    painted[1, :, 3] = 0.09  # and 40 too little: were they to count, the film's row of white would be nearest to green
    film = np.stack([painted[2, 0], painted.mean(0)[1], painted[0, 2] * 0.9, painted[1, 3]])
    film[:, 3] = 1.0
    np.testing.assert_array_equal(choices.chosen(film, painted), [2, choices.BETWEEN, 0, -1])


def test_shares_are_those_counted_by_hand():
    truth = np.array([-1, 0, 0, 0, -1, 2, 2])
    films = [np.array([-1, 0, 0, 1, -1, 2, 2]), np.array([-1, 1, 3, 1, -1, 3, 2])]
    red, green, blue, between, stays, throughout, alike, right = choices.shares(films, truth)
    assert (red, green, blue, between) == (20, 30, 30, 20)
    assert stays == 100 * 3 / 4  # of 0-0, 0-1 and 2-2, and of 1-1, which a frame between interrupts
    assert throughout == pytest.approx(100 * 2 / 3)  # one lone frame is no pair
    assert alike == 100 * 2 / 5 and right == 100 * 5 / 10
    assert np.isnan(choices.shares(films[:1], truth)[6])
