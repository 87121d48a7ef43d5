"""Damaged checkpoints, models, tables and settings: what they held, or one line.

``python -m pytest tests/test_fuzz_readers.py --hypothesis-profile long`` tries 10,000 files for each reader.
tests/data/test_fuzz_files.py has images and arrays, tests/pose/test_formats.py key points of other programs.
"""

import contextlib
import dataclasses
import io
import json
import shutil
import sys
import zipfile
from unittest import mock

import hypothesis.strategies as st
import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import example, given, settings
from mutations import EXAMPLES, FILES, damage, damaged, in_memory, outcome

from cvae_tf.cli import train_config
from cvae_tf.config import Config, load_config, studio_of
from cvae_tf.data.record import key_points_of
from cvae_tf.errors import InputError
from cvae_tf.experiments.compare import figures, load_run, table
from cvae_tf.experiments.study import _shared_settings
from cvae_tf.files import check_model, write_checksums, write_csv
from cvae_tf.inference.export import load_weights
from cvae_tf.inference.exported_model import newest_model, use_one_thread_if_light
from cvae_tf.inference.origin import Origin, read_origin, write_origin
from cvae_tf.pose import retarget
from cvae_tf.pose.keypoints import write_poses
from cvae_tf.studio import scene as studio
from cvae_tf.training import checkpoint
from cvae_tf.training.checkpoint import CheckpointFolder, RunState

RANDOM = np.random.default_rng(0)


@pytest.fixture(scope="module")
def folder():
    with in_memory() as folder:
        yield folder


# ---------------------------------------------------------------------- checkpoints

VALUES = {"network/a/kernel": np.float32(RANDOM.normal(size=(3, 4))), "network/b/bias": np.zeros(5, np.float32),
          "model/steps": np.int64(7), "means/loss/total": np.float32(0.5)}
STATE = {"best": 31.5, "rows": [["0", "1.5", ""], ["1", "0.5", "30.1"]], "seconds": 2.5, "last_model_step": 4}


def _state():
    return RunState(("abc", "def"), ((0, 40), (40, 40)))


def _saved_values():
    return VALUES | dataclasses.replace(_state(), **STATE).arrays()


def _check_restored(place, values):
    """`CheckpointFolder.restore_run` gives ``values`` to variables, or refuses and leaves them and the state alone."""
    variables = {name: keras.Variable(np.ones_like(value), dtype=value.dtype.name) for name, value in VALUES.items()}
    state = _state()
    with mock.patch.object(checkpoint, "named_variables", return_value=variables):
        step = outcome(CheckpointFolder(place).restore_run, None, state)
    if step is None:
        assert state == _state()
    for name, variable in variables.items():
        expected = np.ones_like(VALUES[name]) if step is None else values[name]
        np.testing.assert_array_equal(variable.numpy(), expected)
    return state if step else None


@settings(max_examples=FILES)
@given(damage("PK", "NUMPY", "<f4", "<i8", "<U3", "False", "(3, 4)", "()", "network/a/kernel", "names.npy", "run/best"))
def test_a_damaged_checkpoint_restores_all_that_was_saved_or_nothing(folder, changes):
    place = folder / "checkpoints"
    CheckpointFolder(place).save(7, _saved_values())
    path = place / "step_00000007.npz"
    path.write_bytes(damaged(path.read_bytes(), changes))
    state = _check_restored(place, VALUES)
    assert state is None or {name: getattr(state, name) for name in STATE} == STATE


ODD_ARRAYS = st.sampled_from([
    np.float32(1), np.float64(1), np.int64(3), np.int8(3), np.bool_(True), np.complex64(1j), np.str_("x"),
    np.bytes_(b"x"), np.datetime64(3, "s"), np.void(b"xy"),
    np.zeros((3, 4)), np.zeros((3, 4), np.complex64), np.zeros((3, 4), "U2"),
    np.full((3, 4), np.nan, np.float32), np.zeros((3, 4), ">f4"), np.zeros(0), np.zeros((0, 0), str),
    np.zeros((2, 2), str),
    np.zeros((4, 3), np.float32), np.zeros(5, [("a", "f4")]), np.zeros((2, 2), int), np.array([["a", "b", "c"]])])


@settings(max_examples=FILES)
@example("run/rows", [("cut", 0)])
@example("run/rows", [("move", -13, 10, -48)])  # numbers that no character has
@given(st.sampled_from([*_saved_values(), "names", "network/c/kernel"]),
       st.one_of(ODD_ARRAYS, damage("NUMPY", "<f4", "<f8", "<i8", "<U4", "False", "(3, 4)", "(5,)", "()", "3")))
