"""What the documents tell a user to type must be accepted by the programs."""

import json
import re
import shlex

import pytest
from conftest import ROOT

from cvae_tf.config import parse_train_args
from cvae_tf.evaluation import evaluate
from cvae_tf.experiments import compare, study
from cvae_tf.inference import predict as prediction
from cvae_tf.lab import export_torch, import_torch

NOTEBOOK = json.loads((ROOT / "notebooks" / "colab.ipynb").read_text())
SHOWN = (ROOT / "README.md").read_text() + "\n" + "\n".join(
    "".join(cell["source"]).replace("!", "") for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code")
PARSERS = {"cvae_tf.lab.import_torch": import_torch.parse_args, "cvae_tf.lab.export_torch": export_torch.parse_args,
           "train.py": parse_train_args, "predict.py": prediction.parse_args, "cvae_tf.evaluation.evaluate": evaluate.parse_args,
           "cvae_tf.experiments.compare": compare.parse_args, "cvae_tf.experiments.study": study.parse_args}
COMMANDS = sorted(set(re.findall(r"^python (?:-m )?((?:train\.py|predict\.py|cvae_tf\.(?!studio)\w+).*)$", SHOWN,
                                 re.MULTILINE)))


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_in_readme_and_notebook_are_accepted(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    program, *words = shlex.split(command)
    PARSERS[program](words)


def test_flags_named_in_the_readme_exist():
    known = "".join((ROOT / "cvae_tf" / f"{name}.py").read_text()
                    for name in ("config", "prediction", "evaluate", "compare", "study", "import_torch"))
    flags = set(re.findall(r"`--([a-z_A-Z]+)", (ROOT / "README.md").read_text())) - {"help"}
    assert len(flags) > 5
    for flag in {flag.removeprefix("no_") for flag in flags}:
        assert f" {flag}: " in known or f"--{flag}\"" in known, flag


def test_files_named_in_the_readme_exist():
    for name in set(re.findall(r"`((?:cvae_tf|notebooks|benchmarks|\.ci)/[\w./]+)", (ROOT / "README.md").read_text())):
        assert (ROOT / name).exists(), name


def test_notebook_holds_no_outputs_and_no_logic():
    for cell in NOTEBOOK["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
            assert not re.search(r"^\s*(def|for|while|if|class)\b", "".join(cell["source"]), re.MULTILINE)
