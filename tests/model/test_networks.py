import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import make_model, random_clip

from cvae_tf.lab.network import DepthConv, LabNetwork, ResidualBlock
from cvae_tf.model.cvae import CVAE
from cvae_tf.model.unet import Sketch, UNet
from cvae_tf.studio import scene as studio


@pytest.fixture(scope="module")
def lab():
    network = LabNetwork()
    network.build((32, 64, 3))
    return network


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
    block(x)
    centre = np.zeros((3, 3, 1, 1), np.float32)
    centre[1, 1] = -1
    block.conv1.set_weights([centre, np.zeros(1)])
    block.conv2.set_weights([-centre, np.ones(1)])
    # x -> leaky(-x) = -0.01 x -> leaky(-0.01 x + 1), plus x
    np.testing.assert_allclose(block(x), x + (1 - 0.01 * x), rtol=1e-6)


def test_lab_depthwise_convolution_keeps_channels_apart():
    block = DepthConv(2, 2)
    x = np.zeros((1, 5, 5, 2), np.float32)
    block(x)
    block.conv1.set_weights([np.eye(2, dtype=np.float32)[None, None], np.zeros(2)])
    block.conv2.set_weights([np.eye(2, dtype=np.float32)[None, None], np.zeros(2)])
    block.depth_conv.set_weights([np.ones((3, 3, 2, 1), np.float32), np.zeros(2)])
    x[0, 2, 2, 0] = 1
    expected = x.copy()
    expected[0, 1:4, 1:4, 0] += 1
    np.testing.assert_allclose(block(tf.constant(x)), expected, rtol=1e-6)


def test_lab_batch_norm_rests_outside_training(lab):
    poses = np.random.default_rng(0).random((1, 3, 8, 8, 3), np.float32)
    before = [weight.numpy() for weight in lab.non_trainable_weights]
    together = lab.encode_poses(poses)
    alone = lab.encode_poses(poses[:, :1])
    np.testing.assert_allclose(together[:, :1], alone, atol=1e-5)  # neighbours in the batch change nothing
    for old, weight in zip(before, lab.non_trainable_weights, strict=True):
        np.testing.assert_array_equal(old, weight.numpy())
    lab.encode_poses(poses, training=True)
    assert any(np.any(old != weight.numpy()) for old, weight in zip(before, lab.non_trainable_weights, strict=True))


def test_lab_batch_norm_normalises_each_instant_by_itself():
    network = LabNetwork(F_dim=8, L_dim=4, N_dim=4, D_out_dim=8)
    network.build((8, 8, 3))
    random = np.random.default_rng(0)
    poses = random.random((2, 3, 8, 8, 3), np.float32)
    other = np.concatenate([poses[:1], random.random((1, 3, 8, 8, 3), np.float32)])
    np.testing.assert_allclose(network.encode_poses(poses, training=True)[0],
                               network.encode_poses(other, training=True)[0], atol=1e-6)


@pytest.mark.parametrize("network", [UNet(width=4, N_dim=3), LabNetwork(F_dim=16, L_dim=8, N_dim=4, D_out_dim=16)],
                         ids=["unet", "lab"])
def test_every_weight_learns_and_shapes_fit(network):
    model = make_model(network)
    for weight in network.trainable_weights:
        if weight.ndim > 1 and not np.any(weight.numpy()):  # begins at 0: as after some training
            weight.assign(keras.initializers.GlorotUniform()(weight.shape))
    frames, poses, context = random_clip(time=3, batch=3)
    with tf.GradientTape() as tape:
        predictions, kl = model.predict_stretch(frames[0], model.instants(frames, poses), context)
        loss = tf.reduce_mean(tf.square(predictions - frames[1:])) + 0.1 * tf.reduce_mean(kl)
    assert predictions.shape == (2, 3, 16, 32, 3) and kl.shape == (2, 3)
    gradients = tape.gradient(loss, model.trainable_variables)
    assert all(np.any(gradient) for gradient in gradients)
    mean, logvar = network.posterior(frames, network.encode_poses(poses))
    assert mean.shape == logvar.shape == (3, 3, *network.latent_shape(16, 32))


def test_unet_copies_the_context_frame_where_its_mask_is_closed():
    model = make_model(UNet(width=4, N_dim=2))
    out = model.network.generator.out
    kernel, bias = out.get_weights()
    out.set_weights([kernel, np.array([0, 0, 0, -1e7], np.float32)])
    frames, poses, context = random_clip()
    predictions, _ = model.predict_stretch(frames[0], model.instants(frames, poses), context)
    np.testing.assert_allclose(predictions, np.broadcast_to(context[None], predictions.shape), atol=1e-6)


