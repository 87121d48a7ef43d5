"""The model's own mathematics: loss, gradient, teacher forcing, skipped updates, and free running."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import make_model, random_clip

from cvae_tf.lab.network import LabNetwork
from cvae_tf.model import cvae, losses
from cvae_tf.model.unet import UNet

CHUNK = 4


@pytest.fixture
def short_chunks(monkeypatch):
    """Films made few frames at a time, so that short ones have several chunks."""
    monkeypatch.setattr(cvae, "GENERATION_CHUNK", CHUNK)


def _small_lab():
    return LabNetwork(F_dim=16, L_dim=8, N_dim=4, D_out_dim=16)


def _learned():
    return UNet(width=4, N_dim=2, prior="learned")


def _move_away_from_standard_normal(predictor, stddev=0.1, number=0):
    """Give the last layers, which start at zero, weights: where the KL is 0, it has no gradient."""
    for weight in predictor.mean.weights + predictor.logvar.weights:
        weight.assign(tf.random.stateless_normal(weight.shape, [number, 1], stddev=stddev))


def _tensors(length=5, batch=2, size=(16, 32)):
    """Random frames and poses, as `generate` takes them."""
    return tf.random.stateless_uniform((2, batch, length, *size, 3), [0, 5])


def _chunk(model, frames, poses):
    """All time steps of time-major tensors as one chunk, with the draws of the model's current step."""
    length, batch = frames.shape[0] - 1, frames.shape[1]
    shape = length, batch, *model.network.latent_shape(*frames.shape[2:4])
    return frames[:-1], frames[1:], poses[1:], model.draw_noise(shape), model.draw_teacher_forcing(shape[:2])


# ---------------------------------------------------------------------- loss and gradient

def _reference(model, clip, forced, stop):
    """The lab's training listing, step by step, with the gradient difference: loss, mse, gd, kl and the gradients."""
    frames, poses, context = model.unpack(clip)
    network, beta = model.network, float(model.beta)
    with tf.GradientTape() as tape:
        # The noise of the model's own step, drawn once for all time steps; all else is written out here.
        posterior = model.posterior(network, frames[1:], network.encode_poses(poses[1:]))
        z = posterior.sample(seed=tf.random.fold_in(tf.stack([model.seed, 1]), tf.constant(0)))
        eps = tf.stop_gradient((z - posterior.loc) / posterior.scale)
        generated, mse, gd, kl = frames[0], 0.0, 0.0, 0.0
        for t in range(1, frames.shape[0]):
            fed = frames[t - 1] if forced else (tf.stop_gradient(generated) if stop else generated)
            pose_features = network.encode_poses(poses[t:t + 1])
            joined = network.with_context(pose_features, network.encode_context(context))
            pose = tf.nest.map_structure(lambda x: x[0], joined)
            mean, logvar = (x[0] for x in network.predict_gaussian(network.gaussian_predictor, frames[t:t + 1],
                                                                   pose_features))
            z_t = mean + tf.exp(0.5 * logvar) * eps[t - 1]
            prior_mean, prior_logvar = tf.zeros_like(mean), tf.zeros_like(mean)
            if network.prior_predictor is not None:
                prior_mean, prior_logvar = network.prior_predictor(network.frame_encoder(fed), (pose_features[0][0],))
            generated = network.decode(network.frame_encoder(fed), pose, z_t, network.encode_context(context))
            mse += tf.reduce_mean((generated - frames[t]) ** 2)
            vertical, horizontal = tf.image.image_gradients(generated - frames[t])
            gd += tf.reduce_mean(vertical[:, :-1] ** 2) + tf.reduce_mean(horizontal[:, :, :-1] ** 2)
            kl += 0.5 * tf.reduce_sum(prior_logvar - logvar - 1 + tf.exp(logvar - prior_logvar)
                                      + (mean - prior_mean)**2 * tf.exp(-prior_logvar)) / frames.shape[1]
        loss = mse + model.gdl * gd + beta * kl
    return (loss, mse, gd, kl), tape.gradient(loss, model.trainable_variables)


