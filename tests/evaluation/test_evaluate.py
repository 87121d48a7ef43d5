"""An evaluation must be right and must not leak."""

import csv
import itertools
import json
import re
import shutil
import subprocess
import weakref

import numpy as np
import pytest

from cvae_tf.config import Config
from cvae_tf.data.images import to_float
from cvae_tf.data.sequences import Sequence
from cvae_tf.errors import InputError
from cvae_tf.evaluation import evaluate as evaluation
from cvae_tf.evaluation import metrics, report
from cvae_tf.evaluation.evaluate import evaluate, evaluate_sequence
from cvae_tf.evaluation.summary import report_of
from cvae_tf.studio import scene as studio

SIZE = (16, 32)


class Model:
    """Stands for an `ExportedModel` whose posterior sees everything, and whose films depend on all that they may.

    Args:
        films: the films to generate instead, by seed.
        rebuilt: the reconstruction; None: the target frames themselves.
    """

    height, width = SIZE

    def __init__(self, films=None, rebuilt=None, path="saved_models/stand_in"):
        self.films, self.rebuilt, self.path, self.seeds, self.given = films, rebuilt, path, [], []

    def generate(self, first_frame, poses, seed, temperature=1.0):
        self.seeds.append((seed, temperature))
        self.given.append((first_frame, poses))
        if self.films is not None:
            return self.films[seed % len(self.films)].copy()
        noise = np.random.default_rng(seed).random(poses.shape, np.float32)
        return 0.5 * first_frame + 0.1 * poses + 0.4 * np.float32(temperature) * noise

    def reconstruct(self, frames, poses):
        rebuilt = frames[1:] if self.rebuilt is None else self.rebuilt
        return rebuilt, np.full(len(frames) - 1, 2.5), np.zeros((len(frames) - 1, 2, 4, 2))


@pytest.fixture(scope="module")
def sequence():
    return Sequence("one", *studio.sequence(1, *SIZE, length=30))


@pytest.fixture(scope="module")
def evaluated(sequence):
    return evaluate_sequence(Model(), sequence, samples=3, seed=7)


def _films(sequence, seeds=(7, 8, 9)):
    """The films that `evaluated` is about."""
    return [Model().generate(to_float(sequence.frames[0]), to_float(sequence.poses[1:]), seed) for seed in seeds]


# ---------------------------------------------------------------------- it cannot leak

def test_prior_numbers_change_with_later_true_frames_through_the_comparison_alone(sequence, evaluated):
    frames = sequence.frames.copy()
    frames[1:] = np.random.default_rng(0).integers(0, 256, frames[1:].shape)
    perturbed = evaluate_sequence(Model(), Sequence("one", frames, sequence.poses), samples=3, seed=7)
    for row in ("prior", "prior_mode"):
        ours, theirs = (result.series[row]["gradient_energy"] for result in (perturbed, evaluated))
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(perturbed.panels["sample 1"], evaluated.panels["sample 1"])
    assert perturbed.diversity == evaluated.diversity > 0
    for result, truth in ((evaluated, sequence.frames), (perturbed, frames)):
        expected = np.mean([metrics.psnr_per_frame(to_float(truth[1:]), film) for film in _films(sequence)], axis=0)
        np.testing.assert_allclose(result.series["prior"]["psnr"], expected, atol=1e-6)
    # The posterior did see them.
    assert np.abs(perturbed.series["posterior"]["gradient_energy"] - evaluated.series["posterior"]["gradient_energy"]
                  ).max() > 1e-6


def test_a_model_is_given_the_first_frame_the_later_poses_and_a_seed(sequence):
    model = Model([np.zeros((29, *SIZE, 3), np.float32)])
    evaluate_sequence(model, sequence, samples=3, seed=4, temperature=0.5)
    assert model.seeds == [(4, 0.5), (5, 0.5), (6, 0.5), (4, 0.0)]
    for first_frame, poses in model.given:
        np.testing.assert_array_equal(first_frame, to_float(sequence.frames[0]))
        np.testing.assert_array_equal(poses, to_float(sequence.poses[1:]))


def test_a_posterior_that_returns_the_target_lifts_no_prior_number(sequence, evaluated):
    truth = to_float(sequence.frames[1:])
    honest = np.mean([metrics.psnr_per_frame(truth, film) for film in _films(sequence)], axis=0)
    assert evaluated.series["posterior"]["psnr"].min() == metrics.HIGHEST_PSNR and honest.max() < 30
    made = report_of([evaluated], {})
    assert made["mean"]["posterior"]["psnr"] == metrics.HIGHEST_PSNR
    assert made["mean"]["prior"]["psnr"] == pytest.approx(honest.mean())
    assert made["uses_truth"]["posterior"] and not made["uses_truth"]["prior"]


# ---------------------------------------------------------------------- it is right

def test_best_and_worst_are_the_samples_with_the_highest_and_lowest_mean(evaluated, sequence):
    curves = [metrics.psnr_per_frame(to_float(sequence.frames[1:]), film) for film in _films(sequence)]
    curves.sort(key=np.mean)
    assert curves[0].mean() < curves[-1].mean()
    np.testing.assert_allclose(evaluated.series["prior_best"]["psnr"], curves[-1], atol=1e-6)
    np.testing.assert_allclose(evaluated.series["prior_worst"]["psnr"], curves[0], atol=1e-6)


