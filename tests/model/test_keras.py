"""The model as a Keras user meets it: fit, evaluate, predict, save, load, export, and errors."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT, give_colours, make_model, random_clip

from cvae_tf.model.cvae import CVAE
from cvae_tf.model.unet import UNet

FIT_LOGS = {"loss", "mse", "gd", "kl", "grad_norm", "beta", "tfr", "lr", "skipped"}
TEST_LOGS = {"loss", "mse", "gd", "kl", "psnr_prior", "psnr_posterior"}
WIDTH = dict(width=2, N_dim=2)


def _clips(count=3, time=4, size=(8, 16), seed=0):
    """Frames and poses (B, T, H, W, 3), uint8."""
    random = np.random.default_rng(seed)
    return tuple(random.integers(256, size=(count, time, *size, 3), dtype=np.uint8) for _ in range(2))


def _fresh(eager=False, **options):
    """A model with the same weights each time; ``eager`` is faster for a few steps, since no graph is built."""
    keras.utils.set_random_seed(1)
    model = make_model(UNet(**WIDTH), **options)
    model.run_eagerly = eager
    return model


def _batches(frames, poses):
    """The clips in batches of 2, the last of which has 1."""
    for start in range(0, len(frames), 2):
        yield frames[start:start + 2], poses[start:start + 2]


def _as_dict(batch):
    return dict(zip(("frames", "poses"), batch, strict=True))


def _floats(scores):
    return {name: float(value) for name, value in scores.items()}  # Keras 3.13 gives tensors


def _unknown(batches, as_dict=False):
    """A data set that tells Keras neither B, T, H nor W."""
    spec = tf.TensorSpec((None, None, None, None, 3), tf.uint8)
    if as_dict:
        return tf.data.Dataset.from_generator(lambda: map(_as_dict, batches()),
                                              output_signature={"frames": spec, "poses": spec})
    return tf.data.Dataset.from_generator(batches, output_signature=(spec, spec))


# ---------------------------------------------------------------------- data in every form

@pytest.fixture(scope="module")
def expected():
    """What one epoch of `_clips` in ragged batches gives: logs of fit, and weights."""
    model = _fresh()
    logs = model.fit(tf.data.Dataset.from_tensor_slices(_clips()).batch(2), verbose=0).history
    return {name: values[0] for name, values in logs.items()}, model.network.get_weights()


FORMS = {
    "data set of dicts": lambda f, p: dict(x=tf.data.Dataset.from_tensor_slices(_as_dict((f, p))).batch(2)),
    "arrays x and y": lambda f, p: dict(x=f, y=p, batch_size=2, shuffle=False),
    "dict of arrays": lambda f, p: dict(x=_as_dict((f, p)), batch_size=2, shuffle=False),
    "tuple of arrays as x": lambda f, p: dict(x=(f, p), batch_size=2, shuffle=False),
    "generator of tuples": lambda f, p: dict(x=_batches(f, p), steps_per_epoch=2),
    "generator of dicts": lambda f, p: dict(x=(_as_dict(batch) for batch in _batches(f, p)), steps_per_epoch=2),
    "data set of unknown sizes": lambda f, p: dict(x=_unknown(lambda: _batches(f, p)), steps_per_epoch=2),
    "floats": lambda f, p: dict(x=f / np.float32(255), y=p / np.float32(255), batch_size=2, shuffle=False),
    "context is the first frame": lambda f, p: dict(x=_as_dict((f, p)) | {"context": f[:, 0]}, batch_size=2,
                                                    shuffle=False),
}


IN_GRAPHS = ("data set of unknown sizes",)
FAST = (*IN_GRAPHS, "arrays x and y", "generator of dicts", "context is the first frame")


@pytest.mark.parametrize("form", [pytest.param(form, marks=[pytest.mark.slow] * (form not in FAST)) for form in FORMS])
def test_fit_takes_the_same_clips_in_any_form(form, expected):
    logs, weights = expected
    assert logs.keys() == FIT_LOGS
    model = _fresh(eager=form not in IN_GRAPHS)
    history = model.fit(**FORMS[form](*_clips()), verbose=0).history
    assert {name: values[0] for name, values in history.items()} == pytest.approx(logs, rel=1e-4)
    assert int(model.steps) == 2 and int(model.skipped) == 0
    for ours, theirs in zip(model.network.get_weights(), weights, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.slow
def test_another_context_frame_gives_another_loss(expected):
    frames, poses = _clips()
    clips = {"frames": frames, "poses": poses, "context": 255 - frames[:, 0]}
    history = _fresh().fit(clips, batch_size=2, shuffle=False, verbose=0).history
    assert abs(history["mse"][0] - expected[0]["mse"]) > 1e-3


@pytest.mark.slow
def test_clips_of_unknown_length_whose_last_chunk_has_one_step_train_as_known_ones():
    frames, poses = _clips(count=2, time=8)  # 7 steps in chunks of 3: the last has 1
    losses = []
    for data in (tf.data.Dataset.from_tensors((frames, poses)),
                 _unknown(lambda: [(frames, poses), (frames[:, :5], poses[:, :5])], as_dict=True).take(1)):
        model = _fresh(chunk_length=3)
        losses.append(model.fit(data, verbose=0, steps_per_epoch=1).history["loss"][0])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_batch_may_be_trained_and_tested_alone():
    model, (frames, poses) = _fresh(eager=True), _clips()
    assert model.train_on_batch(frames, poses, return_dict=True).keys() == FIT_LOGS
    assert model.test_on_batch(frames, poses, return_dict=True).keys() == TEST_LOGS


def test_evaluate_predict_and_call_give_films_and_scores():
    model, (frames, poses) = _fresh(eager=True), _clips()
    data = tf.data.Dataset.from_tensor_slices({"frames": frames, "poses": poses}).batch(2)
    scores = _floats(model.evaluate(data, verbose=0, return_dict=True))
    assert scores.keys() == TEST_LOGS
    again = _floats(model.evaluate(frames, poses, batch_size=2, verbose=0, return_dict=True))
    assert again == pytest.approx(scores, rel=1e-5)
    film = model.generate(frames[:, 0], poses[:, 1:])
    assert film.shape == (3, 3, 8, 16, 3) and film.dtype == tf.float32
    np.testing.assert_allclose(model.predict(data, verbose=0), film, atol=1e-5)
    np.testing.assert_allclose(model((frames, poses)), film, atol=1e-5)
    np.testing.assert_allclose(model({"frames": frames, "poses": poses}), film, atol=1e-5)


def test_validation_scores_are_those_of_generated_and_reconstructed_films():
    model, (frames, poses) = _fresh(beta=0.5, gdl=0.0), _clips(count=3)
    for weight in (*model.network.gaussian_predictor.mean.weights, *model.network.gaussian_predictor.logvar.weights):
        weight.assign(tf.random.stateless_normal(weight.shape, [0, 1]))
    scores = _floats(model.evaluate(frames, poses, batch_size=2, verbose=0, return_dict=True))
    truth = np.float64(frames[:, 1:]) / 255

    def score(films):
        error = np.mean((np.float64(films) - truth) ** 2, axis=(2, 3, 4))
        return np.mean(-10 * np.log10(error)), error.sum(1).mean()

    reconstruction, kl, _ = model.reconstruct(frames, poses)
    assert scores["psnr_prior"] == pytest.approx(score(model.generate(frames[:, 0], poses[:, 1:]))[0], rel=1e-4)
    psnr, mse = score(reconstruction)
    assert scores["psnr_posterior"] == pytest.approx(psnr, rel=1e-4) and scores["mse"] == pytest.approx(mse, rel=1e-4)
    kl = float(np.sum(kl, 1).mean())
    assert scores["kl"] == pytest.approx(kl, rel=1e-4) and kl > 0.1
    assert scores["loss"] == pytest.approx(mse + 0.5 * kl, rel=1e-4)


def test_fit_with_validation_names_each_metric_once():
    model, clips = _fresh(eager=True), _clips(count=1, time=3)
    history = model.fit(*clips, validation_data=clips, verbose=0).history
    assert history.keys() == FIT_LOGS | {f"val_{name}" for name in TEST_LOGS}
    names = [metric.name for metric in model.metrics]
    assert len(names) == len(set(names)) and model.metrics_names.count("loss") == 1


def test_uint8_and_floats_are_the_same_frames():
    model, (frames, poses) = _fresh(), _clips(count=1)
    np.testing.assert_array_equal(model.generate(frames[:, 0], poses),
                                  model.generate(frames[:, 0] / np.float32(255), poses / np.float32(255)))


# ---------------------------------------------------------------------- configurations, saving, loading

def test_a_model_is_made_again_from_its_configuration():
    settings = dict(beta=0.25, teacher_forcing_ratio=0.5, teacher_forcing_draw="frame", gradient_through_time=True,
                    gdl=0.75, clip_norm=3.0, chunk_length=5, xla=True, seed=9, frame_size=(8, 16))
    model = CVAE(UNet(width=3, N_dim=4, prior="learned"), **settings, name="mine")
    again = CVAE.from_config(json.loads(json.dumps(model.get_config())))
    for found in (model, again):
        config = found.get_config()
        assert {name: tuple(value) if isinstance(value := config[name], list) else value
                for name in settings} == settings
        assert float(found.beta) == 0.25 and float(found.teacher_forcing_ratio) == 0.5 and found.name == "mine"
    assert again.network.get_config() == model.network.get_config() and again.network.prior_predictor is not None


@pytest.mark.slow
def test_a_loaded_model_makes_the_same_films_and_trains_on_to_equal_weights(tmp_path):
    frames, poses = _clips()
    model = CVAE(UNet(**WIDTH, prior="learned"), beta=0.01, teacher_forcing_ratio=0.5, gdl=0.5, seed=3)
    give_colours(model.network)
    model.compile(keras.optimizers.AdamW(keras.optimizers.schedules.CosineDecay(1e-2, 8), weight_decay=0.1))

    def fit(model):
        model.run_eagerly = True
        model.fit(frames, poses, batch_size=1, shuffle=False, verbose=0)

    fit(model)
    model.beta.assign(0.02)
    model.save(tmp_path / "mine.keras")
    loaded = keras.models.load_model(tmp_path / "mine.keras")
    assert type(loaded) is CVAE and int(loaded.steps) == 3 and int(loaded.optimizer.iterations) == 3
    assert float(loaded.beta) == pytest.approx(0.02) and loaded.frame_size == (8, 16)
    np.testing.assert_array_equal(loaded.generate(frames[:, 0], poses), model.generate(frames[:, 0], poses))
    fit(model)
    fit(loaded)
    assert len(loaded.optimizer.variables) == len(model.optimizer.variables)
    for ours, theirs in zip(loaded.variables + loaded.optimizer.variables,
                            model.variables + model.optimizer.variables, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.slow
def test_an_exported_model_makes_the_same_films_without_this_package(tmp_path):
    frames, poses = _clips(count=2)
    model = _fresh()
    model.train_on_batch(frames, poses)
    model.export(tmp_path / "model")
    exported = tf.saved_model.load(tmp_path / "model")
    floats = [tf.constant(array / np.float32(255)) for array in (frames[:, 0], poses)]
    for name in ("generate", "serving_default"):
        film = exported.signatures[name](first_frame=floats[0], poses=floats[1], seed=tf.constant([0, 5]),
                                         temperature=tf.constant(0.7))["frames"]
        np.testing.assert_allclose(film, model.generate(*floats, 5, 0.7), atol=1e-5)
    film = exported.signatures["reconstruct"](frames=floats[1], poses=floats[1])
    for name, ours in zip(("frames", "kl", "mean"), model.reconstruct(floats[1], floats[1]), strict=True):
        np.testing.assert_allclose(film[name], ours, atol=1e-5)
    about = json.loads((tmp_path / "model" / "model.json").read_text())
    assert about["frame_size"] == [8, 16]
    network = about["model"]["network"]
    assert network["class_name"] == "UNet" and network["config"]["width"] == 2
    again = CVAE.from_config(about["model"])
    assert [weight.shape for weight in again.network.weights] == [weight.shape for weight in model.network.weights]


def test_a_model_that_saw_no_frames_needs_a_size_to_be_exported(tmp_path):
    with pytest.raises(ValueError, match=r"frame_size.*expected.*received"):
        _fresh().export(tmp_path / "model")
    with pytest.raises(ValueError, match=r"size.*8 .*received 12x16"):
        _fresh().export(tmp_path / "model", frame_size=(12, 16))
    assert not (tmp_path / "model").exists()


# ---------------------------------------------------------------------- errors

def _bad(**changes):
    return {name: np.asarray(value) for name, value in random_clip(time=3, size=(8, 16)).items()} | changes


CLIP = _bad()
BAD = {
    "time and batch joined": (dict(frames=CLIP["frames"][0], poses=CLIP["poses"]),
                              r"frames .*shape; expected \(batch, time, height, width, 3\), received \(3, 8, 16, 3\)"),
    "four channels": (dict(frames=CLIP["frames"], poses=np.zeros((2, 3, 8, 16, 4), np.float32)),
                      r"poses .*expected .*3\), received \(2, 3, 8, 16, 4\)"),
    "channels first": (dict(frames=np.moveaxis(CLIP["frames"], -1, 2), poses=CLIP["poses"]),
                       r"frames .*received \(2, 3, 3, 8, 16\)"),
    "other length of poses": (dict(frames=CLIP["frames"], poses=CLIP["poses"][:, :2]),
                              r"poses .*expected \(2, 3, 8, 16, 3\).*received \(2, 2, 8, 16, 3\)"),
    "other size of context": (_bad(context=np.zeros((2, 16, 16, 3), np.float32)),
                              r"context .*expected \(2, 8, 16, 3\).*received \(2, 16, 16, 3\)"),
    "one frame": (dict(frames=CLIP["frames"][:, :1], poses=CLIP["poses"][:, :1]),
                  r"frames .*expected at least 2.*received 1"),
    "size that 8 does not divide": ({name: np.zeros((1, 2, 12, 16, 3), np.uint8) for name in ("frames", "poses")},
                                    r"frames .*size.*expected.* 8 .*received 12x16"),
    "integers": (dict(frames=np.int32(CLIP["frames"]), poses=CLIP["poses"]),
                 r"frames .*expected uint8.*received int32"),
    "floats from 0 to 255": (dict(frames=CLIP["frames"], poses=255 * CLIP["poses"]),
                             r"poses .*range; expected uint8, or floats in \[0, 1\], received"),
    "negative floats": (dict(frames=CLIP["frames"] - 0.5, poses=CLIP["poses"]),
                        r"frames .*range; expected .*\[0, 1\], received"),
    "a key is missing": (dict(frames=CLIP["frames"]), r"keys; expected 'frames', 'poses'.*received 'frames'"),
    "a key is unknown": (_bad(pose=CLIP["poses"]), r"keys; expected .*received .*'pose'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_clips_are_refused_with_the_part_expected_and_received(case):
    data, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        _MODEL.unpack(data)
    assert int(_MODEL.steps) == 0


_MODEL = CVAE(UNet(**WIDTH))


@pytest.mark.parametrize("case, eager", [
    pytest.param("floats from 0 to 255", False, marks=pytest.mark.slow), ("negative floats", True),
    ("other length of poses", True), ("a key is missing", False)])
def test_fit_evaluate_and_predict_refuse_bad_clips_too(case, eager):
    data, message = BAD[case]
    model = _fresh(eager)
    before = model.network.get_weights()
    for call in (model.fit, model.evaluate, model.predict):
        with pytest.raises(ValueError, match=message):
            call(tf.data.Dataset.from_tensors(data), verbose=0)
    for old, weight in zip(before, model.network.get_weights(), strict=True):
        np.testing.assert_array_equal(old, weight)


def test_floats_out_of_range_are_refused_by_a_graph_too():
    data, message = BAD["floats from 0 to 255"]
    with pytest.raises(ValueError, match=message):
        _fresh().predict(tf.data.Dataset.from_tensors(data), verbose=0)


def test_a_weight_for_each_clip_is_refused():
    frames, poses = _clips(count=1, time=2)
    with pytest.raises(ValueError, match=r"expected \(frames, poses\).*received a tuple of 3"):
        _fresh().fit(tf.data.Dataset.from_tensors((frames, poses, np.ones(1, np.float32))), verbose=0)


def test_generate_refuses_poses_that_do_not_fit_the_first_frame():
    frames, poses = _clips(count=1)
    for first, theirs, message in (
            (frames[:, 0], poses[:, :, :, :8], r"poses .*expected \(1, 8, 16, 3\).*received \(1, 4, 8, 8, 3\)"),
            (frames, poses, r"first frame .*expected \(batch, height, width, 3\), received \(1, 4, 8, 16, 3\)"),
            (frames[:, 0], np.float32(poses), r"poses .*expected .*\[0, 1\], received")):
        with pytest.raises(ValueError, match=message):
            _MODEL.generate(first, theirs)


def test_compile_refuses_a_loss_or_metrics():
    for name in ("loss", "metrics"):
        with pytest.raises(ValueError, match=r"expected no loss and no metrics"):
            _fresh().compile("adam", **{name: ["mse"] if name == "metrics" else "mse"})


# ---------------------------------------------------------------------- several replicas

REPLICAS = """
import json, sys
import keras, numpy as np, tensorflow as tf
tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0],
                                           [tf.config.LogicalDeviceConfiguration()] * 2)
