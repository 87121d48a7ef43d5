"""Both programs as a user starts them."""

import csv
import json

import numpy as np
import pytest
from conftest import ROOT, run_program
from PIL import Image, ImageSequence


def _ok(done):
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def trained(lab_tree, tmp_path_factory):
    """A folder in which the debug preset has trained on a data set in the lab's layout, and what it printed."""
    folder = tmp_path_factory.mktemp("user")
    return folder, _ok(run_program("train.py", "--preset", "debug", "--data_dir", lab_tree, cwd=folder))


def test_training_tells_where_everything_is(trained):
    folder, text = trained
    for line in ("PSNR on the validation clip, free running over 31 frames, z from the prior", "best model",
                 "copy-first", "runs/debug-1/samples/epoch_002.gif", "tensorboard --logdir runs/debug-1/tensorboard",
                 "saved_models/debug-1", "epoch 2/2: loss"):
        assert line in text
    with Image.open(folder / "runs/debug-1/samples/epoch_002.gif") as film:
        assert film.n_frames == 31 and film.size == (2 * (3 * 64 + 2), 64)


def test_predict_without_flags_takes_the_newest_model_and_the_studio(trained):
    folder, _ = trained
    text = _ok(run_program("predict.py", "--scale", "1", cwd=folder))
    assert "prediction.gif: 630 frames by saved_models/debug-1 (truth, pose, prediction)" in text
    with Image.open(folder / "prediction.gif") as film:
        assert film.n_frames == 630 and film.size == (3 * 64 + 2, 32)
    rows = list(csv.DictReader((folder / "prediction.csv").read_text().splitlines()))
    assert len(rows) == 629 and rows[0]["frame"] == "1"
    mean = np.mean([float(row["psnr_prediction"]) for row in rows])
    copy = np.mean([float(row["psnr_copy_first"]) for row in rows])
    assert f"prediction {mean:.2f} dB, copy-first {copy:.2f} dB" in text
    with Image.open(folder / "prediction.png") as curve:
        assert curve.size[0] > 400


def test_predict_from_one_frame_and_a_folder_of_poses(trained, lab_tree):
    folder, _ = trained
    first = next((lab_tree / "test" / "test_img" / "0").iterdir())
    words = ["predict.py", "--model", "saved_models/debug-1", "--first_frame", first, "--scale", "1", "--fps", "25",
             "--poses", lab_tree / "test" / "test_label" / "0"]
    films = {}
    for name, extra in (("a", ["--seed", "1"]), ("b", ["--seed", "1"]), ("c", ["--seed", "1", "--samples", "3"])):
        _ok(run_program(*words, "--output", f"out/{name}.gif", *extra, cwd=folder))
        with Image.open(folder / "out" / f"{name}.gif") as film:
            films[name] = np.stack([np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(film)])
    assert films["a"].shape == (40, 32, 64, 3)  # a frame for each of the 40 poses
    np.testing.assert_array_equal(films["a"], films["b"])
    with Image.open(first) as image:
        given = np.asarray(image)
    assert np.abs(films["a"][0].astype(int) - given).mean() < 6  # the film begins with the given frame
    assert films["c"].shape == (40, 32, 3 * 64 + 2, 3)
    assert not (folder / "out" / "a.csv").exists()  # nothing to compare with


def test_predict_compares_with_the_truth(trained, lab_tree):
    folder, _ = trained
    text = _ok(run_program("predict.py", "--poses", lab_tree / "val" / "val_label", "--truth",
                           lab_tree / "val" / "val_img", "--output", "val.gif", cwd=folder))
    assert "val.gif: 40 frames" in text and "PSNR, mean of 39 frames, z from the prior" in text


def test_the_shipped_model_predicts_right_after_cloning(tmp_path):
    text = _ok(run_program("predict.py", "--model", ROOT / "saved_models" / "studio", "--output", "film.gif",
                           cwd=tmp_path))
    psnr, copy_first = (float(text.split(f"{name} ")[-1].split()[0]) for name in ("prediction", "copy-first"))
    assert psnr > copy_first + 4
    size = sum(path.stat().st_size for path in (ROOT / "saved_models" / "studio").rglob("*") if path.is_file())
    assert size < 5e6


def test_dry_run_prints_the_configuration_and_writes_nothing(tmp_path):
    text = _ok(run_program("train.py", "--preset", "lab", "--num-epoch", "5", "--dry-run", cwd=tmp_path))
    config = json.loads(text)
    assert (config["network"], config["num_epoch"]) == ("lab", 5)
    assert not list(tmp_path.iterdir())


def test_help_groups_the_flags(tmp_path):
    text = _ok(run_program("train.py", "--help", cwd=tmp_path))
    for group in ("run:", "data:", "network:", "objective:", "optimiser:"):
        assert group in text


@pytest.mark.parametrize("words, message", [
    (["train.py", "--preset", "nonsense"], "error: --preset must be one of"),
    (["train.py", "--lr", "fast"], "error: argument --lr: invalid float value: 'fast'; see train.py --help"),
    (["train.py", "--data_dir", "nowhere"], "error: nowhere/train/train_img: no such folder"),
    (["predict.py", "--model", "nowhere"], "error: nowhere: no SavedModel in this folder"),
    (["predict.py"], "error: saved_models: no SavedModel in this folder"),
    (["predict.py", "--output", "film.avi"], "error: --output must end in .gif"),
    (["predict.py", "--poses", "x"], "error: --poses needs the first frame"),
    (["predict.py", "--samples", "0"], "error: --samples must be from 1 to 64"),
    (["-m", "cvae_tf.studio.scene", "out", "--train", "0"], "error: --train must be at least 1"),
    (["-m", "cvae_tf.lab.export_torch", "--model", "nowhere", "--out", "x"], "error: nowhere/config.json: cannot be read"),
    (["predict.py", "--csv", "x.csv"], "error: --csv cannot be given without --data_dir"),
    (["-m", "cvae_tf.evaluation.evaluate", "--model", "nowhere"], "error: nowhere: no SavedModel in this folder"),
    (["-m", "cvae_tf.experiments.compare", "nowhere", "--out", "x"], "error: nowhere: no config.json in this folder"),
    (["-m", "cvae_tf.experiments.study", "--out", "x", "--tfr", "0"], "error: --tfr cannot be given to a study"),
])
def test_bad_input_is_one_line_and_exit_code_2(words, message, tmp_path):
    done = run_program(*words, cwd=tmp_path)
    lines = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert done.returncode == 2 and "Traceback" not in done.stderr and done.stdout == ""
    assert len(lines) == 1 and lines[0].startswith(message)
    assert not list(tmp_path.iterdir())


def test_studio_writes_a_data_set(tmp_path):
    text = _ok(run_program("-m", "cvae_tf.studio.scene", "tree", "--train", "2", "--length", "3", "--variety", cwd=tmp_path))
    assert "tree: 2 training sequences" in text
    assert len(list((tmp_path / "tree" / "train" / "train_img").iterdir())) == 6