def test_diversity_is_the_mean_over_pairs_written_out(evaluated, sequence):
    pairs = [np.mean((a.astype(np.float64) - b) ** 2) for a, b in itertools.combinations(_films(sequence), 2)]
    assert evaluated.diversity == pytest.approx(np.sqrt(np.mean(pairs)), rel=1e-6)


def test_equal_samples_have_no_diversity_and_one_sample_has_none(sequence):
    films = np.random.default_rng(0).random((1, 29, *SIZE, 3)).astype(np.float32)
    assert evaluate_sequence(Model(films), sequence, samples=4).diversity == 0.0
    one = evaluate_sequence(Model(films), sequence, samples=1)
    assert one.diversity is None and "prior_best" not in one.series


def test_baselines_are_what_they_are_called(evaluated, sequence):
    truth = to_float(sequence.frames)
    for row, film in (("copy_first", np.repeat(truth[:1], 29, 0)), ("copy_previous_truth", truth[:-1]),
                      ("median_background", np.repeat(np.median(truth, 0, keepdims=True), 29, 0))):
        np.testing.assert_allclose(evaluated.series[row]["psnr"], metrics.psnr_per_frame(truth[1:], film))


def test_active_latents_are_those_whose_posterior_mean_varies(sequence):
    class Varying(Model):
        def reconstruct(self, frames, poses):
            rebuilt, kl, mean = super().reconstruct(frames, poses)
            mean[:, 0, 0, 0] = np.where(np.arange(29) % 2, 0.2, -0.2)  # variance 0.04
            mean[:, 1, 3, 1] = np.where(np.arange(29) % 2, 0.05, -0.05)  # variance 0.0025: below 0.01
            return rebuilt, kl, mean

    result = evaluate_sequence(Varying(np.zeros((1, 29, *SIZE, 3))), sequence, samples=1)
    assert (result.active, result.latents) == (1, 16)


def test_films_are_not_kept(sequence):
    alive, most = [], []

    class Watched(Model):
        def generate(self, *given):
            film = super().generate(*given)
            alive.append(weakref.ref(film))
            most.append(sum(one() is not None for one in alive))
            return film

    films = np.random.default_rng(0).random((12, 29, *SIZE, 3)).astype(np.float32)
    evaluate_sequence(Watched(films), sequence, samples=12)
    assert max(most) <= 5  # the first, the best, the worst, the one before, and the new one


def test_frames_that_are_no_numbers_are_counted_and_leave_the_other_numbers_finite(sequence):
    films = np.random.default_rng(0).random((2, 29, *SIZE, 3)).astype(np.float32)
    films[1, 3:5, 0, 0, 0] = np.nan
    result = evaluate_sequence(Model(films), sequence, samples=2)
    assert result.broken == 2 and result.diversity > 0.3
    made = report_of([result], {})
    assert any("2 generated frames" in note and "not finite" in note for note in made["notes"])
    json.dumps(made, allow_nan=False)


def test_measures_in_chunks_are_those_of_the_whole(monkeypatch):
    random = np.random.default_rng(0)
    frames, film = random.random((2, 30, *SIZE, 3))
    region = random.random((30, *SIZE)) > 0.5
    whole = evaluation.measure(frames, film, region)
    monkeypatch.setattr(evaluation, "CHUNK", 7)
    for name, values in evaluation.measure(frames, film, region).items():
        np.testing.assert_allclose(values, whole[name], rtol=1e-6, err_msg=name)
        assert len(values) == 30


def test_colour_drift_of_samples_that_drift_apart_does_not_cancel(sequence):
    truth = to_float(sequence.frames[1:])
    films = np.stack([np.clip(truth + shift, 0, 1) for shift in (-0.05, 0.05)])
    both = evaluate_sequence(Model(films), sequence, samples=2).series["prior"]
    alone = evaluate_sequence(Model(films[:1]), sequence, samples=1).series["prior"]
    assert both["colour_distance"].mean() > 0.9 * alone["colour_distance"].mean() > 0.02


def test_two_frames_can_be_evaluated(sequence):
    result = evaluate_sequence(Model(), Sequence("two", sequence.frames[:2], sequence.poses[:2]), 2)
    made = report_of([result], {})
    assert list(made["mean"]["prior"]["horizons"]) == ["1-1"] and made["sequences"][0]["active_latents"] is None
    assert made["mean"]["prior"]["psnr_by_tenths"] == [None] * 10


def test_a_live_latent_needs_no_explanation(evaluated):
    made = report_of([evaluated], {})
    assert made["kl_nats_per_frame"] > 0.01 and made["latent"] == ""


# ---------------------------------------------------------------------- evaluate()

@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("tree") / "data"
    studio.write_tree(root, 1, frame_size=SIZE, length=30)
    return root


