"""Exported models equal the model in memory, run anywhere, and give their weights back by name."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT

from cvae_tf.config import Config
from cvae_tf.errors import InputError
from cvae_tf.inference import exported_model
from cvae_tf.inference.export import load_weights, save_model
from cvae_tf.inference.exported_model import (
    ExportedModel,
    newest_model,
    owner_of,
    use_one_thread_if_light,
    write_owner,
)
from cvae_tf.lab.network import LabNetwork
from cvae_tf.model.cvae import CVAE
from cvae_tf.model.unet import UNet

CONFIG = Config(frame_H=16, frame_W=32, width=4, N_dim=2)


def _lively(network):
    """A model whose frames depend on everything: a new unet's ignore poses, earlier frames and z."""
    random = np.random.default_rng(0)
    for weight in network.named_weights().values():
        if np.ptp(weight) == 0:  # zeros or ones
            weight.assign(weight + np.abs(random.normal(0, 0.1, weight.shape)))
    return CVAE(network)


@pytest.fixture(scope="module")
def unet(tmp_path_factory):
    """A model and the folder that it was exported to."""
    model, path = _lively(UNet(width=4, N_dim=2)), tmp_path_factory.mktemp("saved") / "unet"
    save_model(model, path, CONFIG)
    return model, path


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    model = _lively(LabNetwork(F_dim=16, L_dim=8, N_dim=4, D_out_dim=16))
    path = tmp_path_factory.mktemp("saved") / "lab"
    model.export(path, frame_size=(16, 32))
    return model, path


