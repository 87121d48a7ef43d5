"""The whole run, in this process: what it writes, and that it continues exactly."""

import csv
import dataclasses
import json
import shutil

import numpy as np
import pytest
import tensorflow as tf
from conftest import make_model

from cvae_tf.config import PRESETS, Config
from cvae_tf.data import footage as data
from cvae_tf.errors import InputError
from cvae_tf.evaluation.metrics import psnr_per_frame
from cvae_tf.model.cvae import CVAE
from cvae_tf.training import callbacks
from cvae_tf.training import loop as training
from cvae_tf.training.checkpoint import CheckpointFolder
from cvae_tf.training.stopping import StopRequest

SMALL = dict(PRESETS["debug"], preset="debug", width=4, frame_H=16, frame_W=32, num_epoch=3, steps_per_epoch=3,
             val_vi_len=12, max_frames=24, kl_anneal_type="Monotonic", tfr=0.5, tfr_sde=1, tfr_d_step=0.25)


def _config(folder, **options):
    return Config(**{**SMALL, "run_dir": str(folder / "run"), "export_dir": str(folder / "model"), **options})


def _rows(folder):
    with open(folder / "run" / "metrics.csv", newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    training.train(_config(folder, val_every=2))
    return folder


def _weights(folder):
    """All that a run's future depends on, from its newest checkpoint."""
    return CheckpointFolder(folder / "run" / "checkpoints").load()[1]


def test_a_run_leaves_what_it_promises(finished):
    run = finished / "run"
    assert json.loads((run / "config.json").read_text())["width"] == 4
    for model in (finished / "model", run / "last_model"):
        assert (model / "saved_model.pb").is_file() and (model / "config.json").is_file()
    assert [path.name for path in sorted((run / "samples").iterdir())] == ["epoch_002.gif", "epoch_003.gif"]
    assert not list(finished.rglob("*.tmp"))


def test_metrics_have_a_row_an_epoch_with_the_values_in_use(finished):
    rows = _rows(finished)
    assert list(rows[0])[:11] == ["epoch", "loss", "mse", "kl", "beta", "tfr", "lr", "grad_norm", "val_psnr_prior",
                                  "val_psnr_posterior", "val_psnr_copy_first"]
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    np.testing.assert_allclose([float(row["beta"]) for row in rows], [0, 1 / 3, 2 / 3], rtol=1e-6)
    np.testing.assert_allclose([float(row["tfr"]) for row in rows], [0.5, 0.25, 0])
    for row in rows:
        terms = float(row["mse"]) + Config().gdl * float(row["gd"]) + float(row["beta"]) * float(row["kl"])
        assert float(row["loss"]) == pytest.approx(terms, rel=1e-5) and float(row["gd"]) > 0
    assert [row["val_psnr_prior"] == "" for row in rows] == [True, False, False]  # every second epoch, and the last


def test_the_epochs_line_says_where_the_latent_is_unused(tmp_path, capsys):
    record = callbacks.EpochRecord(Config(num_epoch=2, train_vi_len=5, gdl=0.0), tmp_path / "metrics.csv")
    for epoch, kl in enumerate((4 * 0.011, 4 * 0.009)):  # nats a clip, of which 4 frames are predicted
        record.on_epoch_begin(epoch)
        record.on_epoch_end(epoch, {"loss": 1.5, "mse": 1.0, "gd": 3.0, "kl": kl, "beta": 0.5, "tfr": 0.0, "lr": 1e-3,
                                    "skipped": 0})
    first, second = capsys.readouterr().out.splitlines()
    assert first == "epoch 1/2: loss 1.5000 = mse 1.0000 + 0.5 x kl 0.044, tfr 0.00, lr 1.00e-03"
    assert "0.5 x kl 0.036 (latent unused), tfr" in second


def test_tensorboard_has_the_curves_and_the_films(finished):
    seen, folders = {}, {}
    for path in (finished / "run" / "tensorboard").rglob("*tfevents*"):
        for record in tf.compat.v1.train.summary_iterator(str(path)):
            for value in record.summary.value:
                seen[value.tag], folders[value.tag] = value, path.parent.name
    assert folders["epoch_psnr_prior"] == "validation"  # where a study's HParams page looks for it
    scalars = {"loss", "mse", "gd", "kl", "beta", "tfr", "lr", "grad_norm", "psnr_prior", "psnr_posterior",
               "psnr_copy_first"}
    assert {f"epoch_{name}" for name in scalars} <= seen.keys()
    assert seen["free_running"].tensor.string_val[2][:6] == b"GIF89a"
    assert seen["psnr_per_frame"].tensor.string_val[2][:4] == b"\x89PNG"


def test_hparams_page_gets_the_settings(finished):
    from tensorboard.plugins.hparams import metadata

    (path,) = (finished / "run" / "tensorboard").glob("*tfevents*")
    found = {}
    for record in tf.compat.v1.train.summary_iterator(str(path)):
        for value in record.summary.value:
            found[value.tag] = value.metadata.plugin_data.content
    settings = metadata.parse_session_start_info_plugin_data(found[metadata.SESSION_START_INFO_TAG]).hparams
    assert settings["kl_anneal_type"].string_value == "Monotonic" and settings["tfr"].number_value == 0.5
    assert settings["gradient_through_time"].bool_value is False and "run_dir" not in settings


def test_psnr_per_frame_of_the_best_validation_is_kept(finished):
    with open(finished / "run" / "psnr_per_frame.csv", newline="") as stream:
        curves = list(csv.DictReader(stream))
    assert [int(row["frame"]) for row in curves] == list(range(1, 12))
    best = max((row for row in _rows(finished) if row["val_psnr_prior"]), key=lambda row: float(row["val_psnr_prior"]))
    for name in ("prior", "posterior", "copy_first"):
        mean = np.mean([float(row[f"psnr_{name}"]) for row in curves])
        assert mean == pytest.approx(float(best[f"val_psnr_{name}"]), abs=1e-3)


def test_validation_numbers_are_those_of_the_exported_model(finished):
    config = _config(finished)
    frames, poses = data.load_footage(config, "val").longest(12)
    model = tf.saved_model.load(str(finished / "run" / "last_model")).signatures
    film = model["generate"](first_frame=tf.constant(frames[None, 0]), poses=tf.constant(poses[None, 1:]),
                             seed=tf.constant([0, 0]), temperature=tf.constant(1.0))["frames"][0]
    rebuilt = model["reconstruct"](frames=tf.constant(frames[None]), poses=tf.constant(poses[None]))["frames"][0]
    last = _rows(finished)[-1]
    assert float(last["val_psnr_prior"]) == pytest.approx(psnr_per_frame(frames[1:], film).mean(), abs=1e-3)
    assert float(last["val_psnr_posterior"]) == pytest.approx(psnr_per_frame(frames[1:], rebuilt).mean(), abs=1e-3)
    first = np.broadcast_to(frames[:1], frames[1:].shape)
    assert float(last["val_psnr_copy_first"]) == pytest.approx(psnr_per_frame(frames[1:], first).mean(), abs=1e-3)


def _time_is_up_after(monkeypatch, steps):
    """Let --max_minutes end within the step of that number."""
    step = CVAE.train_step

    def counted(model, clip):
        time_is_up = model.steps + 1 >= steps
        done = step(model, clip)
        tf.py_function(lambda flag: state.update(up=bool(flag)), [time_is_up], [])
        return done

    state = {"up": False}
    monkeypatch.setattr(CVAE, "train_step", counted)
    monkeypatch.setattr(StopRequest, "time_is_up", lambda self: state["up"])


@pytest.mark.slow
def test_a_run_continued_after_its_time_was_up_equals_an_uninterrupted_one(finished, tmp_path, monkeypatch, capsys):
    stop_at = 5  # within an epoch; `test_interruptions` stops at the end of one
    with monkeypatch.context() as patch:
        _time_is_up_after(patch, stop_at)
        training.train(_config(tmp_path, val_every=2))
    assert len(_rows(tmp_path)) == stop_at // 3
    assert (tmp_path / "model" / "saved_model.pb").is_file()
    assert f"Stopped by --max_minutes at step {stop_at} of 9" in capsys.readouterr().out
    training.train(_config(tmp_path, val_every=2))
    assert f"continuing at step {stop_at} of 9" in capsys.readouterr().out
    ours, theirs = _weights(tmp_path), _weights(finished)
    assert ours.keys() == theirs.keys()
    for name in theirs.keys() - {"rows"}:  # of the metrics, compared below without their seconds
        if name != "best":  # stopping validates once more
            np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
    for mine, other in zip(_rows(tmp_path), _rows(finished), strict=True):
        assert {**mine, "seconds": ""} == {**other, "seconds": ""}


def test_a_finished_run_is_left_as_it_is(finished, capsys):
    before = _weights(finished)
    training.train(_config(finished, val_every=2))
    assert "Finished at step 9 of 9" in capsys.readouterr().out
    for name, value in _weights(finished).items():
        np.testing.assert_array_equal(value, before[name])


def test_a_run_refuses_another_network(finished):
    with pytest.raises(InputError, match="begun with --width 4, now 8; give the same"):
        training.train(_config(finished, width=8))


def _exported_weights(model):
    reader = tf.train.load_checkpoint(str(model / "variables" / "variables"))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map() if name.startswith("weights")}


