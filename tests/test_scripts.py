"""The programs as a user starts them."""

import contextlib
import csv
import io
import json
import os
import re
import shlex
import signal

import numpy as np
import pytest
from conftest import ROOT, run_program
from PIL import Image, ImageSequence

from cvae_tf import cli

SHIPPED = ROOT / "saved_models" / "studio"


def _run(folder, *words):
    """Run a command in this process, in ``folder``, and return what it printed."""
    before, out = signal.getsignal(signal.SIGTERM), io.StringIO()
    try:
        with contextlib.chdir(folder), contextlib.redirect_stdout(out):
            cli.main([str(word) for word in words])
    finally:
        signal.signal(signal.SIGTERM, before)
    return out.getvalue()


@pytest.fixture(scope="module")
def trained(lab_tree, tmp_path_factory):
    """A folder in which the debug preset has trained on a data set in the lab's layout, and what it printed."""
    folder = tmp_path_factory.mktemp("user")
    done = run_program("train.py", "--preset", "debug", "--data_dir", lab_tree, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "InitializeLog" not in done.stderr and "\x1b" not in done.stdout
    return folder, done.stdout


@pytest.mark.slow
def test_training_tells_where_everything_is(trained):
    folder, text = trained
    for part in ("31 frames", "Best model", "copy-first", "runs/debug-1/samples/epoch_002.gif",
                 "tensorboard --logdir runs", "saved_models/debug-1", "\n  2/2 "):
        assert part in text
    with Image.open(folder / "runs/debug-1/samples/epoch_002.gif") as film:
        assert film.n_frames == 31 and film.size == (2 * (3 * 64 + 2), 64)


@pytest.mark.slow
def test_the_commands_that_training_names_work(trained):
    folder, text = trained
    for name in ("predict", "compare"):
        [words] = re.findall(rf"^To {name} +python -m cvae_tf (.*)$", text, re.MULTILINE)
        _run(folder, *shlex.split(words))
    assert (folder / "prediction.csv").exists() and list((folder / "comparison").iterdir())


@pytest.mark.slow
def test_predict_without_flags_takes_a_finished_model_that_is_no_debug_model(trained):
    folder, _ = trained
    first, *_ = _run(folder, "predict", "--scale", "1", "--output", "shipped.gif").splitlines()
    assert first == f"Model {SHIPPED} (the newest that is finished; --model takes another)"


@pytest.mark.slow
def test_predict_without_poses_takes_the_studio(trained):
    folder, _ = trained
    text = _run(folder, "predict", "--model", "saved_models/debug-1", "--scale", "1")
    assert text.startswith("Model saved_models/debug-1\n")
    assert json.loads((folder / "saved_models/debug-1/run.json").read_text())["finished"] is True
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


@pytest.mark.slow
def test_predict_from_one_frame_and_a_folder_of_poses(trained, lab_tree):
    folder, _ = trained
    first = next((lab_tree / "test" / "test_img" / "0").iterdir())
    words = ["predict", "--model", "saved_models/debug-1", "--first_frame", first, "--scale", "1", "--fps", "25",
             "--poses", lab_tree / "test" / "test_label" / "0"]
    films = {}
    for name, extra in (("a", ["--seed", "1"]), ("b", ["--seed", "1"]), ("c", ["--seed", "1", "--samples", "3"])):
        _run(folder, *words, "--output", f"out/{name}.gif", *extra)
        with Image.open(folder / "out" / f"{name}.gif") as film:
            films[name] = np.stack([np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(film)])
    assert films["a"].shape == (40, 32, 64, 3)  # a frame for each of the 40 poses
    np.testing.assert_array_equal(films["a"], films["b"])
    with Image.open(first) as image:
        given = np.asarray(image)
    assert np.abs(films["a"][0].astype(int) - given).mean() < 6  # the film begins with the given frame
    assert films["c"].shape == (40, 32, 3 * 64 + 2, 3)
    assert not (folder / "out" / "a.csv").exists()  # nothing to compare with


@pytest.mark.slow
def test_predict_compares_with_the_truth(trained, lab_tree):
    folder, _ = trained
    text = _run(folder, "predict", "--model", "saved_models/debug-1", "--poses", lab_tree / "val" / "val_label",
                "--truth", lab_tree / "val" / "val_img", "--output", "val.gif")
    assert "val.gif: 40 frames" in text and "mean of 39 frames" in text


def test_the_shipped_model_predicts_right_after_cloning(tmp_path):
    done = run_program("predict.py", "--model", SHIPPED, "--output", "film.gif", cwd=tmp_path)
    assert done.returncode == 0 and not done.stderr, done.stderr
    psnr, copy_first = (float(done.stdout.split(f"{name} ")[-1].split()[0]) for name in ("prediction", "copy-first"))
    assert psnr == pytest.approx(39.38, abs=0.02) and copy_first == pytest.approx(22.73, abs=0.02)
    assert sum(path.stat().st_size for path in SHIPPED.rglob("*") if path.is_file()) < 6e6


def test_dry_run_prints_the_configuration_and_writes_nothing(end_of, tmp_path):
    ended = end_of("train", "--preset", "lab", "--num-epoch", "5", "--dry-run")
    config = json.loads(ended.out)
    assert ended.code == 0 and (config["network"], config["num_epoch"]) == ("lab", 5)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("program", [["train.py"], ["-m", "cvae_tf", "train"]])
def test_help_groups_the_flags_and_names_the_program(program, tmp_path):
    done = run_program(*program, "--help", cwd=tmp_path)
    for group in ("run:", "data:", "network:", "objective:", "optimiser:"):
        assert group in done.stdout
    assert f"usage: python {' '.join(program)}" in done.stdout
    assert not done.stderr


@pytest.mark.parametrize("words, message", [
    (["train", "--preset", "nonsense"], "--preset must be one of"),
    (["train", "--lr", "fast"], "argument --lr: invalid float value: 'fast'"),
    (["train", "--data_dir", "nowhere"], "nowhere"),
    (["predict", "--model", "nowhere"], "nowhere: no SavedModel in this folder"),
    (["predict", "--model", SHIPPED, "--output", "film.avi"], "--output must end in .gif"),
    (["predict", "--model", SHIPPED, "--first_frame", "x"], "need --poses"),
    (["predict", "--model", SHIPPED, "--samples", "0"], "--samples must be from 1 to 64"),
    (["predict", "--csv", "x.csv"], "--csv cannot be given without --data_dir"),
    (["studio", "out", "--train", "0"], "--train must be from 1 to 1000, received 0"),
    (["export-torch", "--model", "nowhere", "--out", "x"], "nowhere/config.json: cannot be read"),
    (["evaluate", "--model", "nowhere"], "nowhere: no SavedModel in this folder"),
    (["compare", "nowhere", "--out", "x"], "nowhere: no config.json in this folder"),
    (["study", "--out", "x", "--tfr", "2"], "--tfr must be at most 1"),
    (["study"], "--out"),
    (["fly"], "'fly'"),
])
def test_bad_input_is_one_line_and_exit_code_2(words, message, end_of, tmp_path):
    ended = end_of(*words)
    lines = ended.err.strip().splitlines()
    assert ended.code == 2 and ended.out == ""
    assert len(lines) == 1 and lines[0].startswith("error: ") and message in lines[0]
    assert not list(tmp_path.iterdir())


def test_a_script_ends_with_one_line_and_exit_code_2(tmp_path):
    done = run_program("train.py", "--lr", "fast", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count(os.linesep) == 1 and "see python train.py --help" in done.stderr


def test_studio_writes_a_data_set(end_of, tmp_path):
    ended = end_of("studio", "tree", "--train", "2", "--length", "3", "--variety")
    assert ended.code == 0 and "tree: 2 training sequences" in ended.out
    assert len(list((tmp_path / "tree" / "train" / "train_img").iterdir())) == 6
