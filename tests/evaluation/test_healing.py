import json

import numpy as np
import pytest
from conftest import ROOT

from cvae_tf.data.images import to_float
from cvae_tf.data.sequences import Sequence
from cvae_tf.errors import InputError
from cvae_tf.evaluation import healing, report
from cvae_tf.evaluation.evaluate import evaluate_sequence
from cvae_tf.evaluation.summary import report_of
from cvae_tf.inference.exported_model import ExportedModel
from cvae_tf.studio import scene as studio

SIZE = (8, 16)


class Mixing:
    """A model whose undisturbed film is a uniform 0.5: a frame is ``share`` of the previous one, and the rest is 0.5.

    A disturbance of d is thus ``d * share**(n + 1)`` in frame n.
    """

    def __init__(self, share):
        self.share, self.given = share, []

    def generate(self, first_frame, poses, seed, temperature=1.0):
        return np.full(poses.shape, 0.5, np.float32)

    def reconstruct(self, frames, poses):
        return frames[1:], np.zeros(len(frames) - 1), np.zeros((len(frames) - 1, 1, 1, 2))

    def continue_film(self, context_frame, before, poses, seed, temperature, start):
        self.given.append((start, seed, temperature, len(poses), before))
        factors = self.share ** np.arange(1.0, len(poses) + 1)
        return 0.5 + factors[:, None, None, None] * (before - 0.5)


def _measure(model, count=24, error=0.1):
    """Measure on a film of uniform 0.5, with a truth of 0.5 - ``error``."""
    film = np.full((count, *SIZE, 3), 0.5)
    return healing.measure_healing(model, film[0], film - error, film, film, 5, 0.7)


def test_loss_and_frames_by_hand():
    # White is off by 0.5. With a share of a half, frame n has the error 0.1 + 0.5 / 2**(n + 1) and loses
    # 20 log10(1 + 5 / 2**(n + 1)) dB: 0.3355 at n = 6, 0.1680 at n = 7.
    lost = 20 * np.log10(1 + 5 / 2.0 ** np.arange(1, 25))
    result = _measure(Mixing(0.5))
    white = result["disturbances"]["white"]
    assert white == {"lost": pytest.approx(lost[10:].mean()), "frames": 7} and lost[6] > 0.3 > lost[7]
    assert result["disturbances"]["inverted"]["frames"] == 0  # 0.5, as the frame itself
    assert result["starts"] == [0] and result["measured"] == 24
    assert healing.merge([result])["heals"] and healing.merge([result])["frames"] == 7


def test_a_film_that_repeats_the_previous_frame_does_not_heal():
    result = healing.merge([_measure(Mixing(0.5)), None, _measure(Mixing(1.0))])  # the worse of two sequences counts
    assert not result["heals"] and result["frames"] is None
    # White stays off by 0.6 instead of 0.1.
    assert result["lost"] == result["disturbances"]["white"]["lost"] == pytest.approx(20 * np.log10(6))
    assert "does not heal" in healing.verdict(result) and "white" in healing.verdict(result)


def test_the_worst_start_counts():
    class Late(Mixing):
        def continue_film(self, context_frame, before, poses, seed, temperature, start):
            self.share = 1.0 if start == 448 else 0.0
            return super().continue_film(context_frame, before, poses, seed, temperature, start)

    model = Late(0.0)
    result = _measure(model, 629)
    assert result["disturbances"]["white"]["lost"] == pytest.approx(20 * np.log10(6))
    assert [one[:4] for one in model.given[::6]] == [(0, 5, 0.7, 24), (192, 5, 0.7, 24), (448, 5, 0.7, 24)]
    assert all(0 <= one[4].min() and one[4].max() <= 1 for one in model.given)


@pytest.mark.parametrize("count, expected", [(10, []), (11, [0]), (74, [0]), (75, [0, 64]), (100, [0, 64]),
                                             (629, [0, 192, 448])])
def test_starts_are_multiples_of_64_that_leave_eleven_frames(count, expected):
    assert healing.starts(count) == expected


def test_disturbances_are_what_they_are_called():
    film = np.random.default_rng(0).random((80, *SIZE, 3)).astype(np.float32)
    film[63, 0, 0] = [0.1, np.nan, 0.3]
    pictures = healing.disturb(film[0], film, 64)
    np.testing.assert_allclose(pictures["other_person"][0, -1], [0.3, 0, 0.1])
    np.testing.assert_allclose(pictures["inverted"][1], 1 - film[63, 1])
    np.testing.assert_array_equal(pictures["other_time"], film[24])
    assert pictures["noise"].std() > 0.2 and not pictures["black"].any() and pictures["white"].min() == 1
    np.testing.assert_array_equal(healing.disturb(film[5], film, 0)["other_person"], film[5, :, ::-1, ::-1])
    assert all(np.isfinite(picture).all() for picture in pictures.values())


@pytest.mark.parametrize("share, word", [(0.0, "heals"), (1.0, "does not heal")])
def test_the_report_tells(share, word, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (2, 31, *SIZE, 3), np.uint8)
    steps, model = [], Mixing(share)
    result = evaluate_sequence(model, Sequence("one", *noise), 2, 3, 0.5, lambda: steps.append(1))
    assert len(steps) == 5 and {one[1:3] for one in model.given} == {(3, 0.5)}
    made = report_of([result], {"model": "m", "data_dir": "d", "split": "val", "samples": 2, "seed": 3,
                                "temperature": 0.5, "frame": list(SIZE), "versions": {}})
    assert json.loads(json.dumps(made))["healing"]["heals"] is (share == 0)
    assert word in report.as_text(made)
    report.write(tmp_path / "out", made, [result])
    page = (tmp_path / "out" / "report.html").read_text()
    assert word in page and "carries nothing" in page and ("not in 24" in page) == (share == 1)
    assert not [line for line in page.splitlines() if 'class="note"' in line and "carries nothing" in line]


def test_a_model_that_cannot_continue_a_film_or_a_short_film_has_no_verdict():
    assert _measure(Mixing(0.5), 10) is None and healing.merge([None]) is None


@pytest.mark.slow
def test_an_exported_model_continues_its_own_film_and_heals():
    model = ExportedModel(ROOT / "saved_models" / "studio")
    frames, poses = (to_float(x) for x in studio.sequence(1, model.height, model.width, length=76))
    film = model.generate(frames[0], poses[1:], 3, 0.5)
    for start, before in ((0, frames[0]), (64, film[63])):
        np.testing.assert_allclose(model.continue_film(frames[0], before, poses[1:][start:], 3, 0.5, start),
                                   film[start:], atol=1e-5)
    result = healing.measure_healing(model, frames[0], frames[1:], poses[1:], film, 3, 0.5)
    assert result["starts"] == [0, 64] and healing.merge([result])["heals"]
    with pytest.raises(InputError, match="multiple of 64"):
        model.continue_film(frames[0], film[4], poses[5:], start=5)
    with pytest.raises(InputError, match="before must be"):
        model.continue_film(frames[0], 2 * np.ones_like(frames[0]), poses)
