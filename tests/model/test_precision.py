"""The training step in 16 bits and compiled with XLA: the same step, but for rounding."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import give_colours, make_model, random_clip

from cvae_tf.config import Config
from cvae_tf.data.clips import Clips
from cvae_tf.inference.export import load_weights
from cvae_tf.inference.exported_model import ExportedModel
from cvae_tf.lab.network import LabNetwork
from cvae_tf.model.cvae import CVAE
from cvae_tf.model.export import _in_float32
from cvae_tf.model.unet import UNet
from cvae_tf.training import build
from cvae_tf.training.build import build_model, build_network
from cvae_tf.training.loop import train

SMALL = Config(frame_H=16, frame_W=32, width=8, N_dim=4, batch_size=2, train_vi_len=5, F_dim=16, L_dim=8, D_out_dim=16)


def _compiled(footage, **settings):
    config = dataclasses.replace(SMALL, **settings)
    model = build_model(config, Clips(footage, config.train_vi_len, config.batch_size))
    last = -2 if config.network == "lab" else -4  # kernels and biases of the mean and the log variance
    for weight in model.network.gaussian_predictor.weights[last:]:  # away from the prior, where the KL has no gradient
        weight.assign(tf.random.stateless_normal(weight.shape, [0, 1], stddev=0.1))
    keras.utils.set_random_seed(0)
    give_colours(model.network)
    model.beta.assign(0.01)
    return model


def _flat(gradients):
    return np.concatenate([np.ravel(gradient) for gradient in gradients])


@pytest.mark.slow
@pytest.mark.parametrize("network, through_time, chunk_length", [
    ("unet", False, 16), ("unet", True, 16), ("lab", False, 1)])
def test_xla_gives_the_loss_and_gradient_of_the_plain_step(network, through_time, chunk_length):
    found = []
    for xla in (False, True):
        keras.utils.set_random_seed(0)
        small = UNet(width=4, N_dim=2) if network == "unet" else LabNetwork(F_dim=16, L_dim=8, N_dim=4, D_out_dim=16)
        model = make_model(small, xla=xla, gradient_through_time=through_time, chunk_length=chunk_length)
        model.beta.assign(0.01)
        gradient = tf.function(model._clip_gradient, autograph=False)
        for forced in (0.0, 1.0):
            model.teacher_forcing_ratio.assign(forced)
            terms, gradients = gradient(*model.unpack(random_clip()), 1.0)
            found.append((terms["mse"], terms["kl"], _flat(gradients)))
    for (mse, kl, gradient), (mse_xla, kl_xla, gradient_xla) in zip(found[:2], found[2:], strict=True):
        np.testing.assert_allclose([mse_xla, kl_xla], [mse, kl], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(gradient_xla, gradient, atol=1e-5 * np.abs(gradient).max())
    assert np.any(found[0][2] != found[1][2])


def _cosine(a, b):
    a, b = np.float64(a), np.float64(b)  # in float32 it may come out above 1
    return np.dot(a, b) / np.linalg.norm(a) / np.linalg.norm(b)


@pytest.mark.parametrize("network", ["unet", pytest.param("lab", marks=pytest.mark.slow)])
@pytest.mark.parametrize("precision, close", [("mixed_float16", 0.02),
                                              pytest.param("mixed_bfloat16", 0.1, marks=pytest.mark.slow)])
def test_mixed_precision_gives_nearly_the_same_gradient(footage, network, precision, close):
    found = []
    for name in ("float32", precision):
        model = _compiled(footage, network=network, precision=name)
        clip = Clips(footage, 5, 2).batch(0)
        scale = model.optimizer.scale_loss(1.0)
        terms, gradients = model._clip_gradient(*model.unpack(clip), scale)
        assert {tf.as_dtype(gradient.dtype) for gradient in gradients} == {tf.float32}
        assert model.generate(clip["context"], clip["poses"][:, :2]).dtype == tf.float32
        found.append((float(terms["mse"]), float(terms["kl"]), _flat(gradients) / float(scale)))
    assert {layer.compute_dtype for layer in model.network._flatten_layers()} == {precision[6:], "float32"}
    (mse, kl, gradient), (mse_16, kl_16, gradient_16) = found
    np.testing.assert_allclose([mse_16, kl_16], [mse, kl], rtol=close)
    assert 1 - close < _cosine(gradient_16, gradient) < 1 - 1e-9


def test_gradients_too_small_for_float16_survive_through_the_loss_scale(footage):
    model = _compiled(footage, precision="mixed_float16")
    clip = model.unpack(Clips(footage, 5, 2).batch(0))
    scale = model.optimizer.scale_loss(1.0)
    assert float(scale) == 2**15
    small = 2.0**-14  # a factor of the loss
    _, unscaled = model._clip_gradient(*clip, small)
    _, scaled = model._clip_gradient(*clip, small * scale)
    assert np.sum(_flat(unscaled) == 0) > np.sum(_flat(scaled) == 0)


def test_an_overflow_in_float16_is_skipped_and_lowers_the_loss_scale(footage):
    model = _compiled(footage, precision="mixed_float16", lr_schedule="constant")
    batch = Clips(footage, 5, 2).batch(0)
    def step():
        return model.train_step(batch)

    model.optimizer.dynamic_scale.assign(2.0**40)
    before = [weight.numpy() for weight in model.network.weights]
    logs = step()
    assert float(model.optimizer.dynamic_scale) == 2.0**39 and int(logs["skipped"]) == 1
    for weight, old in zip(model.network.weights, before, strict=True):
        np.testing.assert_array_equal(weight, old)
    model.optimizer.dynamic_scale.assign(2.0**10)
    logs = step()
    assert int(logs["skipped"]) == 1 and int(model.skipped_in_a_row) == 0
    assert np.any(model.network.weights[0].numpy() != before[0])


def test_a_step_in_float16_clips_the_true_gradient(footage):
    norms, moved = [], []
    for precision in ("float32", "mixed_float16"):
        model = _compiled(footage, precision=precision, optim="Adam", lr_schedule="constant", clip_norm=1e-3)
        applied = []
        inner = getattr(model.optimizer, "inner_optimizer", model.optimizer)
        inner.apply = lambda gradients, trainable_variables, applied=applied: applied.extend(gradients)
        model.optimizer.check_finite = lambda gradients: tf.constant(True)
        batch = Clips(footage, 5, 2).batch(0)
        norms.append(float(model.train_step(batch)["grad_norm"]))
        moved.append(np.linalg.norm(_flat(applied)))
    assert norms[0] > 1e-3
    np.testing.assert_allclose(norms[1], norms[0], rtol=0.02)
    np.testing.assert_allclose(moved, 1e-3, rtol=0.01)


@pytest.mark.slow
def test_a_model_trained_in_16_bits_is_exported_in_float32(tmp_path, monkeypatch):
    def colourful(config, limb_hues):
        network = build_network(config)
        give_colours(network)
        return network

    monkeypatch.setattr(build, "build_network", colourful)
    config = Config(preset="debug", num_epoch=1, steps_per_epoch=2, train_vi_len=3, val_vi_len=4, max_frames=48,
                    width=8, batch_size=2, N_dim=4, precision="mixed_float16", xla=True, limb_planes=False,
                    run_dir=str(tmp_path / "run"), export_dir=str(tmp_path / "model"))
    train(config)
    exported = ExportedModel(tmp_path / "model")
    frame, poses = np.random.default_rng(0).random((2, 3, 32, 64, 3), np.float32)
    network = build_network(dataclasses.replace(config, precision="float32"))
    load_weights(network, tmp_path / "model")
    in_16_bits = build_network(config)
    load_weights(in_16_bits, tmp_path / "model")
    expected, rounded = (CVAE(network).generate(frame[None, 0], poses[None])[0]
                         for network in (network, in_16_bits))
    np.testing.assert_allclose(exported.generate(frame[0], poses), expected, atol=1e-5)
    assert np.max(np.abs(rounded - expected)) > 1e-4


def test_an_export_holds_the_model_itself_or_one_of_equal_weights_in_float32():
    model = make_model()
    assert _in_float32(model) is model
    in_16_bits = make_model(UNet(width=4, N_dim=2, dtype="mixed_bfloat16"), beta=0.25)
    exported = _in_float32(in_16_bits)
    assert {layer.compute_dtype for layer in exported.network._flatten_layers()} == {"float32"}
    assert float(exported.beta) == 0.25 and in_16_bits.network.dtype_policy.name == "mixed_bfloat16"
    for ours, theirs in zip(exported.network.weights, in_16_bits.network.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)
