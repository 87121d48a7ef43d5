"""The multi-scale network: its shapes, how it starts, and its layers by hand."""

import colorsys

import keras
import numpy as np
import pytest
import scipy.ndimage
import tensorflow as tf
from conftest import give_colours, make_model, random_clip

from cvae_tf.data import mirror
from cvae_tf.lab.network import LabNetwork
from cvae_tf.model import unet
from cvae_tf.model.cvae import CVAE
from cvae_tf.model.limb_planes import LimbPlanes
from cvae_tf.model.mirror_average import MirrorAverage
from cvae_tf.model.unet import UNet
from cvae_tf.pose import skeleton
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


# ---------------------------------------------------------------------- limb planes and depth

def test_a_limb_plane_holds_the_saturation_of_the_nearest_hue():
    hues = [[0.0, 340.0]], [[60.0]], [[200.0]]
    drawing = np.ones((1, 8, 8, 3), np.float32)  # white paper
    for (y, x), (degrees, saturation) in {(1, 1): (10, 1), (2, 5): (345, 0.5), (5, 2): (80, 0.25), (7, 7): (150, 1),
                                          (0, 4): (100, 0.75)}.items():
        drawing[0, y, x] = colorsys.hsv_to_rgb(degrees / 360, saturation, 0.9)
    planes = LimbPlanes(hues)(drawing)[0, ..., :3].numpy()
    expected = np.zeros((8, 8, 3))
    expected[1, 1, 0], expected[2, 5, 0], expected[5, 2, 1], expected[7, 7, 2], expected[0, 4, 1] = 4, 2, 1, 4, 3
    np.testing.assert_allclose(planes, expected, atol=1e-5)


def test_limb_planes_of_both_styles_hold_the_same_parts_of_the_body():
    for style in (skeleton.LAB, skeleton.STUDIO):
        hues = skeleton.part_hues(style)
        read = LimbPlanes(hues)
        for limb in style.limbs:
            joints = {limb.start: np.array([[10.0, 8.0]]), limb.end: np.array([[24.0, 20.0]])}
            planes = read(skeleton.draw(joints, 32, 32, skeleton.Style((limb,), 0.03)) / np.float32(255))
            part = skeleton.PARTS[int(tf.argmax(tf.reduce_sum(planes[0, ..., :12], [0, 1])))]
            side, _, joint = limb.end.partition("_")
            assert part.startswith(side) or part in ("spine", "head"), (limb, part)
            if joint == "wrist":
                assert part.endswith("forearm")
            if joint == "ankle":
                assert part.endswith("shank")
            if limb.end == "pelvis":
                assert part == "spine"


@pytest.mark.parametrize("scale", [1, 2])
def test_blurred_planes_are_gaussians_with_the_height_of_a_long_line(scale):
    drawing = np.ones((1, 48, 64, 3), np.float32)
    drawing[:, :, 30:30 + scale] = (1.0, 0.0, 0.0)  # a red line of one pixel in the smaller picture
    planes = LimbPlanes(([[0.0]], [[120.0]], []), scale)(drawing)[0].numpy()
    assert not planes[..., 1::2].any()
    for plane, radius in ((planes[..., 2], 2), (planes[..., 4], 5)):
        blurred = scipy.ndimage.gaussian_filter1d(planes[24, ::1, 0][::scale], radius, mode="constant", truncate=2.0)
        expected = blurred * 4 / blurred.max()
        tolerance = 0.02 if scale == 1 else 0.7  # enlarging again is linear between the pixels
        np.testing.assert_allclose(plane[24, ::scale], expected, atol=tolerance)


@pytest.mark.parametrize("palette", [mirror.LAB, mirror.STUDIO], ids=["lab", "studio"])
def test_mirrored_drawings_have_the_planes_of_the_other_side(palette):
    (_, drawings), = studio.sequences([1], 32, 64, length=8)
    if palette is mirror.LAB:
        random = np.random.default_rng(0)
        names = {name for limb in palette.style.limbs for name in limb[:2]}
        joints = {name: random.uniform(4, 28, (8, 2)) for name in sorted(names)}
        drawings = skeleton.draw(joints, 32, 64, palette.style)
    read = LimbPlanes(skeleton.part_hues(palette.style))
    ours = read(read.mirrored(drawings / np.float32(255))).numpy()
    theirs = read(mirror.mirrored(drawings, palette) / np.float32(255)).numpy()  # rounded to 8 bits
    # A shifted hue of two limbs that blend may be nearest to a third.
    assert np.mean(np.abs(ours - theirs)[..., :12].max(-1) > 0.1) < 0.1 * np.mean(ours[..., :12].max(-1) > 0.1)
    sides = [*range(5, 10), *range(5), 10, 11]
    expected = read(drawings / np.float32(255)).numpy()[:, :, ::-1]
    for blur in range(3):
        np.testing.assert_allclose(ours[..., 12 * blur:12 * blur + 12],
                                   expected[..., 12 * blur:12 * blur + 12][..., sides], atol=1e-4)