from conftest import give_colours
from cvae_tf.model.cvae import CVAE
from cvae_tf.model.unet import UNet

random = np.random.default_rng(0)
frames, poses = random.random((2, 16, 4, 8, 16, 3), np.float32)
frames[8:12] *= np.nan if sys.argv[1] == "nan" else 1
found = []
for strategy in (tf.distribute.get_strategy(), tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])):
    with strategy.scope():
        keras.utils.set_random_seed(0)
        # Each replica would disturb clips by draws of its own.
        model = CVAE(UNet(width=2, N_dim=2), beta=1e-4, clip_norm=0.05, disturbed=0.0)
        give_colours(model.network)
        model.draw_noise = lambda shape: tf.zeros(shape)
        model.compile(keras.optimizers.AdamW(1e-2))
    losses = []
    class Losses(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs):
            losses.append(float(logs["loss"]))
            self.model.reset_metrics()
    model.fit(tf.data.Dataset.from_tensor_slices((frames, poses)).batch(4), verbose=0, callbacks=[Losses()])
    read = lambda variable: variable.value.read_value().numpy().tolist()
    found.append(dict(losses=losses, skipped=read(model.skipped), iterations=read(model.optimizer.iterations),
                      steps=read(model.steps), kernel=read(model.network.frame_encoder.downs[0].kernel)))
print(json.dumps(found))
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["finite", "nan"])
def test_two_replicas_train_as_one_device(kind, tmp_path):
    (tmp_path / "replicas.py").write_text(REPLICAS)
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    ended = subprocess.run([sys.executable, tmp_path / "replicas.py", kind], env=environment, capture_output=True,
                           text=True, timeout=600)
    assert ended.returncode == 0, ended.stderr[-3000:]
    one, two = json.loads(ended.stdout.splitlines()[-1])
    assert one["steps"] == two["steps"] == one["iterations"] == two["iterations"] == 4
    assert one["skipped"] == two["skipped"] == int(kind == "nan")
    np.testing.assert_allclose(two["losses"], one["losses"], rtol=1e-3)
    np.testing.assert_allclose(two["kernel"], one["kernel"], atol=1e-4)