def test_a_checkpoint_with_other_arrays_and_right_checksums_is_restored_or_refused(folder, name, change):
    """Each array of an ``.npz`` is a file with a checksum of its own; here it is that of the damaged array."""
    place, content = folder / "forged", {}
    stream = io.BytesIO()
    values = _saved_values()
    np.savez(stream, **values, names=np.array(list(values)))
    with zipfile.ZipFile(stream) as archive:
        content = {info.filename: archive.read(info) for info in archive.infolist()}
    if isinstance(change, list):
        content[f"{name}.npy"] = damaged(content.get(f"{name}.npy", b""), change)
    else:
        stream = io.BytesIO()
        np.save(stream, change)
        content[f"{name}.npy"] = stream.getvalue()
    place.mkdir(exist_ok=True)
    with zipfile.ZipFile(place / "step_00000007.npz", "w") as archive:
        for file, data in content.items():
            archive.writestr(file, data)
    found = {}
    load = CheckpointFolder.load
    with mock.patch.object(CheckpointFolder, "load", lambda self: found.setdefault("all", load(self))):
        state = _check_restored(place, _Later(found))
    if state is not None:
        assert isinstance(state.best, float) and isinstance(state.seconds, float)
        assert isinstance(state.last_model_step, int)
        assert all(isinstance(cell, str) for row in state.rows for cell in row)


class _Later:
    """The arrays of the checkpoint that will have been read."""

    def __init__(self, found):
        self.found = found

    def __getitem__(self, name):
        return self.found["all"][1][name]


# ---------------------------------------------------------------------- exported models

class _Network:
    """Weights as an exported model has them, without the network, which would make each example slow."""

    def __init__(self):
        self.weights = {"a/kernel": tf.Variable(np.float32(RANDOM.normal(size=(3, 4)))),
                        "b/bias": tf.Variable([1.0, 2.0])}

    def named_weights(self):
        return self.weights


@pytest.fixture(scope="module")
def model(folder):
    """A small SavedModel with the files of an exported model, and the network whose weights are in it."""
    network, path, module = _Network(), folder / "models" / "small", tf.Module()
    module.weights = network.weights
    tf.saved_model.save(module, str(path))
    about = {"model": {"network": {"class_name": "UNet", "config": {"width": 4}}}, "frame_size": [16, 32]}
    (path / "model.json").write_text(json.dumps(about, indent=2))
    (path / "config.json").write_text(Config().to_json())
    (path / "run.json").write_text(json.dumps({"id": "0" * 32, "finished": True}, indent=2))
    write_checksums(path)
    return network, path


MODEL_FILES = ("saved_model.pb", "fingerprint.pb", "variables/variables.index", "model.json", "config.json",
               "variables/variables.data-00000-of-00001", "checksums.txt", "run.json")
IN_MODEL = ("weights", "class_name", "UNet", "config", "width", "4", "frame_size", "16", "id", "finished", "true",
            "studio_seed", "  ", "\n", "saved_model.pb", "{", "}", ":")


@settings(max_examples=FILES)
@given(st.sampled_from(MODEL_FILES), damage(*IN_MODEL), st.booleans())
def test_a_damaged_model_is_refused_or_has_its_weights(folder, model, name, changes, checksums):
    network, whole = model
    place = folder / "models" / "damaged"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(whole, place)
    content = (place / name).read_bytes()
    (place / name).write_bytes(damaged(content, changes))
    listed = (place / "checksums.txt").read_text("utf-8", "replace").find(f"  {name}\n") >= 0
    if not checksums:
        (place / "checksums.txt").unlink()
    passed = outcome(lambda: check_model(place) is None)
    if checksums and listed and name != "checksums.txt":
        assert bool(passed) == ((place / name).read_bytes() == content)
    target = _Network()
    before = {path: weight.numpy() for path, weight in target.weights.items()}
    loaded = outcome(lambda: load_weights(target, place) is None)
    assert loaded is None or passed
    for path, weight in target.weights.items():
        np.testing.assert_array_equal(weight, network.weights[path] if loaded else before[path])
    for read in (studio_of, use_one_thread_if_light, lambda path: newest_model(path.parent)):
        outcome(read, place)


# ---------------------------------------------------------------------- the lab's checkpoints

