"""The lab's test protocol as a user starts it."""

import csv
import shutil

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image, ImageSequence

from cvae_tf import cli
from cvae_tf.data import images
from cvae_tf.data.film import to_uint8
from cvae_tf.errors import InputError
from cvae_tf.evaluation.evaluate import evaluate
from cvae_tf.inference.exported_model import ExportedModel
from cvae_tf.lab.submission import predict_split
from cvae_tf.studio import scene as studio

MODEL = ROOT / "saved_models" / "studio"


@pytest.fixture(scope="module")
def model():
    return ExportedModel(MODEL)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Three test sequences, in folders 2, 10 and 0, of 7 poses and one given frame each; numbered on, as the lab's."""
    root = tmp_path_factory.mktemp("lab") / "LAB"
    for order, name in enumerate(("0", "2", "10")):
        frames, poses = studio.sequence(20 + order, 64, 128, length=7)
        for kind, pictures in (("img", frames[:1]), ("label", poses)):
            folder = root / "test" / f"test_{kind}" / name
            folder.mkdir(parents=True)
            for t, image in enumerate(pictures):
                Image.fromarray(image).save(folder / f"{630 * (order + 1) + t}.png")
    return root


def _sequence(tree, name):
    frame, poses = (images.list_images(tree / "test" / f"test_{kind}" / name) for kind in ("img", "label"))
    return (images.to_float(images.read_images(paths, 64, 128)) for paths in (frame, poses))


def test_every_test_sequence_becomes_a_film_and_its_rows_of_the_submission(tree, tmp_path, model, end_of):
    ended = end_of("predict", "--model", MODEL, "--data_dir", tree, "--split", "test", "--out", "films", "--csv",
                   "submission.csv", "--seed", "3", "--scale", "1")
    assert ended.code == 0, ended.err
    assert "submission.csv: 21 rows of 24576 values" in ended.out
    assert sorted(path.name for path in (tmp_path / "films").iterdir()) == [
        "pred_seq0.gif", "pred_seq10.gif", "pred_seq2.gif"]
    with Image.open(tmp_path / "films" / "pred_seq2.gif") as film:
        assert film.n_frames == 7 and film.size == (128, 64)
        shown = np.stack([np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(film)])
    with open(tmp_path / "submission.csv", newline="") as stream:
        header, *rows = csv.reader(stream)
    assert header == ["id", *map(str, range(24576))]
    values = np.array(rows, int)
    np.testing.assert_array_equal(values[:, 0], np.arange(21))
    assert values[:, 1:].min() >= 0 and values[:, 1:].max() <= 255
    for order, name in enumerate(("0", "2", "10")):  # numerically, not "0", "10", "2"
        (first,), poses = _sequence(tree, name)
        film = np.concatenate([first[None], model.generate(first, poses[1:], seed=3)])
        pixels = values[7 * order:7 * order + 7, 1:].reshape(7, 3, 64, 128).transpose(0, 2, 3, 1)
        np.testing.assert_array_equal(pixels[0], to_uint8(first))  # the given frame is row 0
        assert np.abs(pixels - np.rint(255 * np.clip(film, 0, 1))).max() <= 1
        if name == "2":
            assert np.abs(pixels - shown.astype(int)).mean() < 6  # the GIF shows the same, in its palette


@pytest.mark.slow
def test_a_submission_scores_as_the_evaluation_says(tree, tmp_path, model, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tree, "LAB")
    truth = []
    for order, name in enumerate(("0", "2", "10")):
        frames, _ = studio.sequence(20 + order, 64, 128, length=7)
        truth.append(frames)
        for t, image in enumerate(frames):
            Image.fromarray(image).save(f"LAB/test/test_img/{name}/{630 * (order + 1) + t}.png")
    predict_split(model, "LAB", out="films", csv="mine.csv")
    with open("mine.csv", newline="") as stream:
        values = np.array(list(csv.reader(stream))[1:], float)[:, 1:].reshape(3, 7, 3, 64, 128)
    error = values - np.stack(truth).transpose(0, 1, 4, 2, 3)
    mse = np.mean(error[:, 1:] ** 2, axis=(2, 3, 4))  # without the given frame
    expected = (20 * np.log10(255) - 10 * np.log10(mse)).mean(axis=1)
    report = evaluate(model, "LAB", "test", samples=1, pose_detector=False)
    np.testing.assert_allclose(report["lab_score"]["prior"]["per_sequence"], expected, atol=0.02)


@pytest.mark.parametrize("options, message", [
    (dict(csv="nowhere/x.csv"), "nowhere/x.csv: there is no folder .*nowhere"),
    (dict(csv=""), "contains .*; choose another --csv"),
    (dict(split="val"), "val: no such folder"),
    (dict(temperature=-1), "--temperature must be from 0 to 100, received -1"),
    (dict(fps=0), "--fps must be from 1 to 50"),
])
def test_bad_input_is_refused(options, message, tree, tmp_path, model, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        predict_split(model, tree, **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("flag", ["poses", "first_frame", "truth", "output"])
def test_flags_of_one_film_are_refused_with_a_data_set(flag):
    with pytest.raises(InputError, match=f"--{flag} cannot be given with --data_dir"):
        cli.parse(["predict", "--data_dir", "LAB", f"--{flag}", "x"])
    with pytest.raises(InputError, match="--samples cannot be given with --data_dir"):
        cli.parse(["predict", "--data_dir", "LAB", "--samples", "2"])


def test_a_test_folder_without_poses_is_refused_before_anything_is_generated(tree, tmp_path, model, monkeypatch):
    shutil.copytree(tree, tmp_path / "LAB")
    monkeypatch.chdir(tmp_path)
    shutil.rmtree("LAB/test/test_label/10")
    with pytest.raises(InputError, match="test_label/10: no such folder, for the sequence in .*test_img/10"):
        predict_split(model, "LAB")
    (tmp_path / "LAB/test/test_label/10").mkdir()
    with pytest.raises(InputError, match="test_label/10: no PNG images"):
        predict_split(model, "LAB")
    shutil.copy("LAB/test/test_label/0/630.png", "LAB/test/test_label/10/1890.png")
    with pytest.raises(InputError, match="only one pose, the given frame's own"):
        predict_split(model, "LAB")
    assert [path.name for path in tmp_path.iterdir()] == ["LAB"]


@pytest.mark.parametrize("flag", ["split", "out", "csv"])
def test_flags_of_the_test_sequences_need_a_data_set(flag):
    with pytest.raises(InputError, match=f"--{flag} cannot be given without --data_dir"):
        cli.parse(["predict", f"--{flag}", "test"])


def test_a_gap_among_the_poses_is_refused(tree, tmp_path, model):
    shutil.copytree(tree, tmp_path / "LAB")
    (tmp_path / "LAB/test/test_label/0/633.png").unlink()
    with pytest.raises(InputError, match="test_label/0: the numbers have a gap after 632.png"):
        predict_split(model, tmp_path / "LAB")


def test_the_file_may_lie_among_the_films(tree, tmp_path, model):
    predict_split(model, tree, out=tmp_path / "films", csv=tmp_path / "films" / "x.csv")
    assert len((tmp_path / "films" / "x.csv").read_text().splitlines()) == 22
