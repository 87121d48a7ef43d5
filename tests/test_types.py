"""The types of the public API, as a user's type checker sees them."""

import ast
import importlib.util
import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT

import cvae_tf

RIGHT = """
from pathlib import Path
from typing import assert_type

import keras
import numpy as np
import tensorflow as tf

import cvae_tf

studio = cvae_tf.load_footage("studio", frame_size=(32, 64))
clips = studio.train.clips(length=16, batch_size=4, mirror=True)
network = cvae_tf.UNet(width=24, limb_hues=studio.train.limb_hues)
model = cvae_tf.CVAE(network, beta=1e-3)
model.compile(keras.optimizers.AdamW(2e-3))
model.compile(cvae_tf.Muon(8e-3))
schedules = cvae_tf.EpochSchedules(beta=cvae_tf.cyclical(16, cycles=4, stop=1e-3),
                                   teacher_forcing=cvae_tf.linear_decay(1.0, 4, 0.1))
assert_type(model.fit(clips, epochs=4, callbacks=[schedules]), keras.callbacks.History)
model.beta.assign(0.5)
film = model.generate(studio.val.frames[:1], studio.val.poses[None, 1:], seed=0)
assert_type(film, tf.Tensor)
model.save("mine.keras")
model.export("saved_models/mine")
cvae_tf.CVAE(cvae_tf.LabNetwork(F_dim=16))

exported = cvae_tf.ExportedModel(Path("saved_models/mine"))
assert_type(exported.height, int)
frames = exported.generate(studio.val.frames[0], studio.val.poses[1:], temperature=0)
assert_type(frames, np.ndarray)
assert_type(cvae_tf.psnr_per_frame(frames, frames), np.ndarray)
cvae_tf.write_gif("film.gif", frames, fps=30)

result = cvae_tf.train(cvae_tf.Config(preset="demo", num_epoch=2))
assert_type(result.run_dir, Path)
assert_type(result.scores["best"], float)
assert_type(cvae_tf.predict(result.model_dir, output=Path("film.gif")).psnr, dict[str, float])
assert_type(cvae_tf.evaluate(exported, samples=2), dict)
assert_type(cvae_tf.prepare(["me.mp4"], "me"), dict)
cvae_tf.compare([result.run_dir, "runs/other"], "comparison")
cvae_tf.study(cvae_tf.Config(preset="study"), "study", axes={"lr": [1e-3, 2e-3]})
assert_type([*cvae_tf.monotonic(4, 1.0), *cvae_tf.constant(4, 1.0)], list[float])

def fps_of(key_points: cvae_tf.KeyPoints) -> float:
    return key_points.mirrored().resampled(30).fps
"""
WRONG = """
import cvae_tf
cvae_tf.Cvae
cvae_tf.CVAE(cvae_tf.UNet(width="24"))
cvae_tf.CVAE(cvae_tf.UNet(), betta=1e-3).trainable_parameters.upper()
cvae_tf.load_footage(frame_size=32)
cvae_tf.Config(num_epochs=2)
cvae_tf.train("demo")
cvae_tf.predict(output=3)
cvae_tf.ExportedModel("m").generate("frame.png", "poses")
cvae_tf.write_gif("film.gif")
"""


def test_a_type_checker_sees_every_public_name_where_it_is_loaded_from():
    tree = ast.parse((ROOT / "cvae_tf" / "__init__.py").read_text())
    seen = {alias.asname: node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)
            for alias in node.names if alias.asname == alias.name}
    assert seen == {name: f"cvae_tf.{module}" for name, module in cvae_tf._HOME.items()}


@pytest.fixture(scope="module")
def errors(tmp_path_factory):
    """File -> lines with an error, of pyright in its mode ``basic``; the package is typed like an installed one."""
    if not importlib.util.find_spec("pyright"):
        pytest.skip("pyright is not installed")
    folder = tmp_path_factory.mktemp("user")
    (folder / "right.py").write_text(RIGHT)
    (folder / "wrong.py").write_text(WRONG)
    (folder / "pyrightconfig.json").write_text(json.dumps({"typeCheckingMode": "basic", "extraPaths": [str(ROOT)]}))
    done = subprocess.run([sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "--outputjson"], cwd=folder,
                          env={**os.environ, "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}, capture_output=True, text=True)
    found = {"right.py": {}, "wrong.py": {}}
    for one in json.loads(done.stdout)["generalDiagnostics"]:
        if one["severity"] == "error":
            found[os.path.basename(one["file"])][1 + one["range"]["start"]["line"]] = one["message"]
    return found


@pytest.mark.slow
def test_pyright_accepts_the_public_api(errors):
    assert errors["right.py"] == {}


@pytest.mark.slow
def test_pyright_finds_wrong_calls_of_the_public_api(errors):
    assert errors["wrong.py"].keys() == set(range(3, 1 + len(WRONG.splitlines())))
