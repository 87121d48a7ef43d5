"""The shape of the package: who imports whom, and what stays light."""

import ast
import subprocess
import sys

import pytest
from conftest import ROOT

PACKAGE = ROOT / "cvae_tf"
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__")


def _imports(path):
    """Modules of the package that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "cvae_tf":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("cvae_tf."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("cvae_tf.")}
    return found & set(MODULES)


GRAPH = {name: _imports(PACKAGE / f"{name}.py") for name in MODULES}


def _reachable(names):
    seen = set()
    while names:
        seen |= names
        names = set().union(*(GRAPH[name] for name in names)) - seen
    return seen


def test_imports_form_a_dag():
    for name in MODULES:
        assert name not in _reachable(GRAPH[name]), f"{name} imports itself through {GRAPH[name]}"


def test_layers_and_functions_do_not_know_the_configuration():
    for name in ("schedules", "elbo", "rollout", "network", "unet", "lab_network", "model", "metrics", "video"):
        assert "config" not in _reachable(GRAPH[name])


def test_prediction_and_evaluation_know_neither_model_nor_networks():
    forbidden = {"model", "network", "unet", "lab_network", "elbo", "rollout", "training"}
    for name in ("prediction", "evaluate", "compare"):
        assert not _reachable(GRAPH[name]) & forbidden, name


def test_there_is_one_time_loop():
    loops = [path.stem for path in PACKAGE.glob("*.py") for word in ("while_loop", "tf.scan", "map_fn")
             if word in path.read_text()]
    assert loops == ["rollout"]


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
