"""The multi-scale network: its shapes, how it starts, and its layers by hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import make_model, random_clip

from cvae_tf.lab.network import LabNetwork
from cvae_tf.model import unet
from cvae_tf.model.cvae import CVAE
from cvae_tf.model.unet import UNet
from cvae_tf.studio import scene as studio


def _predict(model, clip):
    """Predictions and KL of a clip, with the draws of the model's current step."""
    frames, poses, context = model.unpack(clip)
    length, batch = frames.shape[0] - 1, frames.shape[1]
    noise = model.draw_noise((length, batch, *model.network.latent_shape(*frames.shape[2:4])))
    chunk = frames[:-1], frames[1:], poses[1:], noise, model.draw_teacher_forcing((length, batch))
    return model.predict_chunk(frames[0], chunk, context)


@pytest.mark.parametrize("network", [
    UNet(width=4, N_dim=3, prior="learned"), LabNetwork(F_dim=16, L_dim=8, N_dim=4, D_out_dim=16)], ids=["unet", "lab"])
def test_every_weight_learns_and_shapes_fit(network):
    model = make_model(network)
    for weight in network.trainable_weights:
        if weight.ndim > 1 and not np.any(weight.numpy()):  # begins at 0: as after some training
            weight.assign(keras.initializers.GlorotUniform()(weight.shape))
    clip = random_clip(time=3, batch=3)
    frames, poses, _ = model.unpack(clip)
    with tf.GradientTape() as tape:
        predictions, kl = _predict(model, clip)
        loss = tf.reduce_mean(tf.square(predictions - frames[1:])) + 0.1 * tf.reduce_mean(kl)
    assert predictions.shape == (2, 3, 16, 32, 3) and kl.shape == (2, 3)
    gradients = tape.gradient(loss, model.trainable_variables)
    assert all(np.any(gradient) for gradient in gradients)
    mean, logvar = network.predict_gaussian(network.gaussian_predictor, frames, network.encode_poses(poses))
    assert mean.shape == logvar.shape == (3, 3, *network.latent_shape(16, 32))


def test_the_network_alone_predicts_one_frame_from_plain_images():
    network = UNet(width=4, N_dim=2)
    frame, pose, context = tf.random.uniform((3, 2, 16, 32, 3))
    assert network(frame, pose, tf.zeros((2, 1, 1, 2)), context).shape == (2, 16, 32, 3)


def test_unet_copies_the_context_frame_where_its_mask_is_closed():
    model = make_model()
    out = model.network.generator.out
    kernel, bias = out.get_weights()
    out.set_weights([kernel, np.array([0, 0, 0, -1e7], np.float32)])
    clip = random_clip()
    predictions, _ = _predict(model, clip)
    np.testing.assert_allclose(predictions, np.broadcast_to(clip["context"][None], predictions.shape), atol=1e-6)


def test_a_fresh_unet_paints_half_of_the_context_frame_and_half_grey():
    clip = random_clip()
    predictions, _ = _predict(CVAE(UNet(width=8, N_dim=2)), clip)
    np.testing.assert_allclose(predictions, np.broadcast_to(0.5 * clip["context"] + 0.25, predictions.shape), atol=1e-6)


@pytest.mark.parametrize("logit", [-3.0, -0.5, 1.0, 7.0])
def test_the_mask_is_a_softsign_of_its_logit_and_the_colours_a_sigmoid(logit):
    generator = UNet(width=4, N_dim=2).generator
    generator.out.bias.assign([0.0, 1.0, -2.0, logit])
    random = np.random.default_rng(0)
    fused = [random.random((1, 2 * 2**k, 4 * 2**k, 12 - 4 * k), np.float32) for k in range(3)]
    context = random.random((1, 16, 32, 3), np.float32)
    frame = generator(fused, tf.zeros((1, 16, 32, 2)), tf.constant(context))
    mask = 0.5 * (1 + logit / (1 + abs(logit)))
    colours = 1 / (1 + np.exp([0.0, -1.0, 2.0]))
    np.testing.assert_allclose(frame, (1 - mask) * context + mask * colours, rtol=1e-5)