def test_the_command_writes_a_whole_report(tree, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = evaluate(Model(), str(tree), samples=2, pose_detector=False)
    out = tmp_path / "reports" / "stand_in-data-val"
    assert json.loads((out / "report.json").read_text()) == json.loads(json.dumps(made))
    names = {path.name for path in out.iterdir()}
    assert names == {"report.json", "report.html", "per_frame.csv", "psnr.png", "ssim.png", "person.png",
                     "sharpness.png", "colour_drift.png"}
    rows = list(csv.DictReader((out / "per_frame.csv").read_text().splitlines()))
    prior = [float(row["psnr"]) for row in rows if row["row"] == "prior"]
    assert len(prior) == 29 and np.mean(prior) == pytest.approx(made["mean"]["prior"]["psnr"], abs=1e-3)
    assert all((row["kl"] != "") == (row["row"] == "posterior") for row in rows)
    text = capsys.readouterr().out
    assert f"{made['mean']['prior']['psnr']:.2f}" in text and "copy-first" in text
    # An earlier report is replaced; anything else is not.
    evaluate(Model(), str(tree), samples=1, pose_detector=False)
    assert json.loads((out / "report.json").read_text())["samples"] == 1
    assert [path.name for path in out.parent.iterdir()] == ["stand_in-data-val"]


def test_the_studio_is_the_one_that_the_model_was_trained_on(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(Config(studio_lamp=True, studio_seed=3).to_json())
    asked = {}
    monkeypatch.setattr(evaluation, "load_sequences", lambda *args, **options: asked.update(options) or [
        Sequence("short", *studio.sequence(0, *SIZE, length=2))])
    made = evaluate(Model(path=tmp_path / "model"), samples=1, out=tmp_path / "out", pose_detector=False)
    assert asked == {"studio_seed": 3, "studio_variety": False, "studio_lamp": True}
    assert asked.items() <= made.items()


@pytest.mark.parametrize("options, message", [
    (dict(samples=0), "--samples must be from 1 to"), (dict(temperature=101), "--temperature must be from 0 to 100"),
    (dict(seed=2147483647, samples=2), "--seed must be from 0 to 2147483646"),
    (dict(data_dir="nowhere"), "nowhere: no such folder"),
    (dict(split="train"), "--split must be val or test"),
    (dict(data_dir="tree", size=(32, 64)), "32x16 pixels are fewer than the model's 64x32"),
    (dict(data_dir="tree", split="test"), "1 true frames for 30 poses"),
    (dict(data_dir="empty"), "val_img: no PNG images"),
    (dict(out="mine"), "mine: is no earlier report.* thesis.txt"),
    (dict(out="."), r"--out \.: contains "),
    (dict(out="mine/thesis.txt/report"), "cannot be written, because of .*thesis.txt"),
])
def test_bad_input_is_refused_and_nothing_is_written(options, message, tree, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("mine", "empty/val/val_img", "empty/val/val_label"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    (tmp_path / "tree").symlink_to(tree)
    before, model = sorted(tmp_path.rglob("*")), Model()
    model.height, model.width = options.pop("size", SIZE)
    with pytest.raises(InputError, match=message):
        evaluate(model, **options)
    assert sorted(tmp_path.rglob("*")) == before


# ---------------------------------------------------------------------- the page

def test_the_page_shows_every_image_in_a_browser_without_a_server(evaluated, tmp_path):
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    result = report_of([evaluated], {"model": "saved_models/<lively>", "data_dir": "studio", "split": "val",
                                     "samples": 3, "seed": 7, "temperature": 1.0, "frame": list(SIZE),
                                     "versions": {"numpy": "2"}})
    report.write(tmp_path / "out", result, [evaluated])
    page = (tmp_path / "out" / "report.html").read_text()
    assert 'src="data:image/gif' in page and "<lively>" not in page
    assert not re.search(r'(src|href)="(?!data:|#)|<link|<script|url\((?!#)', page)  # nothing is fetched
    if browser is None:
        pytest.skip("no Chromium or Chrome to open the page with")
    # A copy that tells how wide each film and plot came out, alone in a folder, and without the ban on scripts.
    probe = ("<script>addEventListener('load', () => {"
             "document.querySelectorAll('details').forEach(one => one.open = true);"
             "document.body.dataset.widths = [...document.images].map(image => image.naturalWidth).concat("
             "[...document.querySelectorAll('svg')].map(svg => Math.round(svg.getBBox().width))) })</script></body>")
    policy = re.search(r"<meta http-equiv=.Content-Security-Policy.*>", page)[0]
    (tmp_path / "page.html").write_text(page.replace("</body>", probe).replace(policy, ""))
    done = subprocess.run([browser, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000",
                           f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom",
                           (tmp_path / "page.html").as_uri()], capture_output=True, text=True, timeout=120)
    widths = [int(word) for word in done.stdout.split('data-widths="')[1].split('"')[0].split(",")]
    assert list(evaluated.panels) == ["truth", "pose", "sample 1", "best sample", "worst sample", "posterior z"]
    assert widths[:2] == [3 * 32 + 2] * 2 and len(widths) == 2 + len(report.PLOTS) and min(widths[2:]) > 500