def test_a_mirror_average_is_the_mean_of_a_frame_and_of_the_frame_of_the_mirrored_scene():
    (frames, drawings), = studio.sequences([1], 16, 32, length=6)
    frames, poses = (array[:, None] / np.float32(255) for array in (frames, drawings))
    network = UNet(width=4, N_dim=2, limb_hues=skeleton.part_hues(skeleton.STUDIO))
    give_colours(network)
    z = np.random.default_rng(0).normal(size=(1, 1, 1, 2)).astype(np.float32)
    average = MirrorAverage(network)
    context = average.encode_context(frames[0])
    features = average.with_context(average.encode_poses(poses[3:5]), context)
    second = tf.nest.map_structure(lambda x: x[1], features)
    found = average.transition(frames[2], second, z, context)
    flipped = network.pose_encoder.read.mirrored(poses[4])
    scene, mirrored = network(frames[2], poses[4], z, frames[0]), network(
        frames[2][:, :, ::-1], flipped, z, frames[0][:, :, ::-1])
    assert np.abs(scene - mirrored[:, :, ::-1]).max() > 0.01
    np.testing.assert_allclose(found, (scene + mirrored[:, :, ::-1]) / 2, atol=1e-5)
    for ours, theirs in zip(average.predict_gaussian(network.gaussian_predictor, frames[3:5], features),
                            network.predict_gaussian(network.gaussian_predictor, frames[3:5],
                                                     network.encode_poses(poses[3:5])), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("size, depth", [((16, 32), 2), ((32, 64), 3), ((64, 128), 4), ((128, 256), 5), ((72, 128), 4),
                                         ((256, 64), 4), ((8, 8), 2)])
def test_the_coarsest_map_has_about_four_rows(size, depth):
    assert unet.depth_for(*size) == depth


@pytest.mark.parametrize("size", [(24, 40), (72, 56)])
def test_a_deep_unet_takes_any_multiple_of_8(size):
    model = make_model(UNet(width=4, N_dim=2, depth=4))
    clip = random_clip(time=3, size=size)
    predictions, _ = _predict(model, clip)
    assert predictions.shape == (2, 2, *size, 3)
    assert model.network.frame_encoder(clip["context"])[-1].shape[1:3] == (-(-size[0] // 16), -(-size[1] // 16))


# ---------------------------------------------------------------------- configurations

def _three_scales(channels):
    """Features at 1/8, 1/4 and 1/2 of 16x32 with as many channels as given for each."""
    return [tf.random.stateless_normal((2, 2 * 2**k, 4 * 2**k, n), [0, k]) for k, n in enumerate(channels)]


LAYERS = {
    "ResidualBlock": (dict(channels=3), lambda layer: layer(_three_scales([3])[0])),
    "Encoder": (dict(channels=[3, 4, 6], limb_hues=[[[0.0, 30.0]], [[200.0]], []]), lambda layer: layer(
        tf.random.stateless_uniform((2, 16, 32, 3), [0, 0]))[-1]),
    "GaussianPredictor": (dict(width=3, latents=5, narrow=True), lambda layer: layer(
        _three_scales([2, 3])[::-1], _three_scales([2, 3])[::-1])[0]),
    "PixelShuffleUp": (dict(channels=3), lambda layer: layer(_three_scales([2])[0])),
    "ConcatConv": (dict(channels=3, shares=(0.2, 0.3, 0.5)), lambda layer: layer(
        _three_scales([2])[0], layer.pose(_three_scales([3])[0]) + layer.context(_three_scales([4])[0]))),
    "DecoderFusion": (dict(channels=[2, 4, 6]), lambda layer: layer(
        _three_scales([6, 4, 2])[::-1], _three_scales([6, 4, 2]), tf.ones((2, 1, 1, 5)))[-1]),
    "MultiScaleHead": (dict(channels=2, levels=2), lambda layer: layer(_three_scales([4, 3]))),
    "Generator": (dict(width=6, depth=3), lambda layer: layer(
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
    settings = dict(width=6, N_dim=3, prior="learned", narrow_posterior=True, depth=2,
                    limb_hues=(((0.0,),), ((200.0, 210.0),), ()), dtype="mixed_bfloat16", name="mine")
    network = UNet(**settings)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(network))
    assert again.get_config() == network.get_config()
    assert again.dtype_policy.name == "mixed_bfloat16" and again.name == "mine"
    assert {name: again.get_config()[name] for name in settings.keys() - {"dtype"}} == {
        "width": 6, "N_dim": 3, "prior": "learned", "narrow_posterior": True, "depth": 2,
        "limb_hues": (((0.0,),), ((200.0, 210.0),), ()), "name": "mine"}
    assert [weight.shape for weight in again.weights] == [weight.shape for weight in network.weights]
    assert again.prior_predictor is not None
    np.testing.assert_array_equal(again.gaussian_predictor.logvar.bias, [-6, -6, -6])