@pytest.mark.parametrize("logvar", [-40.0, 40.0])
def test_the_log_variance_stays_within_10(logvar):
    network = UNet(width=4, N_dim=2, prior="learned")
    frames, poses = tf.random.uniform((2, 2, 1, 16, 32, 3))
    features = network.encode_poses(poses)
    for predictor in (network.gaussian_predictor, network.prior_predictor):
        predictor.logvar.bias.assign([logvar, 0.25])
        _, predicted = network.predict_gaussian(predictor, frames, features)
        np.testing.assert_allclose(predicted[..., 0], np.full((2, 1, 1, 1), np.sign(logvar) * 10))
        np.testing.assert_allclose(predicted[..., 1], np.full((2, 1, 1, 1), 0.25))


def test_posterior_and_prior_start_at_the_standard_normal_or_the_posterior_narrow():
    frames, poses = (np.float32(images[::40, None]) / 255 for images in studio.sequence(1, 32, 64, length=200))
    for narrow in (False, True):
        network = UNet(width=16, N_dim=12, prior="learned", narrow_posterior=narrow)
        features = network.encode_poses(poses)
        np.testing.assert_array_equal(network.predict_gaussian(network.prior_predictor, frames, features), 0)
        mean, logvar = network.predict_gaussian(network.gaussian_predictor, frames, features)
        if narrow:
            np.testing.assert_array_equal(logvar, -6)
            assert 0.3 < np.std(mean, axis=0).mean() < 3  # over the frames
        else:
            np.testing.assert_array_equal(mean, 0)
            np.testing.assert_array_equal(logvar, 0)


