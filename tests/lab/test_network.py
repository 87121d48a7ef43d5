"""The lab's network: its parameters, its initial weights, and its layers by hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import make_model, random_clip

from cvae_tf.lab import network as lab_network
from cvae_tf.lab.adam import Adam
from cvae_tf.lab.network import DepthConv, LabNetwork, ResidualBlock

SMALL = dict(F_dim=8, L_dim=4, N_dim=4, D_out_dim=8)


@pytest.fixture(scope="module")
def lab():
    return LabNetwork()


def _trainable(layer):
    return sum(int(np.prod(weight.shape)) for weight in layer.trainable_weights)


def test_lab_network_has_the_labs_parameters(lab):
    assert _trainable(lab) == 1_585_620
    parts = {"frame_encoder": 193_568, "pose_encoder": 16_832, "gaussian_predictor": 8_289,
             "decoder_fusion": 617_768, "generator": 749_163}
    assert {name: _trainable(getattr(lab, name)) for name in parts} == parts


def test_lab_convolutions_start_as_in_pytorch(lab):
    # Uniform within 1/sqrt(fan in): kernel and bias of the last 3x3 convolution of the frame encoder, 64 -> 128.
    kernel, bias = (weight.numpy() for weight in lab.frame_encoder.blocks[-1].weights)
    bound = (64 * 9) ** -0.5
    assert 0.99 * bound < np.abs(kernel).max() <= bound and 0.9 * bound < np.abs(bias).max() <= bound
    assert abs(kernel.std() - bound / 3**0.5) < 0.01 * bound
    depthwise = lab.generator.blocks[0].depth_conv.weights[0].numpy()  # each channel has its own 3x3 kernel: fan in 9
    assert 0.99 / 3 < np.abs(depthwise).max() <= 1 / 3


def test_lab_residual_block_by_hand():
    block = ResidualBlock(1, 1)
    x = tf.constant(np.arange(9, dtype=np.float32).reshape(1, 3, 3, 1))
    block.conv1.build((1, 3, 3, 1))
    block.conv2.build((1, 3, 3, 1))
    centre = np.zeros((3, 3, 1, 1), np.float32)
    centre[1, 1] = -1
    block.conv1.set_weights([centre, np.zeros(1)])
    block.conv2.set_weights([-centre, np.ones(1)])
    # x -> leaky(-x) = -0.01 x -> leaky(-0.01 x + 1), plus x
    np.testing.assert_allclose(block(x), x + (1 - 0.01 * x), rtol=1e-6)


def test_lab_depthwise_convolution_keeps_channels_apart():
    block = DepthConv(2, 2)
    x = np.zeros((1, 5, 5, 2), np.float32)
    for layer in (block.conv1, block.depth_conv, block.conv2):
        layer.build(x.shape)
    block.conv1.set_weights([np.eye(2, dtype=np.float32)[None, None], np.zeros(2)])
    block.conv2.set_weights([np.eye(2, dtype=np.float32)[None, None], np.zeros(2)])
    block.depth_conv.set_weights([np.ones((3, 3, 2, 1), np.float32), np.zeros(2)])
    x[0, 2, 2, 0] = 1
    expected = x.copy()
    expected[0, 1:4, 1:4, 0] += 1
    np.testing.assert_allclose(block(tf.constant(x)), expected, rtol=1e-6)


def test_lab_batch_norm_rests_outside_training():
    lab, poses = LabNetwork(**SMALL), np.random.default_rng(0).random((1, 3, 8, 8, 3), np.float32)
    before = [weight.numpy() for weight in lab.non_trainable_weights]
    together = lab.encode_poses(poses)
    alone = lab.encode_poses(poses[:, :1])
    np.testing.assert_allclose(together[:, :1], alone, atol=1e-5)  # neighbours in the batch change nothing
    for old, weight in zip(before, lab.non_trainable_weights, strict=True):
        np.testing.assert_array_equal(old, weight.numpy())
    lab.encode_poses(poses, training=True)
    assert any(np.any(old != weight.numpy()) for old, weight in zip(before, lab.non_trainable_weights, strict=True))


def test_lab_batch_norm_normalises_each_time_step_by_itself():
    network = LabNetwork(**SMALL)
    random = np.random.default_rng(0)
    poses = random.random((2, 3, 8, 8, 3), np.float32)
    other = np.concatenate([poses[:1], random.random((1, 3, 8, 8, 3), np.float32)])
    np.testing.assert_allclose(network.encode_poses(poses, training=True)[0],
                               network.encode_poses(other, training=True)[0], atol=1e-6)


def test_lab_batch_norm_of_the_template_uses_the_batch_outside_training_too():
    network = LabNetwork(**SMALL, batch_norm="train")
    poses = np.random.default_rng(0).random((2, 3, 8, 8, 3), np.float32)
    before = [weight.numpy() for weight in network.non_trainable_weights]
    by_batch = network.encode_poses(poses)
    for old, weight in zip(before, network.non_trainable_weights, strict=True):
        np.testing.assert_array_equal(old, weight.numpy())
    np.testing.assert_allclose(by_batch, network.encode_poses(poses, training=True), atol=1e-6)


# ---------------------------------------------------------------------- configurations

LAYERS = {
    "ResidualBlock": dict(inputs=3, outputs=5), "DepthConv": dict(inputs=3, outputs=5), "ConvFFN": dict(channels=3),
    "FrameEncoder": dict(outputs=8), "BatchNorm": dict(channels=3), "PoseEncoder": dict(outputs=4, batch_norm="train"),
    "GaussianPredictor": dict(inputs=6, latents=4), "DecoderFusion": dict(inputs=16, outputs=8),
    "Generator": dict(inputs=8)}


def test_every_layer_of_the_lab_is_tried():
    ours = {name for name, value in vars(lab_network).items() if isinstance(value, type) and not name.startswith("_")
            and issubclass(value, keras.Layer) and value.__module__ == lab_network.__name__}
    assert ours == LAYERS.keys() | {"LabNetwork"}


@pytest.mark.parametrize("name", LAYERS)
def test_a_lab_layer_is_made_again_from_its_configuration(name):
    layer = getattr(lab_network, name)(**LAYERS[name], name="mine", dtype="mixed_bfloat16")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    config = again.get_config()
    assert type(again) is type(layer) and config == layer.get_config()
    assert {key: config[key] for key in LAYERS[name]} == LAYERS[name]
    assert again.name == "mine" and again.dtype_policy.name == "mixed_bfloat16"


def test_the_lab_network_is_made_again_from_its_configuration():
    settings = dict(F_dim=16, L_dim=8, N_dim=4, D_out_dim=24, batch_norm="train")
    network = LabNetwork(**settings, name="mine")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(network))
    assert {name: again.get_config()[name] for name in settings} == settings
    assert again.pose_encoder.batch_norm == "train" and again.name == "mine"
    assert [weight.shape for weight in again.weights] == [weight.shape for weight in network.weights]
    again.set_weights(network.get_weights())
    frame, pose, z = np.random.default_rng(0).random((3, 1, 8, 8, 3), np.float32)
    z = np.concatenate([z, z[..., :1]], -1)
    np.testing.assert_array_equal(again(frame, pose, z, frame), network(frame, pose, z, frame))


# ---------------------------------------------------------------------- weights by name, number formats, saving

def test_weights_are_known_by_their_place():
    network = LabNetwork(**SMALL)
    weights = network.named_weights()
    assert {id(weight) for weight in weights.values()} == {id(weight) for weight in network.weights}
    assert len(weights) == len(network.weights)
    assert weights["frame_encoder/blocks/0/conv1/kernel"].shape == (3, 3, 3, 1)
    assert weights["pose_encoder/norm/gamma"] is network.pose_encoder.norm.gamma


def test_the_same_seed_gives_the_same_initial_weights():
    def weights():
        keras.utils.set_random_seed(3)
        return LabNetwork(**SMALL).get_weights()

    for one, other in zip(weights(), weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_mixed_precision_computes_in_16_bits_and_paints_in_32():
    network = LabNetwork(**SMALL, dtype="mixed_bfloat16")
    frame = random_clip(size=(8, 16))["context"]
    assert network.frame_encoder(frame).dtype == tf.bfloat16
    assert network.pose_encoder.norm.dtype_policy.name == "float32"
    assert network(frame, frame, tf.zeros((2, 8, 16, 4)), frame).dtype == tf.float32


@pytest.mark.slow
def test_a_saved_model_continues_to_the_same_weights(tmp_path):
    clip = random_clip(time=3, batch=1, size=(8, 16))
    model = make_model(LabNetwork(**SMALL))
    model.compile(Adam(1e-3, epsilon=1e-8))
    model.train_on_batch(clip)
    model.save(tmp_path / "lab.keras")
    again = keras.models.load_model(tmp_path / "lab.keras")
    assert type(again.optimizer) is Adam
    for one in (model, again):
        one.train_on_batch(clip)
    for one, other in zip(model.network.get_weights(), again.network.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
