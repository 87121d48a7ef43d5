import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT, make_model

from cvae_tf.config import Config
from cvae_tf.errors import InputError
from cvae_tf.inference import predict as prediction
from cvae_tf.inference.export import save_model
from cvae_tf.inference.predict import Generator, newest_model
from cvae_tf.lab.network import LabNetwork
from cvae_tf.model.unet import UNet

CONFIG = Config(frame_H=16, frame_W=32, width=4, N_dim=2)


@pytest.fixture(scope="module", params=["unet", "lab"])
def exported(request, tmp_path_factory):
    """A model and the folder of its SavedModel."""
    network = (UNet(width=4, N_dim=2) if request.param == "unet"
               else LabNetwork(F_dim=16, L_dim=8, N_dim=4, D_out_dim=16))
    model = make_model(network)
    path = tmp_path_factory.mktemp("saved") / request.param
    save_model(model, path, CONFIG)
    return model, path


def _input(batch=2, time=5):
    random = np.random.default_rng(0)
    return (tf.constant(random.random((batch, 16, 32, 3), np.float32)),
            tf.constant(random.random((batch, time, 16, 32, 3), np.float32)))


def test_exported_model_equals_the_one_in_memory(exported):
    model, path = exported
    loaded = tf.saved_model.load(str(path))
    for batch, time in ((2, 5), (1, 3), (3, 20)):  # B and T are free
        first, poses = _input(batch, time)
        inputs = dict(first_frame=first, poses=poses, seed=tf.constant([3, 4]), temperature=tf.constant(0.7))
        expected = model.generate(first, poses, [3, 4], 0.7)
        for signature in ("generate", "serving_default"):
            film = loaded.signatures[signature](**inputs)["frames"]
            assert film.shape == (batch, time, 16, 32, 3) and film.dtype == tf.float32
            np.testing.assert_allclose(film, expected, atol=1e-5)
    frames, poses = tf.concat([first[:, None], poses[:, 1:]], 1), poses
    rebuilt = loaded.signatures["reconstruct"](frames=frames, poses=poses)
    expected, kl, mean = model.reconstruct(frames, poses)
    np.testing.assert_allclose(rebuilt["frames"], expected, atol=1e-5)
    np.testing.assert_allclose(rebuilt["kl"], kl, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(rebuilt["mean"], mean, atol=1e-5)
    assert mean.shape == (batch, time - 1, *model.network.latent_shape(16, 32))


def test_seed_and_temperature_are_inputs_of_the_exported_model(exported):
    _, path = exported
    generate = tf.saved_model.load(str(path)).signatures
    first, poses = _input()

    def film(seed, temperature):
        return generate["generate"](first_frame=first, poses=poses, seed=tf.constant([0, seed]),
                                    temperature=tf.constant(temperature))["frames"].numpy()

    np.testing.assert_array_equal(film(1, 1.0), film(1, 1.0))
    assert np.abs(film(1, 1.0) - film(2, 1.0)).max() > 0
    np.testing.assert_array_equal(film(1, 0.0), film(2, 0.0))


def test_exported_model_runs_without_this_project(exported, tmp_path):
    _, path = exported
    code = f"""
import sys, tensorflow as tf
model = tf.saved_model.load({str(path)!r})
film = model.signatures["generate"](first_frame=tf.zeros((1, 16, 32, 3)), poses=tf.ones((1, 4, 16, 32, 3)),
                                    seed=tf.constant([0, 0]), temperature=tf.constant(1.0))["frames"]
assert film.shape == (1, 4, 16, 32, 3)
assert not any(name.startswith("cvae_tf") for name in sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)


def test_export_replaces_an_older_one_whole(exported, tmp_path):
    model, _ = exported
    target = tmp_path / "model"
    target.mkdir()
    (target / "stray").write_text("old")
    save_model(model, target, CONFIG)
    assert not (target / "stray").exists() and (target / "config.json").read_text() == CONFIG.to_json()
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_generator_reads_the_size_from_the_model(exported):
    model, path = exported
    generate = Generator(path)
    assert (generate.height, generate.width) == (16, 32)
    first, poses = _input(1, 3)
    np.testing.assert_allclose(generate(first[0].numpy(), poses[0].numpy(), seed=5),
                               model.generate(first, poses, [0, 5])[0], atol=1e-5)


def test_a_film_is_generated_in_parts(exported):
    _, path = exported
    generate = Generator(path)
    random = np.random.default_rng(0)
    first, poses = random.random((16, 32, 3), np.float32), random.random((70, 16, 32, 3), np.float32)
    extend = generate.film(first, seed=5, temperature=0.5)
    parts = [extend(poses[:64]), extend(poses[64:])]
    np.testing.assert_allclose(np.concatenate(parts), generate(first, poses, 5, 0.5), atol=1e-4)
    with pytest.raises(ValueError, match="multiple of 64"):
        extend(poses[:1])


def test_only_small_operations_have_one_thread(tmp_path):
    def light(**settings):
        (tmp_path / "config.json").write_text(Config(**settings).to_json())
        return prediction._is_light(tmp_path)

    assert not prediction._is_light(tmp_path)
    assert light(width=24) and light(width=32) and light(width=16, frame_H=64, frame_W=128)
    assert not light(width=33) and not light(width=32, frame_H=64) and not light(network="lab")
    (tmp_path / "config.json").write_text("[]")
    assert not prediction._is_light(tmp_path)


def test_what_is_no_model_is_refused(tmp_path):
    with pytest.raises(InputError, match="no SavedModel"):
        Generator(tmp_path)
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "saved_model.pb").write_bytes(b"half a file")
    with pytest.raises(InputError, match="cannot be loaded"):
        Generator(tmp_path / "half")
    module = tf.Module()
    module.f = tf.function(lambda x: {"y": x}, input_signature=[tf.TensorSpec(())])
    tf.saved_model.save(module, str(tmp_path / "other"), signatures={"generate": module.f})
    with pytest.raises(InputError, match="not one of this project's|no signature"):
        Generator(tmp_path / "other")


def test_newest_model(tmp_path):
    with pytest.raises(InputError, match="no SavedModel"):
        newest_model(tmp_path)
    import os

    for age, name in ((100, "b"), (50, "a")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "saved_model.pb").write_bytes(b"")
        os.utime(tmp_path / name / "saved_model.pb", (10_000 - age, 10_000 - age))
    assert newest_model(tmp_path).name == "a"
    assert (ROOT / "saved_models").is_dir()
