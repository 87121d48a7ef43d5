import dataclasses
import os
import re

import keras
import numpy as np
import pytest

from cvae_tf.errors import InputError
from cvae_tf.model import unet
from cvae_tf.model.cvae import CVAE
from cvae_tf.model.network import Network
from cvae_tf.model.unet import UNet
from cvae_tf.training.build import environment
from cvae_tf.training.checkpoint import CheckpointFolder, RunState, named_variables


def _arrays(step):
    return {"v0": np.full((3, 4), step, np.float32), "v1": np.int32(step), "best": np.float64(step)}


def test_the_newest_is_loaded_and_three_are_kept(tmp_path):
    store = CheckpointFolder(tmp_path / "checkpoints")
    assert store.load() == (0, None)
    for step in (5, 90, 100, 1000):
        store.save(step, _arrays(step))
    assert list(store.files()) == [1000, 100, 90]
    step, arrays = store.load()
    assert step == 1000 and arrays.keys() == _arrays(0).keys()
    for name, value in _arrays(1000).items():
        np.testing.assert_array_equal(arrays[name], value)
        assert arrays[name].dtype == value.dtype


def test_every_flipped_byte_of_the_arrays_is_noticed_and_the_one_before_used(tmp_path, capsys):
    store = CheckpointFolder(tmp_path)
    store.save(1, _arrays(1))
    store.save(2, _arrays(2))
    whole = store.files()[2].read_bytes()
    unnoticed = []
    for i in range(len(whole)):
        store.files()[2].write_bytes(whole[:i] + bytes([whole[i] ^ 0x10]) + whole[i + 1:])
        step, arrays = store.load()
        expected = _arrays(step)
        assert arrays.keys() == expected.keys()
        if step == 2:  # a byte without meaning, such as a date's
            unnoticed.append(i)
            for name, value in expected.items():
                np.testing.assert_array_equal(arrays[name], value)
        else:
            assert "step_00000002.npz: damaged" in capsys.readouterr().out
    assert len(unnoticed) < len(whole) / 3


@pytest.mark.parametrize("size", [0, 1, 100, 400, 600])
def test_a_cut_file_is_noticed_and_the_one_before_used(tmp_path, size, capsys):
    store = CheckpointFolder(tmp_path)
    store.save(1, _arrays(1))
    store.save(2, _arrays(2))
    store.files()[2].write_bytes(store.files()[2].read_bytes()[:size])
    assert store.load()[0] == 1
    assert "step_00000002.npz: damaged" in capsys.readouterr().out


def test_nothing_is_unpickled(tmp_path):
    store = CheckpointFolder(tmp_path)
    np.savez(tmp_path / "step_00000001.npz", evil=np.array([print], dtype=object))
    with pytest.raises(InputError, match="none of the 1 checkpoints there can be read"):
        store.load()


def test_removing_from_a_step_keeps_those_before(tmp_path):
    store = CheckpointFolder(tmp_path)
    for step in (1, 2, 3):
        store.save(step, _arrays(step))
    store.remove_from(2)
    assert list(store.files()) == [1]


# ---------------------------------------------------------------------- variables by name

class Reordered(UNet):
    """The same network, whose parts, two of them of equal shapes, are made in another order."""

    def __init__(self, width, N_dim):
        Network.__init__(self)
        self.width, self.N_dim, channels = width, N_dim, [width, 2 * width, 3 * width]
        self.generator = unet.Generator(width, depth=3)
        self.pose_encoder, self.frame_encoder = unet.Encoder(channels), unet.Encoder(channels)
        self.decoder_fusion = unet.DecoderFusion(channels)
        self.gaussian_predictor = unet.GaussianPredictor(width, N_dim)
        self.make_weights()


def _compiled(network, optimizer=None):
    model = CVAE(network)
    model.compile(optimizer or keras.optimizers.AdamW(1e-3))
    return model


@pytest.fixture(scope="module")
def model():
    return _compiled(UNet(width=4, N_dim=2))


def _fill(model, seed):
    """Give all variables of a model random values, not negative, as some are roots."""
    random = np.random.default_rng(seed)
    for variable in named_variables(model).values():
        variable.assign(np.asarray(10 * random.random(variable.shape)).astype(variable.dtype))


def _order(model):
    paths = {id(weight): path for path, weight in model.network.named_weights().items()}
    return [paths[id(weight)] for weight in model.trainable_variables]


def _update(model):
    """One update with a gradient for each weight that only its path decides."""
    gradients = [np.full(weight.shape, len(path) % 7 - 3.0, np.float32)
                 for path, weight in zip(_order(model), model.trainable_variables, strict=True)]
    model.optimizer.apply([keras.ops.convert_to_tensor(gradient) for gradient in gradients], model.trainable_variables)


def _values(model):
    return {name: variable.numpy() for name, variable in named_variables(model).items()}


def test_a_network_made_in_another_order_continues_with_the_right_weights_and_slots(model, tmp_path):
    state = RunState(("a", "b"), ((0, 40),))
    _fill(model, 1)
    CheckpointFolder(tmp_path).save_run(model, state)
    other = _compiled(Reordered(width=4, N_dim=2))
    assert _order(other) != _order(model) and sorted(_order(other)) == sorted(_order(model))
    assert CheckpointFolder(tmp_path).restore_run(other, state) == int(model.steps)
    for update in (lambda model: None, _update):
        update(model)
        update(other)
        expected = _values(model)
        assert _values(other).keys() == expected.keys()
        for name, value in _values(other).items():
            np.testing.assert_array_equal(value, expected[name], err_msg=name)


