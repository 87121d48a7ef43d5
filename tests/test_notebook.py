"""The notebook for Colab: its commands, where it installs from, and the whole of it in small."""

import json
import os
import re
import shlex
import shutil
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT

from cvae_tf import cli

NOTEBOOK = ROOT / "notebooks" / "colab.ipynb"
CELLS = json.loads(NOTEBOOK.read_text())["cells"]
CODE = ["".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code"]
ADDRESS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]
SETTINGS, VALUES, INSTALLATION = CODE[:3]

BOARD = """
import tensorboard.manager, urllib.request
print(urllib.request.urlopen(f"http://localhost:{tensorboard.manager.get_all()[0].port}/data/runs").read().decode())
"""


def test_it_holds_no_outputs_and_no_logic():
    for cell in CELLS:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
    assert not re.search(r"^\s*(def|for|while|class)\b", "\n".join(CODE), re.MULTILINE)


@pytest.mark.parametrize("small", ["0", "1"])
def test_its_commands_are_accepted(small, tmp_path, monkeypatch):
    pytest.importorskip("IPython")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CVAE_SMALL", small)
    monkeypatch.setenv("TERM", "")  # the notebook sets it
    names = {}
    exec(SETTINGS + "\n" + VALUES, names)
    names |= {"LAB": "LAB4_Dataset", "VIDEO": "me.mp4"}
    commands = re.findall(r"^ *!cvae-tf (.+)$", "\n".join(CODE), re.MULTILINE)
    assert {command.split()[0] for command in commands} == {"train", "predict", "evaluate", "prepare", "study"}
    for command in commands:
        cli.parse(shlex.split(eval(f"f'''{command}'''", names)))  # as IPython fills in the braces


@pytest.mark.parametrize("there, source", [
    ([], f"git+{ADDRESS}"), (["cvae_tf.zip"], "file:{}/cvae_tf.zip"), (["cvae_tf.tar.gz"], "file:{}/cvae_tf.tar.gz"),
    (["cvae_tf/__init__.py", "cvae_tf.zip"], "file:{}"), (["../cvae_tf/__init__.py"], "file:{}/.."),
])
def test_it_installs_from_its_clone_or_an_archive_or_else_the_address(there, source, tmp_path, monkeypatch):
    pytest.importorskip("IPython")
    here = tmp_path / "notebooks"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("TERM", "")
    for name in there:
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).touch()
    names = {}
    exec("\n".join([SETTINGS, VALUES, *(line for line in INSTALLATION.splitlines() if line[0] not in "%!")]), names)
    expected = source.format(here)
    assert names["SOURCE"] == (Path(expected[5:]).resolve().as_uri() if source.startswith("file:") else expected)


def _archive(path):
    """The parts of the project that the wheel is made of, in the form of an archive from GitHub."""
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("cvae_tf", "saved_models/studio", "pyproject.toml", "README.md", "LICENSE", "requirements.txt",
                     "requirements-video.txt"):
            part = ROOT / name
            for file in [part, *part.rglob("*")]:
                if file.is_file() and "__pycache__" not in file.parts:
                    archive.write(file, Path("cvae_tf-main") / file.relative_to(ROOT))


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    """A kernel for the notebook, in a virtual environment to install into, which sees what is installed already."""
    root = tmp_path / "venv"
    venv.create(root, with_pip=True)
    sites = [sysconfig.get_path("purelib", vars={"base": base}) for base in (root, sys.prefix)]
    (Path(sites[0]) / "outer.pth").write_text(sites[1])
    spec = tmp_path / "jupyter" / "kernels" / "test" / "kernel.json"
    spec.parent.mkdir(parents=True)
    spec.write_text(json.dumps({"argv": [str(root / "bin" / "python"), "-m", "ipykernel_launcher", "-f",
                                         "{connection_file}"], "display_name": "test", "language": "python"}))
    (tmp_path / "tmp").mkdir()
    programs = [root / "bin", Path(sys.executable).parent, os.environ["PATH"]]
    for name, value in {"JUPYTER_PATH": tmp_path / "jupyter", "PATH": os.pathsep.join(map(str, programs)),
                        "TMPDIR": tmp_path / "tmp", "CVAE_SMALL": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}.items():
        monkeypatch.setenv(name, str(value))
    return "test"


@pytest.mark.slow
def test_it_runs_from_top_to_bottom(lab_tree, kernel, tmp_path):
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    pytest.importorskip("imageio_ffmpeg")
    _archive(tmp_path / "cvae_tf.zip")
    shutil.make_archive(tmp_path / "LAB4_Dataset", "zip", lab_tree.parent, lab_tree.name)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":  # IPython itself goes on after a program that has failed
            cell.source = re.sub(r"^( *)([!%].+)$", r"\1\2\n\1assert not globals().get('_exit_code'), _exit_code",
                                 cell.source, flags=re.MULTILINE)
    notebook.cells.append(nbformat.v4.new_code_cell(BOARD))
    nbclient.NotebookClient(notebook, timeout=600, kernel_name=kernel,
                            resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    text = "".join(output.get("text", "") for output in shown)
    assert "runs/studio" in shown[-1]["text"]  # of TensorBoard
    assert re.findall(r"^Skipped: no (\w+)", text, re.MULTILINE) == ["Drive", "download"]
    data = [kind for output in shown for kind in output.get("data", ())]
    assert [data.count(kind) for kind in ("image/gif", "image/png")] == [2, 2]
    assert sum("<iframe srcdoc" in output.get("data", {}).get("text/html", "") for output in shown) == 2
    results = tmp_path / "cvae_tf_results"
    for part in ("models/studio", "models/lab", "models/mine", "lab_films/submission.csv", "mine.mp4",
                 "study/comparison"):
        assert (results / part).exists(), part
    assert len((results / "runs/studio/metrics.csv").read_text().splitlines()) == 1 + 2  # continued, not repeated
    assert zipfile.is_zipfile(tmp_path / "cvae_tf_results.zip")
