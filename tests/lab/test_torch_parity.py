"""The lab's network against an independent PyTorch implementation of it, brought over in its checkpoint format."""

import sys

import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT

# PyTorch's builds for CUDA bring Triton, whose LLVM and TensorFlow's abort in one process; it is not needed here.
sys.modules.setdefault("triton", None)
torch = pytest.importorskip("torch", reason="PyTorch is not installed; it is needed only for the lab's checkpoints")
sys.path.insert(0, str(ROOT / "benchmarks"))
pytestmark = pytest.mark.filterwarnings("ignore:CUDA initialization")  # of such a build without a GPU

import torch_lab  # noqa: E402

from cvae_tf.lab.adam import Adam  # noqa: E402
from cvae_tf.lab.network import LabNetwork  # noqa: E402
from cvae_tf.lab.torch_checkpoint import load_state, read_checkpoint, tensors, widths_of  # noqa: E402
from cvae_tf.model import losses  # noqa: E402
from cvae_tf.model.cvae import CVAE  # noqa: E402
from cvae_tf.model.rollout import rollout  # noqa: E402

BETA = 0.02
SMALL = dict(F_dim=16, L_dim=8, N_dim=8, D_out_dim=24)  # widths of the tests that train


def _pair(path, batch_norm="inference", seed=0, trained_norm=True, **sizes):
    """The same weights in both: a PyTorch model, and a `CVAE` that read them from a checkpoint file."""
    torch.manual_seed(seed)
    theirs = torch_lab.LabModel(**sizes)
    if trained_norm:  # a norm that has seen data: statistics, scale and shift other than at the start
        norm = theirs.label_transformation[2]
        with torch.no_grad():
            for tensor, low, high in ((norm.running_mean, -1, 1), (norm.running_var, 0.5, 2), (norm.weight, 0.5, 2),
                                      (norm.bias, -1, 1)):
                tensor.uniform_(low, high)
    torch_lab.save_checkpoint(theirs, path)
    state, _ = read_checkpoint(path)
    network = LabNetwork(**widths_of(state), batch_norm=batch_norm)
    load_state(network, state)
    return theirs, _Fixed(network, beta=BETA, gdl=0.0, clip_norm=1.0)


def _clip(time, batch, latents, size=(8, 16), seed=0):
    """Frames, poses (T, B, H, W, 3) in [0, 1] and eps (T-1, B, H, W, N), float32."""
    random = np.random.default_rng(seed)
    frames, poses = (random.random((time, batch, *size, 3), np.float32) for _ in range(2))
    return frames, poses, random.standard_normal((time - 1, batch, *size, latents)).astype(np.float32)


def _there(array):
    """Channels last -> a tensor with channels first."""
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(np.asarray(array), -1, -3)))


def _back(tensor):
    return np.moveaxis(tensor.detach().numpy(), -3, -1)


def _assert_close(ours, theirs, relative):
    """Every element within ``relative`` of the largest."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    assert np.abs(theirs).max() > 0
    assert np.abs(ours - theirs).max() <= relative * np.abs(theirs).max()


class _Fixed(CVAE):
    """Draws the posterior's noise and the teacher forcing that it was given, as variables ``eps`` and ``forced``."""

    def fix(self, eps, forced):
        self.eps, self.forced = tf.Variable(eps, trainable=False), tf.Variable(forced, trainable=False)

    def draw_noise(self, shape):
        return tf.identity(self.eps)

    def draw_teacher_forcing(self, shape):
        return tf.broadcast_to(tf.identity(self.forced)[:, None], shape)


# ---------------------------------------------------------------------- inference

def test_the_independent_network_has_the_labs_parameters():
    model = torch_lab.LabModel()
    counts = [sum(p.numel() for p in part.parameters()) for part in (
        model.frame_transformation, model.label_transformation, model.Gaussian_Predictor, model.Decoder_Fusion,
        model.Generator)]
    assert counts == [193_568, 16_832, 8_289, 617_768, 749_163] and sum(counts) == 1_585_620


