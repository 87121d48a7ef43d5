import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import make_model, random_clip

from cvae_tf.config import Config
from cvae_tf.lab.network import LabNetwork
from cvae_tf.model import losses as elbo
from cvae_tf.model.cvae import STRETCH
from cvae_tf.model.unet import UNet
from cvae_tf.training.callbacks import EpochSchedules


def _small_lab():
    return LabNetwork(F_dim=16, L_dim=8, N_dim=4, D_out_dim=16)


def _last_weights(predictor):
    """Which start at zero, so that the KL has no gradient there."""
    return predictor.mean.weights + predictor.logvar.weights


def _reference(model, clip, forced, stop):
    """The seed's training listing, step by step, with the gradient difference: loss, mse, gd, kl and the gradients."""
    frames, poses, context = clip
    network, beta = model.network, float(model.beta)
    with tf.GradientTape() as tape:
        # The noise of the model's own step, drawn once for all instants; all else is written out here.
        all_mean, all_logvar = network.posterior(frames[1:], network.encode_poses(poses[1:]))
        normal = tf.random.fold_in(tf.stack([model.seed, 1]), tf.constant(0))
        z = model.posterior(frames[1:], network.encode_poses(poses[1:])).sample(seed=normal)
        eps = tf.stop_gradient((z - all_mean) / tf.exp(0.5 * all_logvar))
        generated, mse, gd, kl = frames[0], 0.0, 0.0, 0.0
        for t in range(1, frames.shape[0]):
            fed = frames[t - 1] if forced else (tf.stop_gradient(generated) if stop else generated)
            still = network.with_context(network.encode_poses(poses[t:t + 1]), network.encode_context(context))
            pose = tf.nest.map_structure(lambda x: x[0], still)
            mean, logvar = (x[0] for x in network.posterior(frames[t:t + 1], network.encode_poses(poses[t:t + 1])))
            z_t = mean + tf.exp(0.5 * logvar) * eps[t - 1]
            prior_mean, prior_logvar = tf.zeros_like(mean), tf.zeros_like(mean)
            if network.prior_predictor is not None:
                features = network.frame_encoder(fed), network.encode_poses(poses[t:t + 1])[0]
                prior_mean, prior_logvar = network.prior_predictor(features[0], (features[1][0],))
            generated = network.decode(network.frame_encoder(fed), pose, z_t, network.encode_context(context))
            mse += tf.reduce_mean((generated - frames[t]) ** 2)
            for vertical, horizontal in [tf.image.image_gradients(generated - frames[t])]:
                gd += tf.reduce_mean(vertical[:, :-1] ** 2) + tf.reduce_mean(horizontal[:, :, :-1] ** 2)
            kl += 0.5 * tf.reduce_sum(prior_logvar - logvar - 1 + tf.exp(logvar - prior_logvar)
                                      + (mean - prior_mean)**2 * tf.exp(-prior_logvar)) / frames.shape[1]
        loss = mse + model.gdl * gd + beta * kl
    return loss, mse, gd, kl, tape.gradient(loss, model.trainable_variables)


@pytest.mark.parametrize("forced", [True, False], ids=["forced", "free"])
@pytest.mark.parametrize("through_time, at_once, prior", [
    pytest.param(True, 1, "standard", id="through-time"), pytest.param(False, 16, "standard", id="stopped"),
    pytest.param(False, 3, "standard", id="3 at once"), pytest.param(False, 1, "standard", id="1 at once"),
    pytest.param(False, 16, "learned", id="learned prior"),
    pytest.param(True, 1, "learned", id="learned prior, through-time", marks=pytest.mark.slow)])
def test_loss_and_gradient_equal_the_step_by_step_loop(forced, through_time, at_once, prior):
    model = make_model(UNet(width=4, N_dim=2, prior=prior), gradient_through_time=through_time,
                       instants_at_once=at_once, gdl=0.3)
    predictors = [model.network.gaussian_predictor] + [model.network.prior_predictor] * (prior == "learned")
    for number, predictor in enumerate(predictors):
        for weight in _last_weights(predictor):
            weight.assign(tf.random.stateless_normal(weight.shape, [number, 1], stddev=0.1))
    model.beta.assign(0.01)
    model.teacher_forcing_ratio.assign(float(forced))
    clip = random_clip()
    loss, mse, gd, kl, gradients = _reference(model, clip, forced, stop=not through_time)

    applied = []
    model.optimizer.apply = lambda gradients, variables: applied.extend(gradients)
    model.clip_norm = 1e9
    logs = model.train_step(clip)
    np.testing.assert_allclose([logs[name] for name in ("loss", "mse", "gd", "kl")], [loss, mse, gd, kl], rtol=1e-5)
    np.testing.assert_allclose(logs["grad_norm"], tf.linalg.global_norm(gradients), rtol=1e-4)
    for ours, theirs in zip(applied, gradients, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-6)


