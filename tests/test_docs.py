"""What the documents tell a user to type must be accepted by the programs, and the example must run."""

import json
import os
import re
import shlex
import subprocess
import sys

import pytest
from conftest import ROOT

from cvae_tf import cli

README = (ROOT / "README.md").read_text()
NOTEBOOK = json.loads((ROOT / "notebooks" / "colab.ipynb").read_text())
SHOWN = README + (ROOT / "docs" / "own_video.md").read_text() + "\n" + "\n".join(
    "".join(cell["source"]).replace("!", "") for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code")
COMMANDS = sorted(set(re.findall(r"^(?:python -m cvae_tf|cvae-tf|python(?= \w+\.py)) +(.+)$", SHOWN, re.MULTILINE)))


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_in_readme_and_notebook_are_accepted(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    program, *words = shlex.split(command)
    cli.parse([program.removesuffix(".py"), *words])


def test_the_documents_show_commands():
    assert {command.split()[0] for command in COMMANDS} >= {"train.py", "predict.py", "evaluate", "compare", "study",
                                                            "prepare", "import-torch", "export-torch"}


def test_flags_named_in_the_readme_exist(capsys):
    for command in cli.COMMANDS:
        with pytest.raises(SystemExit):
            cli.parse([command, "--help"])
    known = set(re.findall(r"--(\w+)", capsys.readouterr().out))
    flags = set(re.findall(r"`--(\w+)", README))
    assert len(flags) > 5 and flags <= known | {"kills"}, flags - known


def test_files_and_folders_named_in_the_readme_exist():
    for name in set(re.findall(r"`((?:cvae_tf|notebooks|benchmarks|docs|\.ci)/[\w./]*)", README)):
        assert (ROOT / name).exists(), name


def test_notebook_holds_no_outputs_and_no_logic():
    for cell in NOTEBOOK["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
            assert not re.search(r"^\s*(def|for|while|if|class)\b", "".join(cell["source"]), re.MULTILINE)


@pytest.mark.slow
def test_the_example_in_the_readme_runs_and_learns(tmp_path):
    example = re.search(r"^## From Python\n+```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)[1]
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