@torch.no_grad()
@pytest.mark.parametrize("mode", ["inference", "train"])
def test_each_module_and_one_transition_agree(mode, tmp_path):
    theirs, model = _pair(tmp_path / "a.ckpt", mode)
    theirs.train(mode == "train")
    network, (frames, poses, _) = model.network, _clip(3, 2, 12)
    pose_features = network.encode_poses(tf.constant(poses))
    for t in range(3):  # the template encodes one pose after the other
        _assert_close(pose_features[t], _back(theirs.label_transformation(_there(poses[t]))), 1e-4)
    frame_features = network.frame_encoder(tf.constant(frames[0]))
    their_frame = theirs.frame_transformation(_there(frames[0]))
    _assert_close(frame_features, _back(their_frame), 1e-4)
    their_pose = theirs.label_transformation(_there(poses[1]))
    zero = torch.zeros(2, 12, 8, 16)
    _, mean, logvar = theirs.Gaussian_Predictor(their_frame, their_pose, zero)
    ours = network.gaussian_predictor(frame_features, pose_features[1])
    _assert_close(ours[0], _back(mean), 1e-4)
    _assert_close(ours[1], _back(logvar), 1e-4)
    z = np.random.default_rng(1).standard_normal((2, 8, 16, 12)).astype(np.float32)
    fused = theirs.Decoder_Fusion(their_frame, their_pose, _there(z))
    _assert_close(network.decoder_fusion(frame_features, pose_features[1], z), _back(fused), 1e-4)
    _assert_close(network.generator(tf.constant(_back(fused))), _back(theirs.Generator(fused)), 1e-4)
    _assert_close(network.transition(tf.constant(frames[0]), pose_features[1], z, ()), _back(theirs.Generator(fused)),
                  1e-4)


@torch.no_grad()
@pytest.mark.slow
@pytest.mark.parametrize("mode", ["inference", "train"])
def test_a_posterior_rollout_of_16_frames_agrees(mode, tmp_path):
    theirs, model = _pair(tmp_path / "a.ckpt", mode, **SMALL)
    theirs.train(mode == "train")
    frames, poses, eps = _clip(16, 2, 8)
    expected, kl = torch_lab.rollout(theirs, _there(frames), _there(poses), _there(eps), [False] * 15)
    pose_features = model.network.encode_poses(tf.constant(poses[1:]))
    posterior = model.posterior(model.network, tf.constant(frames[1:]), pose_features)
    z = posterior.loc + posterior.scale * eps
    first = tf.constant(frames[0])
    ours = tf.function(lambda: rollout(model.cell(model.network, ()), first, (pose_features, z)))()
    _assert_close(ours, _back(expected), 1e-4)
    ours = losses.kl_divergence(posterior, losses.standard_normal(tf.shape(z)))  # theirs is a mean over the batch
    _assert_close(tf.reduce_mean(ours, 1), kl.numpy(), 1e-4)


@torch.no_grad()
@pytest.mark.slow
@pytest.mark.parametrize("mode", ["inference", "train"])
def test_a_prior_rollout_of_100_frames_agrees(mode, tmp_path):
    theirs, model = _pair(tmp_path / "a.ckpt", mode, **SMALL)
    theirs.train(mode == "train")
    frames, poses, z = _clip(101, 1, 8)
    expected = torch_lab.generate(theirs, _there(frames[0]), _there(poses[1:]), _there(z))
    features = model.network.encode_poses(tf.constant(poses[1:]))
    first = tf.constant(frames[0])
    cell = model.cell(model.network, ())
    ours = np.clip(tf.function(lambda: rollout(cell, first, (features, tf.constant(z))))(), 0, 1)
    _assert_close(ours, np.clip(_back(expected), 0, 1), 1e-4)
    assert 0.2 < np.mean((ours > 0) & (ours < 1))  # most are not just the clipping's


# ---------------------------------------------------------------------- training

