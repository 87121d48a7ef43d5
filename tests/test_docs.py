"""What the documents tell a user to type must be accepted by the programs, and the example must run."""

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from cvae_tf import cli
from cvae_tf.studio.scene import write_tree

PAGES = {path.name: path.read_text() for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]}
README = PAGES["README.md"]


def _commands(text):
    return re.findall(r"^(?:python -m cvae_tf|cvae-tf|python(?= \w+\.py)) +(.+)$", text, re.MULTILINE)


COMMANDS = sorted(set(_commands("\n".join(PAGES.values()))))
# Settings under which a command of the documents takes seconds. Commands of ``benchmarks``, some of which take hours,
# are not run; of a study with several seeds, which has up to 27 runs, only the plan is made. The study of nine runs has
# three.
TINY = ["--num_epoch", "1", "--steps_per_epoch", "2", "--width", "4", "--F_dim", "8", "--L_dim", "4", "--N_dim", "4",
        "--D_out_dim", "8", "--max_frames", "64", "--val_vi_len", "16", "--batch_size", "2"]
SMALL = {"train": TINY, "evaluate": ["--samples", "1", "--no_pose_detector"], "study": [*TINY, "--tfr", "0"]}


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_in_documents_are_accepted(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    program, *words = shlex.split(command)
    cli.parse([program.removesuffix(".py"), *words])


def test_the_documents_show_commands():
    assert {command.split()[0] for command in COMMANDS} >= {"train.py", "predict.py", "evaluate", "compare", "study",
                                                            "prepare", "import-torch", "export-torch"}


def test_flags_named_in_the_documents_exist(capsys):
    for command in cli.COMMANDS:
        with pytest.raises(SystemExit):
            cli.parse([command, "--help"])
    known = set(re.findall(r"--(\w+)", capsys.readouterr().out))
    flags = set(re.findall(r"`--(\w+)", "\n".join(PAGES.values())))
    for benchmark in (ROOT / "benchmarks").glob("*.py"):
        known |= set(re.findall(r'"--(\w+)"', benchmark.read_text()))
    of_the_template = {"DR", "save_root", "ckpt_path", "test", "per_save", "store_visualization", "device", "gpu",
                       "num_workers"}
    assert len(flags) > 5 and flags <= known | of_the_template, flags - known


def test_files_and_folders_named_in_the_documents_exist():
    for name in set(re.findall(r"`((?:cvae_tf|notebooks|benchmarks|docs|\.ci)/[\w./]*)", "\n".join(PAGES.values()))):
        assert (ROOT / name).exists(), name


@pytest.mark.slow
def test_the_example_in_the_readme_runs_and_learns(tmp_path):
    example = re.search(r"^```python\n(import keras\n.*?)^```", README, re.MULTILINE | re.DOTALL)[1]
    check = """
import numpy as np
truth = studio.val.frames[1:] / 255
assert film.shape == (1, *truth.shape) and 0 <= np.min(film) and np.max(film) <= 1
errors = [np.mean((np.asarray(x) - truth) ** 2) for x in (film[0], truth[:1])]
assert errors[0] < 0.5 * errors[1], errors
keras.models.load_model("mine.keras")
again = cvae_tf.ExportedModel("saved_models/mine").generate(studio.val.frames[0], studio.val.poses[1:], seed=0)
np.testing.assert_allclose(again, film[0], atol=1e-4)
"""
    done = subprocess.run([sys.executable, "-c", example + check], cwd=tmp_path, capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr[-3000:]


def _run(line):
    """Run a command of the documents in this process, with small settings."""
    program, *words = shlex.split(line)
    command = program.removesuffix(".py")
    small = ["--dry_run"] if command == "study" and "--seed" in words else SMALL.get(command, [])
    before = signal.getsignal(signal.SIGTERM)
    try:
        cli.main([command, *words, *small])
    except SystemExit as ended:
        pytest.fail(f"{line}: exit code {ended.code}")
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with everything that the commands of the documents name."""
    root = tmp_path_factory.mktemp("documents")
    write_tree(root / "LAB4_Dataset", 1, length=64, frame_size=(64, 128))  # the size of the shipped model
    val = root / "LAB4_Dataset" / "val"
    (root / "saved_models").mkdir()
    for name, there in {"VAL": val, "POSES": val / "val_label", "F.png": val / "val_img" / "frame00000000.png",
                        "saved_models/studio": ROOT / "saved_models" / "studio"}.items():
        (root / name).symlink_to(there)
    with contextlib.chdir(root):
        _run("predict --poses POSES --first_frame F.png --output me.mp4 --scale 8 --enlarge lanczos")
        Path("other.mp4").symlink_to("me.mp4")
        _run("train --data_dir LAB4_Dataset --preset best --run_dir runs/best-1")
        shutil.copytree("runs/best-1", "runs/best-2")
        _run("train --data_dir LAB4_Dataset --preset lab --run_dir runs/lab-1")
        _run("export-torch --model saved_models/lab-1 --out epoch=69.ckpt")
    return root


@pytest.mark.slow
@pytest.mark.parametrize("page", [name for name, text in PAGES.items() if name == "README.md"
                                  or not set(_commands(text)) <= set(_commands(README))])
def test_the_commands_of_the_documents_run(page, workplace, tmp_path, monkeypatch):
    pytest.importorskip("torch")
    pytest.importorskip("imageio_ffmpeg")
    monkeypatch.chdir(shutil.copytree(workplace, tmp_path / "user", symlinks=True))
    for line in _commands(PAGES[page]):
        _run(line)