@pytest.fixture(scope="module")
def lab():
    """The state and files of a tiny checkpoint of PyTorch: in today's format, and in that of before 1.6."""
    sys.modules.setdefault("triton", None)  # see tests/lab/test_torch_checkpoint.py
    torch = pytest.importorskip("torch", reason="PyTorch is not installed; it is needed only for the lab's checkpoints")
    from cvae_tf.lab.torch_checkpoint import WIDTHS

    state = {name: torch.arange(4.0) for name, _ in WIDTHS.values()} | {"Generator.0.weight": torch.ones(2, 3)}
    files = []
    for new in (True, False):
        stream = io.BytesIO()
        torch.save({"state_dict": state, "lr": 1e-3, "tfr": 0.5, "last_epoch": 7}, stream,
                   _use_new_zipfile_serialization=new)
        files.append(stream.getvalue())
    return {name: tensor.numpy() for name, tensor in state.items()}, files


def _archived_again(content, changes):
    """A checkpoint's archive whose pickle is damaged, and whose checksums are right."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(stream, "w") as new:
        for info in old.infolist():
            data = old.read(info)
            new.writestr(info, damaged(data, changes) if info.filename.endswith("data.pkl") else data)
    return stream.getvalue()


def test_a_flipped_bit_in_the_weights_of_the_lab_is_noticed_though_pytorch_does_not(folder, lab):
    from cvae_tf.lab.torch_checkpoint import read_checkpoint

    state, (whole, _) = lab
    path, weights = folder / "flipped.ckpt", np.float32([0, 1, 2, 3]).tobytes()
    path.write_bytes(whole)
    assert read_checkpoint(path)[0].keys() == state.keys()
    for bit in range(8 * len(weights)):
        path.write_bytes(damaged(whole, [("flip", whole.index(weights) + bit // 8, bit % 8)]))
        assert outcome(read_checkpoint, path) is None


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=FILES)
@given(st.sampled_from(["new", "old", "pickle"]),
       damage("state_dict", "torch", "FloatStorage", "collections\nOrderedDict", "builtins", "lr", "tfr", "cpu",
              "data.pkl", "_rebuild_tensor_v2", "PK"))
def test_a_damaged_checkpoint_of_the_lab_is_refused_or_holds_arrays(folder, lab, kind, changes):
    from cvae_tf.lab.torch_checkpoint import read_checkpoint, widths_of

    state, (new, old) = lab
    path = folder / "epoch=7.ckpt"
    path.write_bytes(_archived_again(new, changes) if kind == "pickle" else
                     damaged(new if kind == "new" else old, changes))

    def read():
        arrays, settings = read_checkpoint(path)
        return arrays, settings, outcome(widths_of, arrays)

    with mock.patch("os.system") as system:
        found = outcome(read)
    assert not system.called
    if found:
        arrays, settings, _ = found
        assert all(isinstance(array, np.ndarray) and isinstance(name, str) for name, array in arrays.items())
        assert settings.keys() <= {"lr", "tfr", "last_epoch"}
        if kind == "new" and arrays.keys() == state.keys():  # the archive's checksums
            for name, array in arrays.items():
                np.testing.assert_array_equal(array, state[name])


# ---------------------------------------------------------------------- tables and settings

COLUMNS = ("epoch", "loss", "mse", "kl", "beta", "tfr", "val_psnr_prior", "val_psnr_posterior", "val_psnr_copy_first",
           "seconds")
CURVES = ("frame", "psnr_prior", "psnr_posterior", "psnr_copy_first")


@pytest.fixture(scope="module")
def run(folder):
    """The folder of a run with three epochs and two validations."""
    place = folder / "run"
    place.mkdir()
    (place / "config.json").write_text(Config().to_json())
    write_csv(place / "metrics.csv", COLUMNS,
              [[n, 5.5 - n, 5 - n, 0.5, 0.001, 0.9, *(["", "", ""] if n == 1 else [30.1, 31.2, 22.5]), 12.5]
               for n in range(3)])
    write_csv(place / "psnr_per_frame.csv", CURVES, [[n, 30 - n, 31.5, 22] for n in range(1, 4)])
    return place


def _read_damaged(run, name, changes, read):
    whole = (run / name).read_bytes()
    (run / name).write_bytes(damaged(whole, changes))
    try:
        return outcome(read)
    finally:
        (run / name).write_bytes(whole)


IN_RUN = (*COLUMNS, *CURVES, "30.1", "31.2", "22.5", ",", "\r\n", "num_epoch", "tfr_sde", "kl_anneal_type", "Cyclical",
          "false", ": 0", ": 1", "{", "}")
RECORDS = st.sampled_from(["metrics.csv", "metrics.csv", "psnr_per_frame.csv", "config.json"])


@settings(max_examples=FILES)
@given(RECORDS, damage(*IN_RUN))
def test_a_damaged_table_is_refused_or_compared(run, name, changes):
    found = _read_damaged(run, name, changes, lambda: (loaded := load_run(run), table([loaded])))
    if found is None:
        return
    loaded, (header, rows) = found
    count = len(loaded.epochs["epoch"])
    assert count and all(len(column) == count and column.dtype == float for column in loaded.epochs.values())
    assert len(rows) == 1 and len(rows[0]) == len(header)


@settings(max_examples=max(10, EXAMPLES // 20))
@given(RECORDS, damage(*IN_RUN), st.sampled_from(["1e300", "-1e300", "1e-300", "0", "-5", "inf", "nan", ""]))
@pytest.mark.filterwarnings("ignore")  # of Matplotlib, for values that no axis has room for
def test_a_damaged_table_is_refused_or_drawn(run, name, changes, value):
    swaps = [("swap", 0, number, value) for number in ("5.5", "30.1", "0.001", "30.0")]

    def read():
        for figure in figures([load_run(run)]).values():
            figure.savefig(io.BytesIO())

    _read_damaged(run, name, swaps if name != "config.json" else changes, read)


WORDS = tuple(word for spec in dataclasses.fields(Config) for word in (f'"{spec.name}"', json.dumps(spec.default)))
JSON_VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.integers(10**300, 10**320), st.floats(), st.text(max_size=5)),
    lambda one: st.lists(one, min_size=1, max_size=2), max_leaves=3)


def _settings_file(config, change, **more):
    values = more | dataclasses.asdict(config)
    if isinstance(change, list):
        return damaged(json.dumps(values, indent=2).encode(), change)
    name, value = change
    return json.dumps(values | {name: value}).encode()


SETTINGS = st.one_of(damage(*WORDS, "{", "}", ":", ",", "\n"),
                     st.tuples(st.sampled_from([*dataclasses.asdict(Config()), "minutes_per_run"]), JSON_VALUES))


@settings(max_examples=FILES)
@given(SETTINGS)
def test_a_damaged_configuration_is_refused_or_valid(folder, change):
    path = folder / "config.json"
    path.write_bytes(_settings_file(Config(), change))
    config = outcome(load_config, path)
    if config is not None:
        path.write_text(config.to_json())
        assert load_config(path) == config


@settings(max_examples=FILES)
@given(SETTINGS, st.sampled_from([0.0, 2.0]))
def test_the_damaged_settings_of_a_study_are_refused_or_those_asked_for(folder, change, minutes):
    asked = Config(steps_per_epoch=7 if minutes == 0 else 0)
    content = _settings_file(dataclasses.replace(asked, steps_per_epoch=7), change, minutes_per_run=minutes)
    (folder / "study.json").write_bytes(content)
    config = outcome(_shared_settings, asked, folder, minutes)
    if config is not None:
        assert dataclasses.replace(config, steps_per_epoch=asked.steps_per_epoch) == asked


# ---------------------------------------------------------------------- prepared data sets

@pytest.fixture(scope="module")
def prepared(folder):
    """The files that tell of a prepared data set and of a model's footage, and what they hold."""
    place = folder / "prepared"
    place.mkdir()
    key_points = studio.key_points(1, 16, 32, length=4)
    names = [f"train/train_img/frame{t}.png" for t in range(4)]
    write_poses(place / "poses.json", key_points, names)
    person = retarget.measure(studio.key_points(1, 16, 32))
    write_origin(place, Origin(np.zeros((16, 32, 3), np.uint8), "studio", 20.0, person))
    (place / "prepare.json").write_text(json.dumps({
        "frame_size": [16, 32], "fps": 20.0, "frames": {"train": 4, "val": 2}, "request": {"settings": {}}}))
    return place


@settings(max_examples=FILES)
@given(st.sampled_from(["prepare.json", "poses.json", "footage.json", "first_frame.png"]),
       damage("frame_size", "train", "NaN", "null", "[]", "1e999", "landmarks", "image_id", "person", "\\ud800"))
def test_what_a_prepared_data_set_and_a_model_say_of_footage_is_refused_or_valid(prepared, name, changes):
    path = prepared / name
    whole = path.read_bytes()
    path.write_bytes(damaged(whole, changes))
    try:
        with contextlib.suppress(InputError):
            config, _, _ = train_config(["--data_dir", str(prepared)])
            assert config.frame_H % 8 == 0 and 0 <= config.steps_per_epoch <= 2000
        with contextlib.suppress(InputError):
            found = key_points_of(prepared, [prepared / "train/train_img/frame2.png"])
            assert found is None or found.points.shape == (1, 33, 2) and np.nanmax(np.abs(found.points)) <= 1e6
        with contextlib.suppress(InputError):
            origin = read_origin(prepared)
            assert origin is None or origin.first_frame.dtype == np.uint8 and origin.fps > 0
    finally:
        path.write_bytes(whole)
