"""Shared pieces: small footage, a small model, and the programs as a user starts them."""

import os
import runpy
import signal
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import hypothesis
import keras
import numpy as np
import pytest
import tensorflow as tf

from cvae_tf.data.footage import Footage
from cvae_tf.model.cvae import CVAE
from cvae_tf.model.unet import UNet
from cvae_tf.studio import scene as studio

# ``--hypothesis-profile long`` looks for new cases; without it, the cases are the same each time.
hypothesis.settings.register_profile("short", max_examples=60, deadline=None, derandomize=True, database=None)
hypothesis.settings.register_profile("long", max_examples=3000, deadline=None, database=None)
hypothesis.settings.load_profile("short")

ROOT = Path(__file__).resolve().parent.parent


def give_colours(network):
    """Random kernels where a built unet begins at 0: fresh, it ignores poses, the frames before and z."""
    if isinstance(network, UNet):
        for layer in (network.generator.out, *network.generator.sketch.heads):
            layer.kernel.assign(keras.initializers.GlorotUniform()(layer.kernel.shape))


def make_model(network=None, size=(16, 32), lr=1e-3, **options):
    """A small compiled model; the same weights at every call, but with a ``network`` made under another seed."""
    keras.utils.set_random_seed(1)
    network = network or UNet(width=4, N_dim=2)
    network.build((*size, 3))
    give_colours(network)
    model = CVAE(network, **options)
    model.compile(keras.optimizers.Adam(lr), jit_compile=False)
    model.optimizer.build(model.trainable_variables)
    return model


def random_clip(time=5, batch=2, size=(16, 32), seed=0):
    """Frames, poses (T, B, H, W, 3) and context (B, H, W, 3), random float32 tensors in [0, 1]."""
    random = np.random.default_rng(seed)
    shape = (time, batch, *size, 3)
    return tuple(tf.constant(random.random(s, np.float32)) for s in (shape, shape, shape[1:]))


def run_program(*words, cwd, timeout=300):
    """Start a script of the project as a user does, from another folder."""
    command = [sys.executable, str(ROOT / words[0]) if words[0].endswith(".py") else words[0], *map(str, words[1:])]
    if words[0] == "-m":
        command = [sys.executable, *map(str, words)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout)


@pytest.fixture(scope="session")
def footage():
    """Two uncut studio sequences of 40 frames at 16x32."""
    sequences = studio.sequences([1, 2], 16, 32, length=40)
    frames, poses = (np.concatenate(arrays) for arrays in zip(*sequences, strict=True))
    return Footage(frames, poses, ((0, 40), (40, 40)))


@pytest.fixture(scope="session")
def lab_tree(tmp_path_factory):
    """A small data set on disk in the lab's layout: one training sequence, validation and test, 40 frames each."""
    root = tmp_path_factory.mktemp("data") / "LAB4_Dataset"
    studio.write_tree(root, 1, 32, 64, length=40)
    return root


class Ended:
    """How a program ended: exit code, and what it printed."""

    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def end_of(tmp_path, monkeypatch, capsys):
    """Run a program in this process, in ``tmp_path``, to its end: ``end_of("train.py", "--lr", "fast")``."""
    def run(program, *words):
        source = ROOT / program if program.endswith(".py") else ROOT / (program.replace(".", "/") + ".py")
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [program, *map(str, words)])
        before = signal.getsignal(signal.SIGTERM)
        try:
            runpy.run_path(str(source), run_name="__main__")
            code = 0
        except SystemExit as ended:
            code = ended.code
        finally:
            signal.signal(signal.SIGTERM, before)
        return Ended(code, *capsys.readouterr())
    return run