@pytest.mark.slow
def test_a_run_begins_with_the_weights_of_an_exported_model_and_continues_without_it(finished, tmp_path):
    start = tmp_path / "start"
    shutil.copytree(finished / "model", start)
    config = _config(tmp_path, init_from=str(start), lr=1e-30, seed=5)  # so that it ends with what it began with
    training.train(config)
    begun, ended = _exported_weights(start), _exported_weights(tmp_path / "run" / "last_model")
    assert begun.keys() == ended.keys() and len(begun) > 40
    for name, weight in begun.items():
        np.testing.assert_array_equal(weight, ended[name])

    shutil.rmtree(start)
    training.train(dataclasses.replace(config, num_epoch=4))
    assert len(_rows(tmp_path)) == 4


def test_weights_of_another_network_are_refused_before_anything_is_written(finished, tmp_path):
    with pytest.raises(InputError, match=r"is a model of --width 4, now 8; give the same"):
        training.train(_config(tmp_path, init_from=str(finished / "model"), width=8))
    with pytest.raises(InputError, match="no SavedModel in this folder"):
        training.train(_config(tmp_path, init_from=str(tmp_path / "nothing")))
    assert not (tmp_path / "run").exists()


def test_training_without_validation_data_is_refused_before_it_begins(lab_tree, tmp_path):
    shutil.copytree(lab_tree / "train", tmp_path / "data" / "train")
    with pytest.raises(InputError, match="val_img: no such folder"):
        training.train(_config(tmp_path, data_dir=str(tmp_path / "data")))
    assert not (tmp_path / "run").exists()