def test_the_gradient_is_the_same_to_the_bit_each_time():
    model = make_model(UNet(width=8, N_dim=2), gdl=2.0)
    gradient, clip = tf.function(model.clip_gradient), random_clip(time=9, batch=3)
    *_, first = gradient(*clip)
    for _ in range(80):  # the order of a sum of three terms once depended on timing, in one call of fifteen
        *_, again = gradient(*clip)
        for one, other in zip(first, again, strict=True):
            np.testing.assert_array_equal(one, other)


def test_gradient_through_time_differs_from_the_stopped_one():
    norms = []
    for through_time in (True, False):
        model = make_model(gradient_through_time=through_time)
        norms.append(float(model.train_step(random_clip())["grad_norm"]))
    assert abs(norms[0] - norms[1]) > 1e-4 * norms[0]


@pytest.mark.parametrize("network", [lambda: UNet(width=4, N_dim=2), _small_lab], ids=["unet", "lab"])
def test_free_running_ignores_future_true_frames(network):
    model = make_model(network())
    frames, poses, context = (x.numpy() for x in random_clip())
    model.teacher_forcing_ratio.assign(0.0)
    # The posterior alone may look at the target: keep it from doing so.
    model.posterior = lambda frames, pose_features: elbo.standard_normal((4, 2, *model.network.latent_shape(16, 32)))
    before, _ = model.predict_stretch(frames[0], model.instants(frames, poses), context, training=False)
    frames[1:] = 1 - frames[1:]
    after, _ = model.predict_stretch(frames[0], model.instants(frames, poses), context, training=False)
    np.testing.assert_array_equal(before, after)
    model.teacher_forcing_ratio.assign(1.0)
    forced, _ = model.predict_stretch(frames[0], model.instants(frames, poses), context, training=False)
    assert np.abs(forced - after).max() > 1e-5  # and under teacher forcing they do matter


def test_changing_beta_changes_the_loss_without_a_retrace(footage, tmp_path):
    model = make_model()
    traces = []
    clip_gradient = model.clip_gradient
    model.clip_gradient = lambda *args: traces.append(1) or clip_gradient(*args)
    clip = random_clip()
    data = tf.data.Dataset.from_tensors(clip).repeat(3)
    config = Config(num_epoch=3, kl_anneal_type="Monotonic", kl_anneal_ratio=3.0, tfr=1.0, tfr_sde=1, tfr_d_step=0.5)
    for weight in _last_weights(model.network.gaussian_predictor):
        weight.assign(tf.ones_like(weight))
    model.optimizer.learning_rate = 0.0
    history = model.fit(data, epochs=3, steps_per_epoch=1, verbose=0, shuffle=False,
                        callbacks=[EpochSchedules(config)]).history
    assert history["beta"] == pytest.approx([0, 1, 2])
    assert history["tfr"] == pytest.approx([1, 0.5, 0])
    for loss, mse, beta, kl in zip(*(history[name] for name in ("loss", "mse", "beta", "kl")), strict=True):
        assert loss == pytest.approx(mse + beta * kl, rel=1e-5) and kl > 0.1
    assert len(traces) == 1


def test_one_batch_can_be_overfitted(footage):
    model = make_model(UNet(width=8, N_dim=2), lr=3e-3)
    frames, poses = (np.float32(x[:6, None]) / 255 for x in (footage.frames[::5], footage.poses[::5]))
    step = tf.function(model.train_step)
    losses = []
    for _ in range(150):
        model.reset_metrics()
        losses.append(float(step((frames, poses, frames[0]))["mse"]))
    assert losses[-1] < 0.1 * losses[0]


@pytest.mark.parametrize("network", [
    pytest.param(lambda: UNet(width=4, N_dim=2), id="unet"),
    pytest.param(_small_lab, id="lab", marks=pytest.mark.slow)])