@pytest.fixture(scope="module", params=["unet", pytest.param("lab", marks=pytest.mark.slow)])
def exported(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def loaded(unet):
    return ExportedModel(unet[1])


def _input(batch=2, time=5):
    random = np.random.default_rng(0)
    return random.random((batch, 16, 32, 3), np.float32), random.random((batch, time, 16, 32, 3), np.float32)


# ---------------------------------------------------------------------- the SavedModel

def test_exported_model_equals_the_one_in_memory(exported):
    model, path = exported
    signatures = tf.saved_model.load(str(path)).signatures
    for batch, time in ((2, 5), (1, 3)):  # B and T are free
        first, poses = (tf.constant(x) for x in _input(batch, time))
        inputs = dict(first_frame=first, poses=poses, seed=tf.constant([3, 4]), temperature=tf.constant(0.7))
        expected = model.generate(first, poses, [3, 4], 0.7)
        for name in ("generate", "serving_default"):
            film = signatures[name](**inputs)["frames"]
            assert film.shape == (batch, time, 16, 32, 3) and film.dtype == tf.float32
            np.testing.assert_allclose(film, expected, atol=1e-5)
    frames = tf.concat([first[:, None], poses[:, 1:]], 1)
    rebuilt = signatures["reconstruct"](frames=frames, poses=poses)
    expected, kl, mean = model.reconstruct(frames, poses)
    np.testing.assert_allclose(rebuilt["frames"], expected, atol=1e-5)
    np.testing.assert_allclose(rebuilt["kl"], kl, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(rebuilt["mean"], mean, atol=1e-5)
    assert mean.shape == (batch, time - 1, *model.network.latent_shape(16, 32))


@pytest.mark.slow
def test_exported_model_runs_without_this_project(unet, tmp_path):
    code = f"""
import sys, tensorflow as tf
model = tf.saved_model.load({str(unet[1])!r})
film = model.signatures["generate"](first_frame=tf.zeros((1, 16, 32, 3)), poses=tf.ones((1, 4, 16, 32, 3)),
                                    seed=tf.constant([0, 0]), temperature=tf.constant(1.0))["frames"]
assert film.shape == (1, 4, 16, 32, 3)
assert not any(name.startswith("cvae_tf") for name in sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)


class _Stub:
    """Stands for a model: exporting it takes no time."""

    def __init__(self, network):
        self.network = network

    def export(self, path, frame_size=None):
        path.mkdir()
        (path / "saved_model.pb").write_text(repr(frame_size))


def test_saving_replaces_an_older_model_whole(tmp_path):
    target = tmp_path / "model"
    target.mkdir()
    (target / "stray").write_text("old")
    stub = _Stub(UNet(width=4, N_dim=2))
    save_model(stub, target, CONFIG)
    assert {path.name for path in target.iterdir()} == {"saved_model.pb", "config.json", "checksums.txt"}
    assert (target / "config.json").read_text() == CONFIG.to_json()
    assert (target / "saved_model.pb").read_text() == "(16, 32)"
    save_model(stub, target)
    assert {path.name for path in target.iterdir()} == {"saved_model.pb", "checksums.txt"}
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("settings, message", [
    (dict(width=8), "width 4, received width 8"), (dict(N_dim=3), "N_dim"), (dict(prior="learned"), "prior"),
    (dict(network="lab", N_dim=4), "received network 'lab'"),
])
def test_a_configuration_of_another_network_is_refused(settings, message, tmp_path):
    network = UNet(width=4, N_dim=settings.get("N_dim", 2) if "network" in settings else 2)
    config = Config(**{"width": 4, "N_dim": 2, **settings})
    with pytest.raises(InputError, match=message):
        save_model(_Stub(network), tmp_path / "model", config)
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------- weights by name

def _copy(path, target, edit):
    """Copy an exported model with other weights; ``edit`` changes the dict name -> array."""
    reader = tf.train.load_checkpoint(str(path / "variables" / "variables"))
    weights = {key: reader.get_tensor(key) for key in reader.get_variable_to_shape_map() if key.startswith("weights/")}
    module = tf.Module()
    module.weights = {name: tf.Variable(value) for name, value in edit(
        {key.split("/")[1].replace(".S", "/"): value for key, value in weights.items()}).items()}
    tf.saved_model.save(module, str(target))
    return target


def test_weights_come_back(exported):
    model, path = exported
    weights = model.network.named_weights()
    saved = {name: weight.numpy() for name, weight in weights.items()}
    for weight in weights.values():
        weight.assign(weight + 1)
    load_weights(model.network, path)
    for name, weight in weights.items():
        np.testing.assert_array_equal(weight, saved[name], err_msg=name)


class Swapped(UNet):
    """A unet whose constructor makes two layers of equal weights in the other order."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.frame_encoder, self.pose_encoder = self.pose_encoder, self.frame_encoder


def test_the_order_in_which_layers_are_made_does_not_matter(unet):
    model, path = unet
    network = Swapped(width=4, N_dim=2)
    order = [weight.shape for weight in network.weights]
    assert order == [weight.shape for weight in model.network.weights]  # by position, the weights would fit
    load_weights(network, path)
    saved = model.network.named_weights()
    for name, weight in network.named_weights().items():
        np.testing.assert_array_equal(weight, saved[name], err_msg=name)
    first = next(name for name in saved if name.startswith("frame_encoder") and name.endswith("kernel"))
    assert np.abs(saved[first] - saved[first.replace("frame", "pose")]).max() > 0


@pytest.mark.parametrize("edit, message", [
    (lambda weights: {name: value for name, value in weights.items() if name != "generator/out/bias"},
     "generator/out/bias"),
    (lambda weights: weights | {"generator/more/bias": np.zeros(3, np.float32)}, "generator/more/bias"),
    (lambda weights: weights | {"generator/out/bias": np.zeros(5, np.float32)}, "generator/out/bias has the shape"),
    (lambda weights: {str(i): value for i, value in enumerate(weights.values())}, "earlier version"),
])
def test_other_weights_are_refused_and_none_is_loaded(edit, message, unet, tmp_path):
    path = _copy(unet[1], tmp_path / "other", edit)
    network = UNet(width=4, N_dim=2)
    before = network.get_weights()
    with pytest.raises(InputError, match=message):
        load_weights(network, path)
    assert all(np.array_equal(a, b) for a, b in zip(before, network.get_weights(), strict=True))


def test_damaged_weights_are_refused(tmp_path):
    (tmp_path / "variables").mkdir()
    for name in ("saved_model.pb", "variables/variables.index", "variables/variables.data-00000-of-00001"):
        (tmp_path / name).write_bytes(b"half a file")
    with pytest.raises(InputError, match="cannot be read"):
        load_weights(UNet(width=4, N_dim=2), tmp_path)


# ---------------------------------------------------------------------- ExportedModel

def test_a_loaded_model_generates_as_the_one_in_memory(unet, loaded):
    assert (loaded.height, loaded.width) == (16, 32)
    first, poses = _input(1, 3)
    expected = unet[0].generate(first, poses, 5, 0.5)[0]
    np.testing.assert_allclose(loaded.generate(first[0], poses[0], seed=5, temperature=0.5), expected, atol=1e-5)
    np.testing.assert_array_equal(loaded.generate(first[0], poses[0], 1), loaded.generate(first[0], poses[0], 1))
    assert np.abs(loaded.generate(first[0], poses[0], 1) - loaded.generate(first[0], poses[0], 2)).max() > 1e-4
    np.testing.assert_array_equal(loaded.generate(first[0], poses[0], 1, 0), loaded.generate(first[0], poses[0], 2, 0))


def test_a_film_is_generated_in_parts(loaded):
    (first,), (poses,) = _input(1, 70)
    extend = loaded.film(first, seed=5, temperature=0.5)
    parts = [extend(poses[:64]), extend(poses[64:])]
    np.testing.assert_allclose(np.concatenate(parts), loaded.generate(first, poses, 5, 0.5), atol=1e-5)
    with pytest.raises(InputError, match="multiple of 64 frames, received a part after 70"):
        extend(poses[:1])


def test_pixels_may_be_bytes_and_nothing_out_of_range(loaded):
    random = np.random.default_rng(0)
    first, poses = (random.integers(0, 256, shape, np.uint8) for shape in ((16, 32, 3), (2, 16, 32, 3)))
    expected = loaded.generate(first / np.float32(255), poses / np.float32(255))
    np.testing.assert_array_equal(loaded.generate(first, poses), expected)
    for wrong in (first.astype(np.float32), first - 1.0, first.astype(np.int64), first * np.nan):
        with pytest.raises(InputError, match=r"first_frame must be uint8, or floats in \[0, 1\], received"):
            loaded.generate(wrong, poses)
    with pytest.raises(InputError, match=r"first_frame must have the shape \(16, 32, 3\), received \(32, 16, 3\)"):
        loaded.generate(first.transpose(1, 0, 2), poses)
    with pytest.raises(InputError, match=r"poses must have the shape \(T, 16, 32, 3\), received \(16, 32, 3\)"):
        loaded.generate(first, poses[0])


@pytest.fixture
def threads(monkeypatch):
    """The numbers of threads that TensorFlow was given."""
    given = []
    monkeypatch.setattr(tf.config.threading, "set_intra_op_parallelism_threads", given.append)
    monkeypatch.setattr(tf.config.threading, "set_inter_op_parallelism_threads", given.append)
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    return given


def test_loading_a_model_leaves_the_threads_of_the_process_alone(unet, threads, monkeypatch):
    assert ExportedModel(unet[1]).films_at_once == 1 and not threads
    use_one_thread_if_light(unet[1])
    assert threads == [1, -1]
    monkeypatch.setattr(tf.config.threading, "get_intra_op_parallelism_threads", lambda: 1)
    assert ExportedModel(unet[1]).films_at_once == os.cpu_count()


@pytest.mark.parametrize("name, width, size, light", [
    ("UNet", 24, (32, 64), True), ("UNet", 32, (32, 64), True), ("UNet", 16, (64, 128), True),
    ("UNet", 33, (32, 64), False), ("UNet", 32, (64, 64), False), ("LabNetwork", 4, (16, 32), False),
])
def test_only_small_operations_get_one_thread(name, width, size, light, threads, tmp_path):
    use_one_thread_if_light(tmp_path)
    (tmp_path / "model.json").write_text("[]")
    use_one_thread_if_light(tmp_path)
    assert not threads
    network = {"class_name": name, "config": {"width": width}}
    (tmp_path / "model.json").write_text(json.dumps({"model": {"network": network}, "frame_size": size}))
    use_one_thread_if_light(tmp_path)
    assert bool(threads) == light


def test_films_are_generated_in_the_models_own_chunks():
    from cvae_tf.model.cvae import GENERATION_CHUNK

    assert exported_model.CHUNK % GENERATION_CHUNK == 0


def test_a_folder_without_a_model_of_this_project_is_refused(tmp_path):
    with pytest.raises(InputError, match="no SavedModel"):
        ExportedModel(tmp_path)
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "saved_model.pb").write_bytes(b"half a file")
    with pytest.raises(InputError, match="cannot be loaded"):
        ExportedModel(tmp_path / "half")
    module = tf.Module()
    module.f = tf.function(lambda x: {"y": x}, input_signature=[tf.TensorSpec(())])
    tf.saved_model.save(module, str(tmp_path / "other"), signatures={"generate": module.f})
    with pytest.raises(InputError, match="no signature 'generate'"):
        ExportedModel(tmp_path / "other")


def test_newest_model(tmp_path):
    assert newest_model(tmp_path) == ROOT / "saved_models" / "studio"  # the shipped one
    for age, name in ((100, "b"), (50, "a")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "saved_model.pb").write_bytes(b"")
        os.utime(tmp_path / name / "saved_model.pb", (10_000 - age, 10_000 - age))
    assert newest_model(tmp_path).name == "a"
    write_owner(tmp_path / "a", "1234", finished=False)
    assert newest_model(tmp_path).name == "b"
    (tmp_path / "b" / "config.json").write_text(Config(preset="debug").to_json())
    assert newest_model(tmp_path) == ROOT / "saved_models" / "studio"
    write_owner(tmp_path / "a", "1234", finished=True)
    assert owner_of(tmp_path / "a") == ("1234", True) and newest_model(tmp_path).name == "a"
    (tmp_path / "a" / "run.json").write_text("{")
    assert newest_model(tmp_path) == ROOT / "saved_models" / "studio"
    with pytest.raises(InputError, match="run.json: must say of which run"):
        owner_of(tmp_path / "a")