@pytest.mark.parametrize("forced", [True, False], ids=["forced", "free"])
@pytest.mark.parametrize("through_time, chunk_length, prior", [
    pytest.param(True, 1, "standard", id="through time"), pytest.param(False, 3, "standard", id="chunks of 3"),
    pytest.param(False, 16, "standard", id="stopped", marks=pytest.mark.slow),
    pytest.param(False, 1, "standard", id="chunks of 1", marks=pytest.mark.slow),
    pytest.param(False, 16, "learned", id="learned prior"),
    pytest.param(True, 1, "learned", id="learned prior, through time", marks=pytest.mark.slow)])
def test_loss_and_gradient_equal_the_step_by_step_loop(forced, through_time, chunk_length, prior):
    model = make_model(UNet(width=4, N_dim=2, prior=prior), gradient_through_time=through_time, beta=0.01, gdl=0.3,
                       chunk_length=chunk_length, clip_norm=1e9, teacher_forcing_ratio=float(forced))
    for number, predictor in enumerate((model.network.gaussian_predictor, model.network.prior_predictor)):
        if predictor is not None:
            _move_away_from_standard_normal(predictor, number=number)
    clip = random_clip()
    terms, gradients = _reference(model, clip, forced, stop=not through_time)

    applied = []
    model.optimizer.apply = lambda gradients, variables: applied.extend(gradients)
    logs = model.train_step(clip)
    np.testing.assert_allclose([logs[name] for name in ("loss", "mse", "gd", "kl")], terms, rtol=1e-5)
    np.testing.assert_allclose(logs["grad_norm"], tf.linalg.global_norm(gradients), rtol=1e-4)
    for ours, theirs in zip(applied, gradients, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-6)


def test_the_disturbed_first_inputs_are_drawn_as_often_as_asked():
    clip = random_clip(time=4, batch=8)
    frames, *_ = make_model().unpack(clip)
    first, others = frames[0].numpy(), tf.roll(frames[-1], 1, 0).numpy()
    np.testing.assert_array_equal(make_model(disturbed=0.0).disturb(frames), first)
    model, kinds = make_model(disturbed=0.5), {"true": 0, "inverted": 0, "other": 0, "grey": 0, "noise": 0}
    for step in range(60):
        model.steps.assign(step)
        for k, frame in enumerate(model.disturb(frames).numpy()):
            assert 0 <= frame.min() and frame.max() <= 1
            flat = frame.std() < 1e-6 and frame.mean() * 4 % 1 < 1e-6
            found = [name for name, same in (("true", np.allclose(frame, first[k])), ("grey", flat), (
                "inverted", np.allclose(frame, 1 - first[k])), ("other", np.allclose(frame, others[k]))) if same]
            kinds[found[0] if found else "noise"] += 1
    assert 0.4 < kinds["true"] / 480 < 0.6 and all(30 < kinds[name] < 95 for name in kinds.keys() - {"true"})


def test_a_disturbed_clip_is_trained_towards_the_true_frames():
    model, reference = (make_model(disturbed=share, gdl=0.0, beta=0.0) for share in (1.0, 0.0))
    clip = random_clip(time=2, batch=2)
    frames, poses, context = model.unpack(clip)
    loss = float(model.train_step(clip)["mse"])
    model.steps.assign(0)
    given = model.disturb(frames)
    noise = reference.draw_noise((1, 2, *reference.network.latent_shape(16, 32)))
    chunk = given[None], frames[1:], poses[1:], noise, tf.zeros((1, 2), tf.bool)
    predictions, _ = reference.predict_chunk(given, chunk, context)
    np.testing.assert_allclose(loss, tf.reduce_mean(tf.square(frames[1:] - predictions)), rtol=1e-5)


