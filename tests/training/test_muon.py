"""The optimiser Muon against NumPy."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import make_model, random_clip

from cvae_tf.config import Config
from cvae_tf.training.build import build_model, environment
from cvae_tf.training.checkpoint import CheckpointFolder, RunState, named_variables
from cvae_tf.training.muon import Muon, orthogonalized

RANDOM = np.random.default_rng(0)


def _with_singular_values(values, rows, columns):
    u, _ = np.linalg.qr(RANDOM.normal(size=(rows, len(values))))
    v, _ = np.linalg.qr(RANDOM.normal(size=(columns, len(values))))
    return np.float32(u @ np.diag(values) @ v.T), u @ v.T


@pytest.mark.parametrize("rows, columns", [(8, 8), (36, 8), (8, 36), (5, 1)])
def test_singular_values_become_nearly_one_and_singular_vectors_stay(rows, columns):
    values = np.geomspace(1, 0.03, min(rows, columns))
    matrix, polar = _with_singular_values(values, rows, columns)
    for scale in (1, 1e-6, 1e4):  # only the direction counts
        result = np.array(orthogonalized(tf.constant(scale * matrix)))
        assert np.all(np.abs(np.linalg.svd(result, compute_uv=False) - 0.95) < 0.4)
        # U S' V^T has the polar factor U V^T of the matrix.
        u, _, v = np.linalg.svd(result, full_matrices=False)
        np.testing.assert_allclose(u @ v, polar, atol=2e-3)


def test_no_gradient_makes_no_update():
    np.testing.assert_array_equal(orthogonalized(tf.zeros((4, 3))), np.zeros((4, 3)))


def _newton_schulz(matrix):
    """The iteration on the singular values alone."""
    u, s, v = np.linalg.svd(matrix.astype(np.float64), full_matrices=False)
    s = s / np.linalg.norm(s)
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return u @ np.diag(s) @ v


def test_steps_of_a_kernel_by_hand_and_of_a_bias_as_adamw():
    kernel, bias = RANDOM.normal(size=(3, 3, 4, 6)), RANDOM.normal(size=6)
    ours = [keras.Variable(np.float32(x)) for x in (kernel, bias)]
    theirs = keras.Variable(np.float32(bias))
    muon = Muon(0.1, weight_decay=0.01)
    adamw = keras.optimizers.AdamW(0.1, weight_decay=0.01)
    average = np.zeros((36, 6))
    for _ in range(3):
        gradients = [np.float32(RANDOM.normal(size=x.shape)) for x in (kernel, bias)]
        muon.apply([tf.constant(g) for g in gradients], ours)
        adamw.apply([tf.constant(gradients[1])], [theirs])
        flat = gradients[0].reshape(36, 6)
        average = 0.95 * average + flat
        kernel = kernel * (1 - 0.1 * 0.01)
        kernel = kernel - 0.1 * 0.2 * 6 * _newton_schulz(flat + 0.95 * average).reshape(kernel.shape)
    np.testing.assert_allclose(ours[0].numpy(), kernel, atol=2e-4)
    np.testing.assert_array_equal(ours[1].numpy(), theirs.numpy())


def test_it_is_made_again_from_its_configuration():
    optimizer = Muon(0.01, momentum=0.9, weight_decay=0.1)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(optimizer))
    assert type(again) is Muon and again.get_config() == optimizer.get_config() and again.momentum == 0.9


def test_a_restored_run_continues_to_the_bit(tmp_path):
    def model():
        made = make_model()
        made.compile(Muon(0.01), run_eagerly=True)
        return made

    whole, first, second = model(), model(), model()
    state = RunState(("a", "b"), ((0, 40),), environment())
    batches = [random_clip(time=2, batch=1, size=(8, 16), seed=seed) for seed in range(2)]
    for batch in batches:
        whole.train_step(batch)
    for batch in batches[:1]:
        first.train_step(batch)
    store = CheckpointFolder(tmp_path)
    store.save(1, {name: variable.numpy() for name, variable in named_variables(first).items()} | state.arrays())
    assert store.restore_run(second, state) == 1
    for batch in batches[1:]:
        second.train_step(batch)
    ours, theirs = named_variables(second), named_variables(whole)
    assert len(ours) > 100 and ours.keys() == theirs.keys()
    for name, variable in ours.items():
        np.testing.assert_array_equal(variable.numpy(), theirs[name].numpy(), err_msg=name)


@pytest.mark.slow
def test_a_run_takes_it_and_learns():
    config = Config(optim="Muon", width=4, N_dim=2, frame_H=16, frame_W=32, lr=0.01)
    clips = SimpleNamespace(first_step=lambda epoch: 10 * epoch, footage=SimpleNamespace(limb_hues=None))
    model = build_model(config, clips)
    assert type(model.optimizer) is Muon
    model = make_model()
    model.compile(Muon(0.01), run_eagerly=True)
    batch = random_clip(time=2, batch=1, size=(8, 16))
    losses = [float(model.train_step(batch)["loss"]) for _ in range(4)]
    assert losses[-1] < losses[0]