def test_the_multi_scale_head_adds_each_level_to_the_one_before():
    random = np.random.default_rng(0)
    levels = [random.standard_normal((1, 2 * 2**k, 3 * 2**k, 5 - k)).astype(np.float32) for k in range(3)]
    layer = unet.MultiScaleHead(2, levels=3)
    np.testing.assert_array_equal(layer(levels), np.zeros((1, 16, 24, 2)))
    for head in layer.heads:
        head.set_weights([random.standard_normal(weight.shape) for weight in head.weights])
    found = layer(levels).numpy()
    expected = np.zeros((2, 3, 0), np.float32)
    for head, features in zip(layer.heads, levels, strict=True):
        kernel, bias = head.get_weights()
        height, width = features.shape[1:3]
        below, expected = expected, np.empty((2 * height, 2 * width, 2), np.float32)
        for y in range(2 * height):
            for x in range(2 * width):
                seen = np.concatenate([features[0, y // 2, x // 2], below[y // 2, x // 2]])
                place = 2 * (2 * (y % 2) + x % 2)
                expected[y, x] = (seen @ kernel[0, 0] + bias)[place:place + 2]
    np.testing.assert_allclose(found[0], expected, atol=1e-5)


def test_the_latent_of_the_unet_is_predicted_from_the_maximum_over_the_frame():
    model = make_model(UNet(width=4, N_dim=3, narrow_posterior=True))
    frames, poses, _ = model.unpack(random_clip(size=(32, 64), batch=1))
    features = model.network.encode_poses(poses)
    predictor, encoder = model.network.gaussian_predictor, model.network.frame_encoder
    mean, _ = model.network.predict_gaussian(predictor, frames, features)
    assert mean.shape == (len(frames), 1, 1, 1, 3)
    half, quarter, eighth = encoder(frames[0])
    hidden = tf.nn.leaky_relu(predictor.hidden(tf.concat([eighth, features[0][0]], -1)))
    strongest = [max(level[0, y, x, c] for y in range(level.shape[1]) for x in range(level.shape[2]))
                 for level in (half.numpy(), quarter.numpy(), hidden.numpy()) for c in range(level.shape[-1])]
    kernel, bias = predictor.mean.get_weights()
    np.testing.assert_allclose(mean[0, 0, 0, 0], np.array(strongest) @ kernel[0, 0] + bias, rtol=1e-4, atol=1e-5)


def test_the_latent_scales_each_channel_of_the_unet_by_one_factor_for_the_whole_frame():
    random = np.random.default_rng(0)
    fusion = make_model(UNet(width=2, N_dim=3)).network.decoder_fusion

    def values(*shape):
        return tf.constant(random.standard_normal((1, *shape)), tf.float32)

    features = [values(16, 32, 2), values(8, 16, 4), values(4, 8, 6)]
    conditioning = [values(4, 8, 6), values(8, 16, 4), values(16, 32, 2)]
    z = values(1, 1, 3)
    for gain in fusion.gains:
        gain.set_weights([random.standard_normal(gain.kernel.shape)])
    x = tf.tile(z, (1, 4, 8, 1))
    for level, produced in enumerate(fusion(features, conditioning, z)):
        if level:
            x = fusion.ups[level - 1](x)
        merged = fusion.merges[level](tf.concat([x, features[2 - level]], -1), conditioning[level]).numpy()
        kernel = fusion.gains[level].get_weights()[0][0, 0]
        for c in range(merged.shape[-1]):
            merged[..., c] *= 1 + sum(float(z[0, 0, 0, n]) * kernel[n, c] for n in range(3))
        x = fusion.blocks[level](merged)
        np.testing.assert_allclose(produced, x, rtol=1e-4, atol=1e-5)


def test_a_convolution_of_concatenated_inputs_is_computed_as_a_sum_of_three():
    x, pose, context = (tf.random.stateless_normal((2, 4, 6, 3), [0, k]) for k in range(3))
    layer = unet.ConcatConv(5)
    found = layer(x, layer.pose(pose) + layer.context(context))
    kernel = tf.concat([conv.kernel for conv in (layer.moving, layer.pose, layer.context)], 2)
    together = tf.nn.conv2d(tf.concat([x, pose, context], -1), kernel, 1, "SAME") + layer.moving.bias
    np.testing.assert_allclose(found, tf.nn.leaky_relu(together), rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------------- configurations

def _three_scales(channels):
    """Features at 1/8, 1/4 and 1/2 of 16x32 with as many channels as given for each."""
    return [tf.random.stateless_normal((2, 2 * 2**k, 4 * 2**k, n), [0, k]) for k, n in enumerate(channels)]


LAYERS = {
    "ResidualBlock": (dict(channels=3), lambda layer: layer(_three_scales([3])[0])),
    "Encoder": (dict(width=3), lambda layer: layer(tf.random.stateless_uniform((2, 16, 32, 3), [0, 0]))[-1]),
    "GaussianPredictor": (dict(width=3, latents=5, narrow=True), lambda layer: layer(
        _three_scales([2, 3])[::-1], _three_scales([2, 3])[::-1])[0]),
    "PixelShuffleUp": (dict(channels=3), lambda layer: layer(_three_scales([2])[0])),
    "ConcatConv": (dict(channels=3, shares=(0.2, 0.3, 0.5)), lambda layer: layer(
        _three_scales([2])[0], layer.pose(_three_scales([3])[0]) + layer.context(_three_scales([4])[0]))),
    "DecoderFusion": (dict(width=2), lambda layer: layer(
        _three_scales([6, 4, 2])[::-1], _three_scales([6, 4, 2]), tf.ones((2, 1, 1, 5)))[-1]),
    "MultiScaleHead": (dict(channels=2, levels=2), lambda layer: layer(_three_scales([4, 3]))),
    "Generator": (dict(width=6), lambda layer: layer(
        _three_scales([5, 4, 6]), tf.ones((2, 16, 32, 3)), tf.ones((2, 16, 32, 3)))),
}


def test_every_layer_of_the_unet_is_tried():
    ours = {name for name, value in vars(unet).items()
            if isinstance(value, type) and issubclass(value, keras.Layer) and value.__module__ == unet.__name__}
    assert ours == LAYERS.keys() | {"UNet"}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_made_again_from_its_configuration(name):
    arguments, call = LAYERS[name]
    layer = getattr(unet, name)(**arguments, name="mine", dtype="mixed_bfloat16")
    expected = call(layer)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert type(again) is type(layer) and again.get_config() == layer.get_config()
    assert {key: again.get_config()[key] for key in arguments} == arguments
    call(again)
    assert again.name == "mine" and again.dtype_policy.name == layer.dtype_policy.name
    again.set_weights(layer.get_weights())
    np.testing.assert_array_equal(call(again), expected)


def test_a_network_is_made_again_from_its_configuration():
    settings = dict(width=6, N_dim=3, prior="learned", narrow_posterior=True, dtype="mixed_bfloat16", name="mine")
    network = UNet(**settings)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(network))
    assert again.get_config() == network.get_config()
    assert again.dtype_policy.name == "mixed_bfloat16" and again.name == "mine"
    assert {name: again.get_config()[name] for name in ("width", "N_dim", "prior", "narrow_posterior")} == {
        "width": 6, "N_dim": 3, "prior": "learned", "narrow_posterior": True}
    assert [weight.shape for weight in again.weights] == [weight.shape for weight in network.weights]
    assert again.prior_predictor is not None
    np.testing.assert_array_equal(again.gaussian_predictor.logvar.bias, [-6, -6, -6])