def test_the_gradient_is_clipped_to_the_global_norm():
    clipped, full = [], []
    for clip_norm, applied in ((1e-3, clipped), (1e9, full)):
        model = make_model(clip_norm=clip_norm)
        model.optimizer.apply = lambda gradients, variables, applied=applied: applied.extend(gradients)
        norm = float(model.train_step(random_clip(time=3))["grad_norm"])
    assert norm == pytest.approx(float(tf.linalg.global_norm(full)), rel=1e-5) and norm > 0.01
    for short, whole in zip(clipped, full, strict=True):
        np.testing.assert_allclose(short, whole * (1e-3 / norm), rtol=1e-4, atol=1e-9)


@pytest.mark.slow
def test_the_gradient_is_the_same_to_the_bit_each_time():
    model = make_model(UNet(width=8, N_dim=2))
    frames, poses, context = model.unpack(random_clip(time=9, batch=3))
    gradient = tf.function(lambda: model._clip_gradient(frames, poses, context, 1.0)[1], autograph=False)
    first = gradient()
    for _ in range(40):  # the order of a sum of three terms once depended on timing, in one call of fifteen
        for one, other in zip(first, gradient(), strict=True):
            np.testing.assert_array_equal(one, other)


def test_gradient_through_time_differs_from_the_stopped_one():
    norms = [float(make_model(gradient_through_time=through_time).train_step(random_clip(time=4))["grad_norm"])
             for through_time in (True, False)]
    assert abs(norms[0] - norms[1]) > 1e-4 * norms[0]


@pytest.mark.parametrize("network", [
    pytest.param(lambda: UNet(width=4, N_dim=2), id="unet"),
    pytest.param(_small_lab, id="lab", marks=pytest.mark.slow)])
def test_free_running_ignores_future_true_frames(network):
    model = make_model(network())
    frames, poses, context = model.unpack(random_clip())
    # The posterior alone may look at the target: keep it from doing so.
    latents = losses.standard_normal((4, 2, *model.network.latent_shape(16, 32)))
    model.posterior = lambda network, frames, pose_features: latents

    def predict(frames, ratio):
        model.teacher_forcing_ratio.assign(ratio)
        return model.predict_chunk(frames[0], _chunk(model, frames, poses), context)[0].numpy()

    other = tf.concat([frames[:1], 1 - frames[1:]], 0)
    free = predict(frames, 0.0)
    np.testing.assert_array_equal(free, predict(other, 0.0))
    assert np.abs(free - predict(other, 1.0)).max() > 1e-5  # and under teacher forcing they do matter


def test_changing_beta_changes_the_loss_without_a_retrace():
    model = make_model()
    _move_away_from_standard_normal(model.network.gaussian_predictor, stddev=1.0)
    traces, unpack = [], model.unpack
    model.unpack = lambda data: traces.append(1) or unpack(data)
    model.optimizer.learning_rate = 0.0
    moved = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: (
        model.beta.assign(epoch), model.teacher_forcing_ratio.assign(1 - epoch / 2)))
    data = tf.data.Dataset.from_tensors(random_clip(time=3)).repeat(3)
    history = model.fit(data, epochs=3, steps_per_epoch=1, verbose=0, callbacks=[moved]).history
    assert history["beta"] == pytest.approx([0, 1, 2]) and history["tfr"] == pytest.approx([1, 0.5, 0])
    for loss, mse, gd, beta, kl in zip(*(history[name] for name in ("loss", "mse", "gd", "beta", "kl")), strict=True):
        assert loss == pytest.approx(mse + model.gdl * gd + beta * kl, rel=1e-5) and kl > 0.1
    assert len(traces) == 1


@pytest.mark.slow
def test_one_batch_can_be_overfitted(footage):
    model = make_model(UNet(width=8, N_dim=2), lr=3e-3, gdl=0.0, clip_norm=1.0)
    clip = {"frames": footage.frames[None, :30:5], "poses": footage.poses[None, :30:5]}
    history = model.fit(tf.data.Dataset.from_tensors(clip).repeat(100), epochs=100, steps_per_epoch=1, verbose=0)
    mse = history.history["mse"]
    assert mse[-1] < 0.1 * mse[0]