def test_a_fresh_unet_paints_half_of_the_context_frame_and_half_grey():
    network = UNet(width=8, N_dim=2)
    network.build((16, 32, 3))
    frames, poses, context = random_clip()
    predictions, _ = CVAE(network).predict_stretch(frames[0], CVAE(network).instants(frames, poses), context)
    np.testing.assert_allclose(predictions, np.broadcast_to(0.5 * context + 0.25, predictions.shape), atol=1e-6)


def test_posterior_and_prior_start_at_the_standard_normal_or_the_posterior_narrow():
    frames, poses = (np.float32(images[::40, None]) / 255 for images in studio.sequence(1, 32, 64, length=200))
    for narrow in (False, True):
        network = UNet(width=16, N_dim=12, prior="learned", narrow_posterior=narrow)
        network.build((32, 64, 3))
        features = network.encode_poses(poses)
        np.testing.assert_array_equal(network.prior(frames, features), 0)
        mean, logvar = network.posterior(frames, features)
        if narrow:
            np.testing.assert_array_equal(logvar, -6)
            assert 0.3 < np.std(mean, axis=0).mean() < 3  # over the frames
        else:
            np.testing.assert_array_equal(mean, 0)
            np.testing.assert_array_equal(logvar, 0)


def test_the_sketch_puts_each_level_over_the_one_before():
    random = np.random.default_rng(0)
    levels = [random.standard_normal((1, 2 * 2**k, 3 * 2**k, 5 - k)).astype(np.float32) for k in range(3)]
    sketch = Sketch(2, levels=3)
    np.testing.assert_array_equal(sketch(levels), np.zeros((1, 16, 24, 2)))
    for head in sketch.heads:
        head.set_weights([random.standard_normal(weight.shape) for weight in head.weights])
    drawn = sketch(levels).numpy()
    expected = np.zeros((2, 3, 0), np.float32)
    for head, features in zip(sketch.heads, levels, strict=True):
        kernel, bias = head.get_weights()
        height, width = features.shape[1:3]
        below, expected = expected, np.empty((2 * height, 2 * width, 2), np.float32)
        for y in range(2 * height):
            for x in range(2 * width):
                seen = np.concatenate([features[0, y // 2, x // 2], below[y // 2, x // 2]])
                place = 2 * (2 * (y % 2) + x % 2)
                expected[y, x] = (seen @ kernel[0, 0] + bias)[place:place + 2]
    np.testing.assert_allclose(drawn[0], expected, atol=1e-5)


def test_the_latent_of_the_unet_is_predicted_from_the_maximum_over_the_frame():
    model = make_model(UNet(width=4, N_dim=3, narrow_posterior=True), size=(32, 64))
    frames, poses, _ = random_clip(size=(32, 64), batch=1)
    features = model.network.encode_poses(poses)
    mean, _ = model.network.posterior(frames, features)
    assert mean.shape == (len(frames), 1, 1, 1, 3)
    predictor, encoder = model.network.gaussian_predictor, model.network.frame_encoder
    half, quarter, eighth = encoder(frames[0])
    hidden = tf.nn.leaky_relu(predictor.hidden(tf.concat([eighth, features[0][0]], -1)))
    strongest = [max(level[0, y, x, c] for y in range(level.shape[1]) for x in range(level.shape[2]))
                 for level in (half.numpy(), quarter.numpy(), hidden.numpy()) for c in range(level.shape[-1])]
    kernel, bias = predictor.mean.get_weights()
    np.testing.assert_allclose(mean[0, 0, 0, 0], np.array(strongest) @ kernel[0, 0] + bias, rtol=1e-4, atol=1e-5)


def test_the_latent_scales_each_channel_of_the_unet_by_one_factor_for_the_whole_frame():
    random = np.random.default_rng(0)
    fusion = make_model(UNet(width=2, N_dim=3), size=(32, 64)).network.decoder_fusion

    def values(*shape):
        return tf.constant(random.standard_normal((1, *shape)), tf.float32)

    features = [values(16, 32, 2), values(8, 16, 4), values(4, 8, 6)]
    still = [values(4, 8, 6), values(8, 16, 4), values(16, 32, 2)]
    z = values(1, 1, 3)
    for gain in fusion.gains:
        gain.set_weights([random.standard_normal(gain.kernel.shape)])
    x = tf.tile(z, (1, 4, 8, 1))
    for level, produced in enumerate(fusion(features, still, z)):
        if level:
            x = fusion.ups[level - 1](x)
        merged = fusion.merges[level](tf.concat([x, features[2 - level]], -1), still[level]).numpy()
        kernel = fusion.gains[level].get_weights()[0][0, 0]
        for c in range(merged.shape[-1]):
            merged[..., c] *= 1 + sum(float(z[0, 0, 0, n]) * kernel[n, c] for n in range(3))
        x = fusion.blocks[level](merged)
        np.testing.assert_allclose(produced, x, rtol=1e-4, atol=1e-5)
