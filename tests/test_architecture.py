"""The shape of the package: who imports whom, and what stays light."""

import ast
import subprocess
import sys

import pytest
from conftest import ROOT

PACKAGE = ROOT / "cvae_tf"
# Each folder may import from those before it, and from the modules that lie beside the folders.
ROOMS = ("model", "studio", "data", "evaluation", "inference", "lab", "training", "experiments")


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


def test_scripts_are_thin():
    for script in ("train.py", "predict.py"):
        assert len((ROOT / script).read_text().splitlines()) < 80


@pytest.mark.parametrize("module", ["config", "schedules", "images", "data", "runs", "studio", "metrics", "video",
                                    "prediction", "tables", "sequences", "evaluate", "study", "submission",
                                    "checkpoint_file", "import_torch", "export_torch"])
def test_light_modules_do_not_load_tensorflow(module):
    code = f"import sys, cvae_tf.{module}; sys.exit('tensorflow' in sys.modules or 'matplotlib' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_public_names_exist():
    import cvae_tf

    for name in cvae_tf.__all__:
        assert getattr(cvae_tf, name).__doc__