@pytest.mark.parametrize("through_time, chunk_length", [
    pytest.param(False, 1, id="step by step"), pytest.param(False, 3, id="chunks of 3"),
    pytest.param(False, 16, id="one chunk"), pytest.param(True, 1, id="through time")])
@pytest.mark.slow
def test_the_loss_and_every_gradient_of_a_clip_agree(through_time, chunk_length, tmp_path):
    theirs, model = _pair(tmp_path / "a.ckpt", **SMALL)
    theirs.train()
    model.gradient_through_time, model.chunk_length = through_time, chunk_length
    frames, poses, eps = _clip(5, 2, 8)
    model.fix(eps, [False] * 4)

    @tf.function
    def step():
        terms, gradients = model._clip_gradient(*map(tf.constant, (frames, poses, frames[0])), 1.0)
        return terms["loss"], gradients

    for forced in ([True] * 4, [False] * 4, [True, False, False, True]):
        model.forced.assign(forced)
        ours, gradients = step()
        theirs.zero_grad()
        loss = torch_lab.clip_loss(theirs, _there(frames), _there(poses), _there(eps), forced, BETA, through_time)
        loss.backward()
        assert float(ours) == pytest.approx(float(loss.detach()), rel=1e-3)
        expected = {name: p.grad.numpy() for name, p in theirs.named_parameters()}
        given = {id(w): g for w, g in zip(model.network.trainable_weights, gradients, strict=True)}
        compared = {name: np.transpose(given[id(variable)], axes)
                    for name, variable, axes in tensors(model.network) if name in expected}
        assert compared.keys() == expected.keys() and len(compared) == len(gradients)
        largest = max(np.abs(gradient).max() for gradient in expected.values())
        for name, gradient in expected.items():
            # Relative to the tensor's own largest; where that vanishes (a bias before a norm), to rounding's size.
            bound = 1e-3 * np.abs(gradient).max() + 1e-6 * largest
            assert np.abs(compared[name] - gradient).max() <= bound, (name, forced)


@torch.no_grad()
def test_running_statistics_move_alike(tmp_path):
    theirs, model = _pair(tmp_path / "a.ckpt", **SMALL)
    theirs.train()
    _, poses, _ = _clip(7, 3, 8)
    model.network.encode_poses(tf.constant(poses), training=True)
    for pose in poses:
        theirs.label_transformation(_there(pose))
    ours, norm = model.network.pose_encoder.norm, theirs.label_transformation[2]
    assert int(norm.num_batches_tracked) == 7
    _assert_close(ours.running_mean, norm.running_mean.numpy(), 1e-5)
    _assert_close(ours.running_variance, norm.running_var.numpy(), 1e-5)


@pytest.mark.slow
def test_ten_adam_steps_have_the_same_losses(tmp_path):
    theirs, model = _pair(tmp_path / "a.ckpt", trained_norm=False, **SMALL)
    theirs.train()
    optimizer = torch.optim.Adam(theirs.parameters(), lr=1e-3)
    model.compile(Adam(1e-3, epsilon=1e-8))
    pairs = []
    model.fix(_clip(4, 2, 8)[2], [False] * 3)
    step = tf.function(model.train_step, autograph=False)
    for k in range(10):
        frames, poses, eps = _clip(4, 2, 8, seed=k)
        forced = [k % 2 == 0] * 3
        model.eps.assign(eps)
        model.forced.assign(forced)
        for mean in model.means.values():
            mean.reset_state()
        clip = {name: tf.constant(x.swapaxes(0, 1)) for name, x in (("frames", frames), ("poses", poses))}
        ours = float(step(clip)["loss"])
        expected = float(torch_lab.train_step(theirs, optimizer, _there(frames), _there(poses), _there(eps), forced,
                                              BETA))
        pairs.append((ours, expected))
    np.testing.assert_allclose(*zip(*pairs, strict=True), rtol=1e-3)
    assert pairs[-1][1] < 0.9 * pairs[0][1]  # it did learn
