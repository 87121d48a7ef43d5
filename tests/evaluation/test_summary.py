import json

import numpy as np
import pytest

from cvae_tf.evaluation import report
from cvae_tf.evaluation.evaluate import SequenceResult
from cvae_tf.evaluation.summary import report_of, summarise


def _series(psnr, lab=None):
    """What `evaluate.measure` gives, with chosen PSNRs in dB."""
    count, psnr = len(psnr), np.asarray(psnr, float)
    return {"mse": 10 ** (-psnr / 10), "psnr": psnr, "ssim": psnr / 100, "psnr_person": np.full(count, np.nan),
            "psnr_outside": psnr, "psnr_lab": psnr if lab is None else np.asarray(lab, float),
            "gradient_energy": np.full(count, 3.0), "gradient_energy_truth": np.full(count, 4.0),
            "colour_drift": np.tile([0.1, -0.2, 0.0], (count, 1)), "colour_distance": np.full(count, 0.1)}


def _evaluated(name, psnr, kl=0.0, **options):
    given = dict(diversity=None, active=0, latents=4, broken=0, note="", panels={}) | options
    return SequenceResult(name=name, series={"prior": _series(psnr, given.pop("lab", None))},
                     kl=np.broadcast_to(np.asarray(kl, float), len(psnr)), **given)


def test_summary_by_hand():
    summary = summarise(_series([20.0] * 50 + [30.0] * 50 + [10.0] * 29), "1-129")
    assert summary["psnr"] == pytest.approx((50 * 20 + 50 * 30 + 29 * 10) / 129)
    assert summary["psnr_of_mean_error"] == pytest.approx(-10 * np.log10((50 * 0.01 + 50 * 0.001 + 29 * 0.1) / 129))
    assert {name: value["psnr"] for name, value in summary["horizons"].items()} == pytest.approx(
        {"1-50": 20, "1-100": 25, "1-129": summary["psnr"]})
    assert summary["horizons"]["1-50"]["ssim"] == pytest.approx(0.2)
    assert summary["sharpness"] == 0.75 and summary["psnr_person"] is None
    assert summary["colour_drift"] == pytest.approx(0.1)
    assert summary["psnr_by_tenths"][:4] == [20] * 3 + [pytest.approx((11 * 20 + 2 * 30) / 13)]  # 13 frames each


def test_horizons_of_the_labs_clip():
    names = list(summarise(_series(np.full(629, 20.0)), "1-629")["horizons"])
    assert names == [f"1-{h}" for h in (*range(50, 601, 50), 629)]


def test_the_labs_score_is_over_frames_1_to_600_public_three_and_private_the_rest():
    evaluated = []
    for value in (20, 26, 29, 31, 33):
        lab = np.full(629, float(value))
        lab[600:] = 99  # frames 601 to 629 do not count
        evaluated.append(_evaluated(f"s{value}", np.full(629, 1.0), lab=lab))
    score = report_of(evaluated, {"split": "LAB/test"})["lab_score"]["prior"]
    assert score == {"per_sequence": [20, 26, 29, 31, 33], "public": 25, "private": 32}


def test_sequences_count_by_their_frames():
    made = report_of([_evaluated("a", np.full(30, 20.0)), _evaluated("b", np.full(120, 30.0), kl=0.004)], {})
    assert made["mean"]["prior"]["psnr"] == pytest.approx((30 * 20 + 120 * 30) / 150)
    assert made["kl_nats_per_frame"] == pytest.approx(0.004 * 120 / 150)
    assert list(made["mean"]["prior"]["horizons"]) == ["all"]  # what both reach
    assert "carries nothing" in made["latent"] and made["notes"] == []


def test_only_test_sequences_of_real_footage_have_the_labs_score():
    evaluated = [_evaluated("a", np.full(30, 20.0)), _evaluated("b", np.full(120, 30.0))]
    for settings in ({"split": "val"}, {"split": "test", "data_dir": "studio"}):
        made = report_of(evaluated, settings)
        assert made["lab_score"] is None and "public" not in report.as_text(made)
    made = report_of(evaluated, {"split": "test", "data_dir": "LAB"})
    assert made["lab_score"]["prior"] == {"per_sequence": [20, 30], "public": None, "private": None}
    assert "public" in report.as_text(made)


def test_the_verdict_compares_with_the_repeated_first_frame():
    for copied, said in ((18.5, "150 frames in 2 films at 28.00 dB PSNR, 9.50 dB above"), (30.0, "2.00 dB below")):
        evaluated = [_evaluated("a", np.full(30, 20.0)), _evaluated("b", np.full(120, 30.0))]
        for one in evaluated:
            one.series["copy_first"] = _series(np.full(len(one.kl), copied))
        made = report_of(evaluated, {})
        assert said in made["verdict"] and made["verdict"] in report.as_text(made)


def test_sequences_of_one_name_are_told_apart():
    made = report_of([_evaluated("0", np.full(60, 20.0)), _evaluated("0", np.full(60, 30.0))], {})
    assert [one["rows"]["prior"]["psnr"] for one in made["sequences"]] == [20, 30]
    assert made["mean"]["prior"]["psnr"] == 25


def test_a_report_of_odd_sequences_can_be_printed_and_stored():
    rows = {"copy_first": _series(np.full(3, 100.0))}
    short = _evaluated("a|b$_$", np.full(3, 20.0), kl=[np.inf, 1.0, 2.0], note="squeezed")
    short.series.update(rows)
    made = report_of([short], {})
    assert made["kl_nats_per_frame"] == 1.5 and made["notes"][0] == "squeezed"
    assert any("KL of 1 frames is not finite" in note for note in made["notes"])
    assert "squeezed" in report.as_text(made) and "a/b$_$" in report.as_text(made)
    json.dumps(made, allow_nan=False)
