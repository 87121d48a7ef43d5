"""Shared pieces: small footage, a small model, and the programs as a user starts them."""

import os
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
from PIL import Image

from cvae_tf import cli
from cvae_tf.data.footage import Footage
from cvae_tf.inference.exported_model import ExportedModel
from cvae_tf.model.cvae import CVAE
from cvae_tf.model.unet import UNet
from cvae_tf.studio import scene as studio

# ``--hypothesis-profile long`` looks for new cases; without it, the cases are the same each time.
hypothesis.settings.register_profile("short", max_examples=60, deadline=None, derandomize=True, database=None)
hypothesis.settings.register_profile("long", max_examples=3000, deadline=None, database=None)
hypothesis.settings.load_profile("short")

ROOT = Path(__file__).resolve().parent.parent


def give_colours(network):
    """Random kernels where a fresh U-Net has zeros, with which it would ignore poses, earlier frames and z."""
    if isinstance(network, UNet):
        for layer in (network.generator.out, *network.generator.coarse.heads):
            layer.kernel.assign(keras.initializers.GlorotUniform()(layer.kernel.shape))


def make_model(network=None, lr=1e-3, **options):
    """A small compiled model; without a ``network``, with the same weights at every call."""
    keras.utils.set_random_seed(1)
    network = network or UNet(width=4, N_dim=2)
    give_colours(network)
    model = CVAE(network, **{"disturbed": 0.0} | options)
    model.compile(keras.optimizers.Adam(lr))
    return model


def random_clip(time=5, batch=2, size=(16, 32), seed=0):
    """A batch of clips of random pixels: ``frames`` and ``poses`` (B, T, H, W, 3) and ``context`` (B, H, W, 3)."""
    random = np.random.default_rng(seed)
    shape = (batch, time, *size, 3)
    return {name: tf.constant(random.random(s, np.float32))
            for name, s in (("frames", shape), ("poses", shape), ("context", (batch, *size, 3)))}


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
    studio.write_tree(root, 1, length=40)
    return root


def image_tree(root, frames=12, size=(64, 32), name="frame"):
    """A data set of plain images in the lab's layout: ``frames`` of (width, height) ``size`` in each folder."""
    for split in ("train", "val"):
        for kind in ("img", "label"):
            folder = root / split / f"{split}_{kind}"
            folder.mkdir(parents=True)
            for n in range(frames):
                Image.new("RGB", size, (n, 0, 0)).save(folder / f"{name}{n:03d}.png")
    return root


class StandIn(ExportedModel):
    """Stands for an exported model of 16x32 pixels: a frame is a mean of first frame, pose and noise."""

    height, width, films_at_once = 16, 32, 2

    def __init__(self, path):
        self.path, self.lengths = path, []

    def generate(self, first_frame, poses, seed=0, temperature=1.0):
        noise = np.random.default_rng(seed).random(first_frame.shape, np.float32) * np.float32(temperature)
        return (first_frame + poses + noise) / 3

    def continue_film(self, context_frame, before, poses, seed=0, temperature=1.0, start=0):
        return self.generate(context_frame, poses, seed, temperature)

    def film(self, first_frame, seed=0, temperature=1.0):
        def extend(poses):
            self.lengths.append(len(poses))
            return self.generate(first_frame, poses, seed, temperature)
        return extend

    def reconstruct(self, frames, poses):
        return frames[1:], np.ones(len(frames) - 1), np.zeros((len(frames) - 1, 1, 1, 2))


class Ended:
    """How a program ended: exit code, and what it printed."""

    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def end_of(tmp_path, monkeypatch, capsys):
    """Run a command in this process, in ``tmp_path``, to its end: ``end_of("train", "--lr", "fast")``."""
    def run(command, *words):
        monkeypatch.chdir(tmp_path)
        before = signal.getsignal(signal.SIGTERM)
        try:
            cli.main([command, *map(str, words)])
            code = 0
        except SystemExit as ended:
            code = ended.code
        finally:
            signal.signal(signal.SIGTERM, before)
        return Ended(code, *capsys.readouterr())
    return run
