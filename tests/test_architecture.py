"""The shape of the package: who imports whom, and what stays light."""

import ast
import runpy
import subprocess
import sys
import tomllib

import pytest
from conftest import ROOT

import cvae_tf
from cvae_tf import cli

PACKAGE = ROOT / "cvae_tf"
# Each folder may import from those before it, and from the modules that lie beside the folders.
ROOMS = ("model", "pose", "studio", "data", "preparation", "evaluation", "inference", "lab", "training", "experiments")


def _imports(path):
    """Modules of the package that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "cvae_tf":
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("cvae_tf.")}
    return {name.split(".")[1] for name in found}


@pytest.mark.parametrize("room", ROOMS)
def test_folders_import_in_one_direction(room):
    allowed = set() if room == "model" else {"config", "errors", "files", *ROOMS[:ROOMS.index(room) + 1]}
    for path in (PACKAGE / room).glob("*.py"):
        assert _imports(path) <= allowed | {room}, path.name


def test_scripts_do_nothing_but_call_the_command_line(monkeypatch):
    for script in ("train", "predict"):
        called = []
        monkeypatch.setattr(sys, "argv", [f"{script}.py", "--seed", "3"])
        monkeypatch.setattr(cli, "main", called.append)
        runpy.run_path(str(ROOT / f"{script}.py"), run_name="__main__")
        assert called == [[script, "--seed", "3"]]


# In one process each: imports, or command lines, one after the other; it prints the first that loads a heavy module.
LIGHT = """
import contextlib, io, sys
from cvae_tf import cli
for words in {}:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit, ValueError):
        __import__(words) if isinstance(words, str) else cli.parse(words)()
    if {{"tensorflow", "keras", "matplotlib"}} & sys.modules.keys():
        sys.exit(f"{{words}} loads a heavy module")
"""


def test_light_modules_do_not_load_tensorflow():
    modules = ["config", "files", "errors", "model.schedules", "model.defaults", "studio.scene", "data.footage",
               "data.clips", "data.images", "data.mirror", "data.film", "data.sequences", "evaluation.metrics",
               "evaluation.evaluate", "inference.exported_model", "inference.predict", "lab.submission",
               "training.run", "training.checkpoint", "experiments.study", "cli"]
    code = LIGHT.format([f"cvae_tf.{module}" for module in modules])
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_help_a_dry_run_and_a_mistyped_flag_do_not_load_tensorflow():
    lines = [["--help"], ["train", "--dry_run"], ["study", "--out", "x", "--dry_run"], ["predict", "--csv", "x"],
             *([command, flag] for command in cli.COMMANDS for flag in ("--help", "--colour"))]
    subprocess.run([sys.executable, "-c", LIGHT.format(lines)], cwd=ROOT, check=True)


def test_the_wheel_has_every_folder_and_the_shipped_model():
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {path.parent.relative_to(ROOT).as_posix().replace("/", ".") for path in PACKAGE.rglob("__init__.py")}
    assert set(setup["packages"]) == folders | {"cvae_tf.saved_models"}
    patterns = setup["package-data"]["cvae_tf.saved_models"]
    packed = {path for pattern in patterns for path in (ROOT / "saved_models").glob(pattern) if path.is_file()}
    assert packed == {path for path in (ROOT / "saved_models" / "studio").rglob("*") if path.is_file()}


def test_public_names_exist():
    for name in cvae_tf.__all__:
        assert getattr(cvae_tf, name).__doc__