@pytest.mark.parametrize("network", [
    pytest.param(lambda: UNet(width=4, N_dim=2), id="unet"),
    pytest.param(_small_lab, id="lab", marks=pytest.mark.slow)])
def test_eager_equals_graph(network):
    logs = []
    for wrap in (lambda f: f, tf.function):
        keras.utils.set_random_seed(1)  # layers draw the seeds of their weights when they are made
        model = make_model(network(), teacher_forcing_ratio=0.5)
        step = wrap(model.train_step)
        for seed in range(2):
            result = step(random_clip(time=3, seed=seed))
        logs.append({name: float(value) for name, value in result.items()})
    assert logs[0] == pytest.approx(logs[1], rel=2e-4)


# ---------------------------------------------------------------------- teacher forcing

@pytest.mark.parametrize("draw", ["batch", "epoch", "frame"])
def test_teacher_forcing_is_drawn_for_each_batch_epoch_or_frame(draw):
    model = make_model(teacher_forcing_draw=draw, teacher_forcing_ratio=0.3)
    mask = tf.function(lambda: model.draw_teacher_forcing((5, 2)))
    draws = []
    for step in range(400):
        model.steps.assign(step)
        model.epoch.assign(step // 4)
        draws.append(mask().numpy())
    draws = np.array(draws)
    assert abs(draws.mean() - 0.3) < 0.1
    if draw != "frame":
        assert np.all(draws == draws[:, :1, :1])
    else:
        assert np.any(draws != draws[:, :1, :1])
    by_epoch = draws.reshape(100, 4, -1)
    assert np.all(by_epoch == by_epoch[:, :1]) == (draw == "epoch")


@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_teacher_forcing_is_never_or_always_at_a_ratio_of_zero_or_one(ratio):
    model = make_model(teacher_forcing_ratio=ratio)
    for step in range(50):
        model.steps.assign(step)
        assert np.all(model.draw_teacher_forcing((5, 2)).numpy() == bool(ratio))


# ---------------------------------------------------------------------- skipped updates

class _Counting(UNet):
    """With a statistic that each forward pass of the training moves, as batch normalisation does."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.statistic = self.add_weight(shape=(), trainable=False, initializer="zeros", name="statistic")

    def encode_poses(self, poses, training=False):
        if training:
            self.statistic.assign_add(tf.reduce_mean(poses))
        return super().encode_poses(poses)


@pytest.mark.parametrize("where, network", [
    pytest.param("frames", lambda: _Counting(width=4, N_dim=2), id="frame-unet"),
    pytest.param("poses", _small_lab, id="pose-lab", marks=pytest.mark.slow)])
def test_a_step_that_is_not_finite_is_skipped_and_counted(where, network):
    model = make_model(network())
    model.compile(keras.optimizers.Adam(keras.optimizers.schedules.PolynomialDecay(1e-3, 10, 0.0)))
    step = tf.function(model.train_step)
    good = random_clip(time=3)
    bad = good | {where: good[where] * np.nan}
    # The network's variables: also the statistics of batch normalisation, which the forward pass had moved.
    kept = [*model.network.variables, *(v for v in model.optimizer.variables if v.name != "iteration")]
    step(good)
    before = [variable.numpy() for variable in kept]
    logs = step(bad)
    for old, variable in zip(before, kept, strict=True):
        np.testing.assert_array_equal(old, variable.numpy())
    assert np.isfinite(float(logs["loss"]))  # the epoch's mean is of the good steps
    step(bad)
    assert int(model.skipped) == 2 and int(model.skipped_in_a_row) == 2 and int(model.steps) == 3
    logs = step(good)
    assert int(model.skipped) == 2 and int(model.skipped_in_a_row) == 0
    assert any(np.any(old != variable.numpy()) for old, variable in zip(before, kept, strict=True))
    # The learning rate goes by the number of steps, and each of the four has moved it on.
    assert int(model.optimizer.iterations) == 4
    np.testing.assert_allclose(logs["lr"], 1e-3 * 0.7, rtol=1e-5)


# ---------------------------------------------------------------------- free running

def test_generation_depends_on_seed_and_temperature_only_through_the_latent(short_chunks):
    model = make_model()
    frames, poses = _tensors(2 * CHUNK + 2)
    generate = tf.function(model.generate)
    one, again = generate(frames[:, 0], poses, tf.constant([0, 1])), generate(frames[:, 0], poses, tf.constant([0, 1]))
    np.testing.assert_array_equal(one, again)
    assert np.abs(generate(frames[:, 0], poses, tf.constant([0, 2])) - one).max() > 0
    cold = generate(frames[:, 0], poses, tf.constant([0, 1]), 0.0)
    np.testing.assert_array_equal(cold, generate(frames[:, 0], poses, tf.constant([5, 6]), 0.0))
    network, frame = model.network, frames[:, 0]
    for t in range(2 * CHUNK + 2):  # with z = 0, a step at a time
        frame = network(frame, poses[:, t], tf.zeros((2, *network.latent_shape(16, 32))), frames[:, 0])
        np.testing.assert_allclose(cold[:, t], np.clip(frame, 0, 1), atol=1e-5)


def test_an_integer_seed_is_the_pair_of_zero_and_itself():
    model = make_model()
    frames, poses = _tensors(3)
    np.testing.assert_array_equal(model.generate(frames[:, 0], poses, 7), model.generate(frames[:, 0], poses, [0, 7]))
    np.testing.assert_array_equal(model.reconstruct(frames, poses, 7)[0], model.reconstruct(frames, poses, [0, 7])[0])


@pytest.mark.parametrize("network", [
    pytest.param(lambda: UNet(width=4, N_dim=2), id="standard"), pytest.param(_learned, id="learned"),
    pytest.param(_small_lab, id="lab", marks=pytest.mark.slow)])
def test_a_film_of_a_batch_is_the_film_that_it_would_be_alone(network, short_chunks):
    model = make_model(network())
    if model.network.prior_predictor is not None:
        _move_away_from_standard_normal(model.network.prior_predictor)
    frames, poses = _tensors(CHUNK + 2, batch=3)
    generate = tf.function(model.generate, reduce_retracing=True)
    together = generate(frames[:, 0], poses, tf.constant([0, 3]))
    reconstructed, kl, _ = model.reconstruct(frames, poses, 3)
    for k in (0, 2):
        alone = generate(frames[k:k + 1, 0], poses[k:k + 1], tf.constant([0, 3]))
        np.testing.assert_allclose(together[k], alone[0], atol=1e-5)
    alone, kl_alone, _ = model.reconstruct(frames[2:], poses[2:], 3)
    np.testing.assert_allclose(reconstructed[2], alone[0], atol=1e-5)
    np.testing.assert_allclose(kl[2], kl_alone[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("network", [
    pytest.param(_learned, id="unet"), pytest.param(_small_lab, id="lab", marks=pytest.mark.slow)])
def test_a_film_in_parts_equals_one_made_at_once(network, short_chunks):
    model = make_model(network())
    continue_film = tf.function(model.continue_film, reduce_retracing=True)
    frames, poses = _tensors(2 * CHUNK + 3)
    first = frames[:, 0]
    expected = tf.function(model.generate)(first, poses, tf.constant([3, 4]), 0.7)
    parts, previous = [], first
    for start in (0, CHUNK, 2 * CHUNK):
        part, previous = continue_film(first, previous, poses[:, start:start + CHUNK], tf.constant([3, 4]), 0.7,
                                       tf.constant(start))
        parts.append(part)
    assert [part.shape[1] for part in parts] == [CHUNK, CHUNK, 3]
    np.testing.assert_allclose(tf.concat(parts, 1), expected, atol=1e-4)
    np.testing.assert_allclose(np.clip(previous, 0, 1), expected[:, -1], atol=1e-4)


def test_a_learned_prior_is_sampled_from_the_frame_before_and_the_pose():
    model = make_model(_learned())
    network = model.network
    _move_away_from_standard_normal(network.prior_predictor, stddev=1.0)
    frames, poses = _tensors(4, batch=1)
    first, shape = frames[:, 0], (cvae.GENERATION_CHUNK, 1, *network.latent_shape(16, 32))
    noise = losses.standard_normal(shape).sample(seed=tf.random.fold_in([0, 7], 0))
    context, frame, expected = network.encode_context(first), first, []
    features = network.encode_poses(tf.transpose(poses, [1, 0, 2, 3, 4]))
    for t in range(4):
        eighth, terms = tf.nest.map_structure(lambda x: x[t], network.with_context(features, context))  # noqa: B023
        mean, logvar = network.prior_predictor(network.frame_encoder(frame), (eighth,))
        frame = network.transition(frame, (eighth, terms), mean + 0.7 * tf.exp(logvar / 2) * noise[t], context)
        expected.append(frame[0])
    film = model.generate(first, poses, [0, 7], 0.7)[0]
    np.testing.assert_allclose(film, np.clip(expected, 0, 1), atol=1e-5)
    cold = model.generate(first, poses, [0, 8], 0.0)
    np.testing.assert_array_equal(cold, model.generate(first, poses, [0, 9], 0.0))
    assert np.abs(cold[0] - film).max() > 1e-3


def test_every_frame_of_a_film_has_noise_of_its_own_and_films_of_a_batch_share_it():
    model, drawn = make_model(), []

    class Recorder:
        prior_predictor = None

        def __getattr__(self, name):
            return getattr(network, name)

        def transition(self, previous, pose_features, z, context):
            drawn.append(z.numpy())
            return previous

    network = model.network
    model.__dict__["network"] = Recorder()
    length = 2 * cvae.GENERATION_CHUNK + 3
    model.generate(tf.zeros((2, 16, 32, 3)), tf.zeros((2, length, 16, 32, 3)), [0, 1], 0.5)
    drawn = np.array(drawn).reshape(length, 2, -1)
    np.testing.assert_array_equal(drawn[:, 0], drawn[:, 1])
    assert len(np.unique(drawn[:, 0].round(6), axis=0)) == length
    assert abs(drawn.mean()) < 0.06 and abs(drawn.std() - 0.5) < 0.06


def test_a_shorter_film_is_the_beginning_of_a_longer_one(short_chunks):
    model = make_model()
    frames, poses = _tensors(CHUNK + 3, batch=1)
    longer = model.generate(frames[:, 0], poses, 1)
    np.testing.assert_allclose(longer[:, :CHUNK + 1], model.generate(frames[:, 0], poses[:, :CHUNK + 1], 1), atol=1e-5)


def test_generated_frames_are_in_range_whatever_the_network_says():
    model = make_model(_small_lab())
    model.network.generator.blocks[-1].bias.assign([5.0, -5.0, 0.5])
    frames, poses = _tensors(3, batch=1)
    for film in (model.generate(frames[:, 0], poses), model.reconstruct(frames, poses)[0]):
        assert np.min(film) == 0 and np.max(film) == 1


def test_reconstruction_sees_the_target_through_the_latent_alone():
    model = make_model()
    _move_away_from_standard_normal(model.network.gaussian_predictor, stddev=1.0)
    frames, poses = _tensors(batch=1)
    film, kl, mean = model.reconstruct(frames, poses)
    assert film.shape == (1, 4, 16, 32, 3) and kl.shape == (1, 4) and mean.shape == (1, 4, 1, 1, 2)
    assert float(tf.reduce_min(kl)) > 0
    changed, *_ = model.reconstruct(tf.concat([frames[:, :-1], 1 - frames[:, -1:]], 1), poses)
    np.testing.assert_array_equal(film[:, :-1], changed[:, :-1])
    assert np.abs(film[:, -1] - changed[:, -1]).max() > 0