@pytest.mark.parametrize("optimizer", [
    keras.optimizers.SGD(1e-3, momentum=0.9), keras.optimizers.Adam(1e-3, amsgrad=True, use_ema=True),
    keras.optimizers.RMSprop(1e-3, centered=True), keras.optimizers.Nadam(1e-3), keras.optimizers.Lion(1e-3),
    keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(1e-3, 10)))],
    ids=lambda optimizer: optimizer.name)
def test_each_variable_of_an_optimizer_has_a_name_of_its_own(optimizer, model):
    model = _compiled(model.network, optimizer)
    named = named_variables(model)
    variables = [*model.weights, *optimizer.variables, *(v for mean in model.means.values() for v in mean.variables)]
    assert {id(variable) for variable in named.values()} == {id(variable) for variable in variables}
    assert len(named) == len({id(variable) for variable in variables})


def test_an_optimizer_with_a_variable_that_has_no_name_is_refused(model):
    model = _compiled(model.network)
    model.optimizer.hidden = {"x": model.optimizer.add_variable((), name="hidden_x")}
    with pytest.raises(ValueError, match="AdamW has .*hidden_x without"):
        named_variables(model)


@pytest.mark.parametrize("spoil, message", [
    (lambda saved: saved.pop("network/frame_encoder/downs/0/kernel"), "another network or version"),
    (lambda saved: saved.update({"network/frame_encoder/downs/0/kernel": np.zeros((3, 3, 3, 5))}), "another network"),
    (lambda saved: [saved.pop(name) for name in list(saved)] and saved.update(v0000=np.zeros(3)), "another network"),
    (lambda saved: saved.update({"run/sequences": np.array([[0, 39]])}), "frames are not as many or not cut as")])
def test_a_checkpoint_of_another_network_version_or_footage_is_refused(spoil, message, model, tmp_path):
    state, store = RunState(("a", "b"), ((0, 40),)), CheckpointFolder(tmp_path)
    store.save_run(model, state)
    saved = store.load()[1]
    spoil(saved)
    store.save(int(model.steps), saved)
    before = _values(model)
    with pytest.raises(InputError, match=f"{message}.*--fresh"):
        store.restore_run(model, state)
    for name, value in _values(model).items():
        np.testing.assert_array_equal(value, before[name])


def test_the_state_of_a_run_is_restored_whole_and_other_footage_is_mentioned(model, tmp_path, capsys):
    store = CheckpointFolder(tmp_path)
    state = RunState(("a", "b"), ((0, 40), (40, 9)), best=31.25, rows=[["0", "1.5"], ["1", ""]], seconds=12.5,
                     last_model_step=7)
    store.save_run(model, state)
    restored = RunState(("a", "b"), ((0, 40), (40, 9)))
    store.restore_run(model, restored)
    assert restored == state and capsys.readouterr().out == ""
    for footage, best, said in ((("c", "b"), 31.25, ["the training frames .* does not continue exactly"]),
                                (("a", "c"), -np.inf, ["the validation frames .* best score so far does not count"]),
                                (("c", "d"), -np.inf, ["the training frames", "the validation frames"])):
        restored = RunState(footage, ((0, 40), (40, 9)))
        store.restore_run(model, restored)
        assert restored == dataclasses.replace(state, footage=footage, best=best)
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) == len(said) and all(re.search(*pair) for pair in zip(said, lines, strict=True))


@pytest.mark.parametrize("change, said", [
    ({}, None), ({"threads": "1"}, "with threads 2 so far, and now with threads 1: it continues, but not to the bit"),
    ({"NumPy": "3.0", "processor": "new"}, "NumPy 2.4, processor an old one so far, and now with NumPy 3.0, processor"),
    (None, None)], ids=["none", "threads", "two", "a checkpoint of before"])
def test_a_run_that_continues_under_other_circumstances_says_which(change, said, model, tmp_path, capsys):
    store, then = CheckpointFolder(tmp_path), {"threads": "2", "NumPy": "2.4", "processor": "an old one"}
    state = RunState(("a", "b"), ((0, 40),), then, best=31.25)
    store.save_run(model, state)
    if change is None:
        saved = store.load()[1]
        del saved["run/environment"]
        store.save(int(model.steps), saved)
    restored = RunState(("a", "b"), ((0, 40),), then | (change or {}))
    assert store.restore_run(model, restored) == int(model.steps) and restored.best == 31.25
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == bool(said) and (not said or said in lines[0])
    store.save_run(model, restored)
    store.restore_run(model, restored)  # the new circumstances are the usual ones from here on
    assert capsys.readouterr().out == ""


def test_the_circumstances_name_what_decides_the_last_bits(monkeypatch):
    found = environment()
    assert found["NumPy"] == np.__version__ and found["Keras"] == keras.__version__ and found["processor"].strip()
    assert all("\n" not in text for text in found.values())
    assert int(found["threads"]) == len(os.sched_getaffinity(0)) or "TF_NUM_INTRAOP_THREADS" in os.environ
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3})
    monkeypatch.delenv("TF_NUM_INTRAOP_THREADS", raising=False)
    assert environment() == found | {"threads": "1"}
    monkeypatch.setattr("numpy.show_config", lambda mode: {"SIMD Extensions": {"baseline": ["SSE"]}})
    assert found["processor"].startswith(environment()["processor"])  # a processor with no more than the baseline