def test_eager_equals_graph(network):
    logs = []
    for wrap in (lambda f: f, tf.function):
        keras.utils.set_random_seed(1)  # layers draw the seeds of their weights when they are made
        model = make_model(network())
        model.teacher_forcing_ratio.assign(0.5)
        step = wrap(model.train_step)
        for seed in range(2):
            result = step(random_clip(time=3, seed=seed))
        logs.append({name: float(value) for name, value in result.items()})
    assert logs[0] == pytest.approx(logs[1], rel=2e-4)


@pytest.mark.parametrize("draw", ["batch", "epoch", "frame"])
def test_teacher_forcing_coin(draw):
    model = make_model(tfr_draw=draw)
    model.teacher_forcing_ratio.assign(0.3)
    draws = []
    for step in range(400):
        model.steps.assign(step)
        model.epoch.assign(step // 4)
        draws.append(model.draw_forcing((5, 2)).numpy())
    draws = np.array(draws)
    assert abs(draws.mean() - 0.3) < 0.1
    if draw != "frame":
        assert np.all(draws == draws[:, :1, :1])
    else:
        assert np.any(draws != draws[:, :1, :1])
    by_epoch = draws.reshape(100, 4, -1)
    assert np.all(by_epoch == by_epoch[:, :1]) == (draw == "epoch")


def test_no_coin_falls_on_the_wrong_side_at_zero_and_one():
    model = make_model()
    for ratio in (0.0, 1.0):
        model.teacher_forcing_ratio.assign(ratio)
        for step in range(50):
            model.steps.assign(step)
            assert np.all(model.draw_forcing((5, 2)).numpy() == bool(ratio))


@pytest.mark.parametrize("where, network", [
    pytest.param(0, lambda: UNet(width=4, N_dim=2), id="frame-unet"),
    pytest.param(1, _small_lab, id="pose-lab", marks=pytest.mark.slow)])
def test_a_step_that_is_not_finite_is_skipped_and_counted(where, network):
    model = make_model(network())
    step = tf.function(model.train_step)
    good, bad = random_clip(), list(random_clip())
    bad[where] = bad[where] * np.nan
    step(good)
    before = [v.numpy() for v in [*model.network.variables, *model.optimizer.variables]]
    logs = step(tuple(bad))
    for old, variable in zip(before, [*model.network.variables, *model.optimizer.variables], strict=True):
        np.testing.assert_array_equal(old, variable.numpy())
    step(tuple(bad))
    assert int(model.skipped) == 2 and int(model.skipped_in_a_row) == 2 and int(model.steps) == 3
    assert np.isfinite(float(logs["loss"]))  # the epoch's mean is of the good steps
    step(good)
    assert int(model.skipped) == 2 and int(model.skipped_in_a_row) == 0


def test_generation_depends_on_seed_and_temperature_only_through_the_latent():
    model = make_model()
    first, poses = tf.random.uniform((2, 16, 32, 3)), tf.random.uniform((2, STRETCH + 6, 16, 32, 3))
    one, again = model.generate(first, poses, [0, 1]), model.generate(first, poses, [0, 1])
    np.testing.assert_array_equal(one, again)
    assert np.abs(model.generate(first, poses, [0, 2]) - one).max() > 0
    cold = model.generate(first, poses, [0, 1], 0.0)
    np.testing.assert_array_equal(cold, model.generate(first, poses, [5, 6], 0.0))
    by_hand = model.run_freely(first, model.network.encode_poses(tf.transpose(poses, [1, 0, 2, 3, 4])),
                               tf.zeros((STRETCH + 6, 2, *model.network.latent_shape(16, 32))))
    np.testing.assert_allclose(cold, tf.transpose(by_hand, [1, 0, 2, 3, 4]), atol=1e-5)


@pytest.mark.parametrize("network", [lambda: UNet(width=4, N_dim=2, prior="learned"), _small_lab], ids=["unet", "lab"])
def test_a_film_in_parts_equals_one_made_at_once(network):
    model = make_model(network())
    generate, continue_film = tf.function(model.generate), tf.function(model.continue_film)
    first, poses = tf.random.uniform((2, 16, 32, 3)), tf.random.uniform((2, 2 * STRETCH + 3, 16, 32, 3))
    expected = generate(first, poses, [3, 4], 0.7)
    parts, before = [], first
    for start in (0, STRETCH, 2 * STRETCH):
        part, before = continue_film(first, before, poses[:, start:start + STRETCH], [3, 4], 0.7, start)
        parts.append(part)
    assert [part.shape[1] for part in parts] == [STRETCH, STRETCH, 3]
    np.testing.assert_allclose(tf.concat(parts, 1), expected, atol=1e-4)


def test_a_learned_prior_is_sampled_from_the_frame_before_and_the_pose():
    model = make_model(UNet(width=4, N_dim=2, prior="learned"))
    network = model.network
    for weight in _last_weights(network.prior_predictor):
        weight.assign(tf.random.stateless_normal(weight.shape, [0, 1]))
    first, poses = tf.random.uniform((1, 16, 32, 3)), tf.random.uniform((4, 1, 16, 32, 3))
    noise = elbo.standard_normal((STRETCH, 1, *network.latent_shape(16, 32))).sample(seed=tf.random.fold_in([0, 7], 0))
    context, frame, expected = network.encode_context(first), first, []
    features = network.encode_poses(poses)
    for t in range(4):
        eighth, parts = tf.nest.map_structure(lambda x: x[t], network.with_context(features, context))  # noqa: B023
        mean, logvar = network.prior_predictor(network.frame_encoder(frame), (eighth,))
        frame = network.transition(frame, (eighth, parts), mean + 0.7 * tf.exp(logvar / 2) * noise[t], context)
        expected.append(frame[0])
    film = model.generate(first, poses[:, 0][None], [0, 7], 0.7)[0]
    np.testing.assert_allclose(film, np.clip(expected, 0, 1), atol=1e-5)
    still = model.generate(first, poses[:, 0][None], [0, 8], 0.0)
    np.testing.assert_array_equal(still, model.generate(first, poses[:, 0][None], [0, 9], 0.0))
    assert np.abs(still[0] - film).max() > 1e-3


def test_every_frame_of_every_film_has_noise_of_its_own():
    model, drawn = make_model(), []
    transition = model.network.transition
    model.network.transition = lambda frame, pose, z, context: (drawn.append(z.numpy()),
                                                                transition(frame, pose, z, context))[1]
    length = 2 * STRETCH + 3
    model.generate(tf.zeros((2, 16, 32, 3)), tf.zeros((2, length, 16, 32, 3)), [0, 1], 0.5)
    drawn = np.array(drawn).reshape(2 * length, -1)
    assert len(np.unique(drawn.round(6), axis=0)) == 2 * length
    assert abs(drawn.mean()) < 0.02 and abs(drawn.std() - 0.5) < 0.02


def test_a_shorter_film_is_the_beginning_of_a_longer_one():
    model = make_model()
    first, poses = tf.random.uniform((1, 16, 32, 3)), tf.random.uniform((1, 9, 16, 32, 3))
    np.testing.assert_allclose(model.generate(first, poses, [0, 1])[:, :4], model.generate(first, poses[:, :4], [0, 1]),
                               atol=1e-5)


def test_generated_frames_are_in_range_whatever_the_network_says():
    model = make_model(_small_lab())
    model.network.generator.blocks[-1].bias.assign([5.0, -5.0, 0.5])
    film = model.generate(tf.zeros((1, 16, 32, 3)), tf.ones((1, 3, 16, 32, 3)), [0, 0]).numpy()
    assert film.min() == 0 and film.max() == 1


def test_reconstruction_sees_the_target_through_the_latent_alone():
    model = make_model()
    for weight in _last_weights(model.network.gaussian_predictor):
        weight.assign(tf.random.stateless_normal(weight.shape, [0, 1]))
    frames, poses = tf.random.uniform((1, 5, 16, 32, 3)), tf.random.uniform((1, 5, 16, 32, 3))
    film, kl, _ = model.reconstruct(frames, poses)
    assert film.shape == (1, 4, 16, 32, 3) and kl.shape == (1, 4) and float(tf.reduce_min(kl)) > 0
    changed, *_ = model.reconstruct(tf.concat([frames[:, :-1], 1 - frames[:, -1:]], 1), poses)
    np.testing.assert_array_equal(film[:, :-1], changed[:, :-1])
    assert np.abs(film[:, -1] - changed[:, -1]).max() > 0