def test_twenty_skipped_updates_in_a_row_end_the_run(tmp_path, monkeypatch):
    batch = data.Clips.batch
    monkeypatch.setattr(data.Clips, "batch", lambda self, step: tuple(x * np.float32("nan") for x in batch(self, step)))
    with pytest.raises(InputError, match="not finite in 20 steps in a row, the last of them step 20 .*lower --lr"):
        training.train(_config(tmp_path, steps_per_epoch=30, num_epoch=1))


def test_learning_rates_are_those_asked_for():
    class Plan:
        def first_step(self, epoch):
            return 10 * epoch

    def rates(**options):
        rate = training._learning_rate(Config(num_epoch=10, **options), Plan())
        return [float(rate(step)) if callable(rate) else rate for step in (0, 1, 2, 19, 20, 49, 50, 99)]

    assert rates(lr=0.5, lr_schedule="constant") == [0.5] * 8
    np.testing.assert_allclose(rates(lr=1.0, lr_schedule="milestones"), [1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01], rtol=1e-6)
    cosine = rates(lr=1.0, lr_schedule="cosine")
    np.testing.assert_allclose(cosine[:3], [0, 0.5, 1.0], rtol=1e-6)
    half = 0.01 + 0.99 * 0.5 * (1 + np.cos(np.pi * (50 - 2) / 98))
    np.testing.assert_allclose([cosine[6], cosine[7]], [half, 0.01], atol=1e-3)


def test_noise_differs_from_step_to_step_and_repeats_with_the_seed():
    one, same, other = (make_model(seed=seed) for seed in (1, 1, 2))
    draws = [model.posterior(tf.zeros((1, 1, 16, 32, 3)), model.network.encode_poses(tf.zeros((1, 1, 16, 32, 3))))
             .sample(seed=model._key(1, step)).numpy() for model, step in ((one, 0), (same, 0), (one, 1), (other, 0))]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert np.any(draws[0] != draws[2]) and np.any(draws[0] != draws[3])


def test_other_folders_are_not_replaced_by_an_export(finished, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="is no exported model"):
        training.train(_config(tmp_path, export_dir=str(tmp_path / "mine")))
    with pytest.raises(InputError, match="holds the model of another run"):
        training.train(_config(tmp_path, export_dir=str(finished / "model")))
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "mine" and not (tmp_path / "run").exists()
