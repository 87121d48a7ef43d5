"""Whole runs in this process: what they write, that they continue exactly, and how they end early."""

import dataclasses
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cvae_tf.config import PRESETS, Config
from cvae_tf.data.footage import load_footage
from cvae_tf.errors import InputError
from cvae_tf.evaluation.metrics import psnr_per_frame
from cvae_tf.experiments.compare import load_run, table
from cvae_tf.files import atomic, read_csv
from cvae_tf.inference.exported_model import write_owner
from cvae_tf.model.cvae import CVAE
from cvae_tf.training import board, build, callbacks, loop
from cvae_tf.training import run as runs
from cvae_tf.training.checkpoint import CheckpointFolder
from cvae_tf.training.loop import train
from cvae_tf.training.run import StopRequest

# Epochs of two lengths: 1, 5 and 5 steps.
FLAGS = dict(PRESETS["debug"], preset="debug", width=4, frame_H=16, frame_W=32, num_epoch=3, steps_per_epoch=0,
             val_vi_len=12, max_frames=96, val_every=2, kl_anneal_type="Monotonic", tfr=0.5, tfr_sde=1, tfr_d_step=0.25,
             checkpoint_minutes=0.0, fast_train_epoch=1)
WORDS = ["--fast_train", *(word for name, value in FLAGS.items() for word in (f"--{name}", str(value)))]
FLAGS["fast_train"] = True


def _config(folder, **options):
    return Config(**{**FLAGS, "run_dir": str(folder / "run"), "export_dir": str(folder / "model"), **options})


def _rows(folder):
    return read_csv(folder / "run" / "metrics.csv")


def _checkpoint(folder):
    return CheckpointFolder(folder / "run" / "checkpoints").load()[1]


# ---------------------------------------------------------------------- exports

REAL_SAVE_MODEL = loop.save_model


def _keep_weights(model, folder):
    weights = {name: weight.numpy() for name, weight in model.network.named_weights().items()}
    (folder / "assets").mkdir(exist_ok=True)
    np.savez(folder / "assets" / "weights.npz", **weights)


def _save_weights_only(model, path, config, run, origin):
    """In place of `save_model`, which takes seconds: a folder that looks like an exported model."""
    with atomic(path) as unfinished:
        unfinished.mkdir()
        (unfinished / "saved_model.pb").touch()
        (unfinished / "config.json").write_text(config.to_json())
        write_owner(unfinished, run, finished=False)
        _keep_weights(model, unfinished)


def _save_all(model, path, config, run, origin):
    REAL_SAVE_MODEL(model, path, config, run, origin)
    _keep_weights(model, path)


@pytest.fixture(autouse=True)
def quick_exports(monkeypatch):
    monkeypatch.setattr(loop, "save_model", _save_weights_only)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nobody interrupted, with its exports; the folder, and the result."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "save_model", _save_all)
        return folder, train(_config(folder))


def _assert_equal_ends(folder, other):
    mine, theirs = _checkpoint(folder), _checkpoint(other)
    assert mine.keys() == theirs.keys() and len(theirs) > 80
    for name in theirs.keys() - {"run/rows"}:  # compared below without their seconds
        np.testing.assert_array_equal(mine[name], theirs[name], err_msg=name)
    mine, theirs = _rows(folder), _rows(other)
    assert [{**row, "seconds": ""} for row in mine] == [{**row, "seconds": ""} for row in theirs]
    for model in ("model", "run/last_model"):
        with (np.load(folder / model / "assets/weights.npz") as mine,
              np.load(other / model / "assets/weights.npz") as theirs):
            assert set(mine) == set(theirs) and len(set(theirs)) > 20
            for name in theirs:
                np.testing.assert_array_equal(mine[name], theirs[name], err_msg=name)
    assert (folder / "run/psnr_per_frame.csv").read_text() == (other / "run/psnr_per_frame.csv").read_text()


# ---------------------------------------------------------------------- what a run leaves

def test_a_run_leaves_what_it_promises(whole):
    folder, _ = whole
    run = folder / "run"
    assert json.loads((run / "config.json").read_text())["width"] == 4
    for model in (folder / "model", run / "last_model"):
        assert (model / "saved_model.pb").is_file() and (model / "config.json").is_file()
    assert [path.name for path in sorted((run / "samples").iterdir())] == ["epoch_002.gif", "epoch_003.gif"]
    assert not list(folder.rglob("*.tmp"))


def test_the_result_tells_the_scores_the_history_and_the_paths(whole):
    folder, result = whole
    rows = _rows(folder)
    assert result.steps == 11 and (result.run_dir, result.model_dir) == (folder / "run", folder / "model")
    assert result.last_model_dir == folder / "run" / "last_model"
    assert {name: len(column) for name, column in result.history.items()} == dict.fromkeys(rows[0], 3)
    assert result.history["loss"] == [float(row["loss"]) for row in rows]
    assert np.isnan(result.history["val_psnr_prior"][0])
    assert result.scores["best"] == pytest.approx(max(result.history["val_psnr_prior"][1:]), abs=1e-4)
    assert result.scores["posterior"] == result.history["val_psnr_posterior"][-1]
    assert result.scores["copy_first"] == pytest.approx(result.history["val_psnr_copy_first"][-1], abs=1e-4)


def test_metrics_have_a_row_for_each_epoch_with_the_values_in_use(whole):
    rows = _rows(whole[0])
    assert list(rows[0])[:11] == ["epoch", "loss", "mse", "kl", "beta", "tfr", "lr", "grad_norm", "val_psnr_prior",
                                  "val_psnr_posterior", "val_psnr_copy_first"]
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    np.testing.assert_allclose([float(row["beta"]) for row in rows], [0, 1 / 3, 2 / 3], rtol=1e-6)
    np.testing.assert_allclose([float(row["tfr"]) for row in rows], [0.5, 0.25, 0])
    for row in rows:
        terms = float(row["mse"]) + Config().gdl * float(row["gd"]) + float(row["beta"]) * float(row["kl"])
        assert float(row["loss"]) == pytest.approx(terms, rel=1e-5) and float(row["gd"]) > 0
    assert [row["val_psnr_prior"] == "" for row in rows] == [True, False, False]  # every second epoch, and the last


def test_tensorboard_has_one_entry_with_the_film_the_psnr_and_each_column_of_the_metrics(whole):
    folder = whole[0] / "run" / "tensorboard"
    assert [path.parent for path in folder.rglob("*tfevents*")] == [folder]
    events = EventAccumulator(str(folder)).Reload()
    scalars = {tag: {event.step: tf.make_ndarray(event.tensor_proto).item() for event in events.Tensors(tag)}
               for tag in [*board.PSNR.values(), *board.SCALARS.values()]}
    rows = _rows(whole[0])
    for name, tag in board.SCALARS.items():
        assert scalars[tag] == pytest.approx({epoch: float(row[name]) for epoch, row in enumerate(rows, 1)})
    for name, tag in board.PSNR.items():
        validated = {epoch: float(row[f"val_psnr_{name.replace('-', '_')}"]) for epoch, row in enumerate(rows, 1)
                     if row["val_psnr_prior"]}
        assert scalars[tag] == pytest.approx(validated, abs=1e-3)
    assert [event.step for event in events.Tensors("film/free_running")] == [2, 3]


def test_psnr_per_frame_of_the_best_validation_is_kept(whole):
    curves = read_csv(whole[0] / "run" / "psnr_per_frame.csv")
    assert [int(row["frame"]) for row in curves] == list(range(1, 12))
    best = max((row for row in _rows(whole[0]) if row["val_psnr_prior"]), key=lambda row: float(row["val_psnr_prior"]))
    for name in ("prior", "posterior", "copy_first"):
        mean = np.mean([float(row[f"psnr_{name}"]) for row in curves])
        assert mean == pytest.approx(float(best[f"val_psnr_{name}"]), abs=1e-3)


def test_validation_numbers_are_those_of_the_exported_model(whole):
    footage = load_footage("studio", frame_size=(16, 32), max_frames=96).val
    frames, poses = (tf.constant(x[None] / np.float32(255)) for x in footage.longest(12))
    model = tf.saved_model.load(str(whole[0] / "run" / "last_model")).signatures
    film = model["generate"](first_frame=frames[:, 0], poses=poses[:, 1:], seed=tf.constant([0, 0]),
                             temperature=tf.constant(1.0))["frames"][0]
    rebuilt = model["reconstruct"](frames=frames, poses=poses)["frames"][0]
    last, truth = _rows(whole[0])[-1], frames[0, 1:].numpy()
    assert float(last["val_psnr_prior"]) == pytest.approx(psnr_per_frame(truth, film).mean(), abs=1e-3)
    assert float(last["val_psnr_posterior"]) == pytest.approx(psnr_per_frame(truth, rebuilt).mean(), abs=1e-3)
    first = np.broadcast_to(frames[:, 0], truth.shape)
    assert float(last["val_psnr_copy_first"]) == pytest.approx(psnr_per_frame(truth, first).mean(), abs=1e-3)


# ---------------------------------------------------------------------- continuing

def _at_step(monkeypatch, number, act):
    """Call ``act()`` within the training step of that number, which counts from 1."""
    step = CVAE.train_step

    def watched(model, data):
        done = step(model, data)
        tf.py_function(lambda now: act() if now == number else None, [model.steps], [])
        return done

    monkeypatch.setattr(CVAE, "train_step", watched)


@pytest.mark.slow
@pytest.mark.parametrize("number, step, code", [
    pytest.param(signal.SIGINT, 4, 130, id="SIGINT within an epoch"),
    pytest.param(signal.SIGTERM, 6, 143, id="SIGTERM at the end of one")])
def test_after_a_signal_the_command_that_is_shown_continues_exactly(whole, number, step, code, end_of, tmp_path,
                                                                    monkeypatch):
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored, if this is a background job
    monkeypatch.setattr(sys, "argv", ["train.py"])  # the message names the program that was started
    with monkeypatch.context() as patch:
        _at_step(patch, step, lambda: os.kill(os.getpid(), number))
        ended = end_of("train", *WORDS, "--run_dir", "run", "--export_dir", "model")
    assert signal.signal(signal.SIGINT, inherited) == signal.default_int_handler  # put back by the run
    assert ended.code == code
    shown = re.search(rf"stopped by {number.name} after step {step} of 11; to continue after step {step}: (.*)",
                      ended.err)
    program, *words = shlex.split(shown[1])[1:]
    assert program == "train.py"
    ended = end_of("train", *words)
    assert ended.code == 0 and f"continuing at step {step} of 11" in ended.out
    _assert_equal_ends(tmp_path, whole[0])


def test_a_second_signal_ends_the_process_at_once(tmp_path):
    code = ("import os, signal, time; from cvae_tf.training.run import StopRequest\n"
            "with StopRequest().listening():\n"
            "    for _ in range(2):\n        os.kill(os.getpid(), signal.SIGTERM); time.sleep(0.2)\n"
            "print('still here')")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 143 and done.stdout == "" and "once more to stop at once" in done.stderr


@pytest.mark.slow
def test_a_run_continued_after_its_time_was_up_equals_an_uninterrupted_one(whole, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        up = []
        _at_step(patch, 4, lambda: up.append(True))
        patch.setattr(StopRequest, "time_is_up", lambda self: bool(up))
        result = train(_config(tmp_path))
    assert result.steps == 4 and len(_rows(tmp_path)) == 1 and (tmp_path / "model" / "saved_model.pb").is_file()
    assert np.isfinite(result.scores["best"]) and "Stopped by --max_minutes at step 4 of 11" in capsys.readouterr().out
    [stopped] = read_csv(tmp_path / "run" / "stopped.csv")  # after the epoch of 1 step, 3 of 5 steps
    assert float(stopped["epochs"]) == 1.6 and float(stopped["val_psnr_prior"]) == result.scores["best"]
    header, [row] = table([load_run(tmp_path / "run")])
    assert dict(zip(header, row, strict=True))["final_psnr_prior"] == f"{result.scores['best']:.2f}"
    train(_config(tmp_path))
    assert not (tmp_path / "run" / "stopped.csv").exists()
    assert "continuing at step 4 of 11" in capsys.readouterr().out
    ours, theirs = _checkpoint(tmp_path), _checkpoint(whole[0])
    for name in theirs.keys() - {"run/rows", "run/best"}:  # stopping validates once more
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
    for mine, other in zip(_rows(tmp_path), _rows(whole[0]), strict=True):
        assert {**mine, "seconds": ""} == {**other, "seconds": ""}


def test_a_finished_run_says_so_and_changes_no_file(whole, capsys):
    folder, result = whole

    def files():
        return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.rglob("*") if path.is_file()}

    before = files()
    again = train(_config(folder))
    assert "Finished at step 11 of 11" in capsys.readouterr().out and files() == before
    assert again.scores == result.scores and again.steps == 11


@pytest.mark.slow
def test_more_epochs_continue_and_fewer_are_refused(whole, tmp_path, capsys):
    shutil.copytree(whole[0], tmp_path, dirs_exist_ok=True)
    with pytest.raises(InputError, match="has 3 epochs behind it, more than the --num_epoch 2"):
        train(_config(tmp_path, num_epoch=2))
    train(_config(tmp_path, num_epoch=4))
    assert "continuing at step 11 of 16" in capsys.readouterr().out
    rows = _rows(tmp_path)
    assert [row["epoch"] for row in rows] == ["0", "1", "2", "3"]
    assert float(rows[3]["beta"]) == pytest.approx(0.75)  # of four epochs; of three, epoch 2 had 2/3
    assert json.loads((tmp_path / "run" / "config.json").read_text())["num_epoch"] == 4


@pytest.mark.slow
def test_a_damaged_last_checkpoint_and_table_of_metrics_are_made_anew(whole, tmp_path, capsys):
    shutil.copytree(whole[0], tmp_path, dirs_exist_ok=True)
    last = tmp_path / "run" / "checkpoints" / "step_00000011.npz"
    last.write_bytes(last.read_bytes()[:-100])
    (tmp_path / "run" / "metrics.csv").write_text("epoch,loss\n0")
    train(_config(tmp_path))
    shown = capsys.readouterr().out
    assert "step_00000011.npz: damaged" in shown and "continuing at step 10 of 11" in shown
    _assert_equal_ends(tmp_path, whole[0])


def test_a_missing_last_model_is_exported_anew(whole, tmp_path):
    shutil.copytree(whole[0], tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "run" / "last_model")
    train(_config(tmp_path))
    _assert_equal_ends(tmp_path, whole[0])


def test_a_continued_run_does_not_inherit_the_time_limit_of_the_session_before(tmp_path):
    from cvae_tf.cli import train_config

    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text(_config(tmp_path, max_minutes=5.0).to_json())
    config, _, _ = train_config(["--run_dir", str(run)])
    assert config.max_minutes == 0 and config.width == FLAGS["width"]
    assert train_config(["--run_dir", str(run), "--max_minutes", "3"])[0].max_minutes == 3


@pytest.mark.slow
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2 or not shutil.which("taskset"), reason="needs two cores")
def test_deterministic_runs_are_equal_to_the_bit_on_one_core_and_on_two(tmp_path):
    ends = []
    for cores in sorted(os.sched_getaffinity(0))[:1], sorted(os.sched_getaffinity(0))[:2]:
        folder = tmp_path / str(len(cores))
        folder.mkdir()
        command = ["taskset", "-c", ",".join(map(str, cores)), sys.executable, ROOT / "train.py", *WORDS, "--num_epoch",
                   "2", "--run_dir", "run", "--export_dir", "model", "--deterministic"]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
        ends.append(_checkpoint(folder))
    one, two = ends
    assert one.keys() == two.keys() and int(one["model/steps"]) == 6 and "threads 2" in one["run/environment"]
    for name in two.keys() - {"run/rows"}:
        np.testing.assert_array_equal(one[name], two[name], err_msg=name)


def test_deterministic_is_refused_where_tensorflow_runs_with_other_threads_already(tmp_path, monkeypatch):
    tf.constant(1) + 1  # starts it
    monkeypatch.setattr(build, "THREADS", 7)
    with pytest.raises(InputError, match="--deterministic needs 7 threads .* another number; start Python anew"):
        train(_config(tmp_path, deterministic=True))
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------- the time limit

@pytest.fixture
def clock(monkeypatch):
    """A clock that moves only by hand: ``clock[0]`` in seconds."""
    now = [1000.0]
    monkeypatch.setattr(runs.time, "monotonic", lambda: now[0])
    return now


def test_the_time_limit_leaves_time_for_a_validation_and_two_exports(clock):
    stop = StopRequest(2.0, began=990.0)  # ends at 1110
    with stop.timing("validation"):
        clock[0] += 10
    with stop.timing("export"):
        clock[0] += 5
    assert stop.took == {"validation": 10, "export": 5} and stop.seconds_left() == 1110 - 1015 - 1.05 * 20
    for now, up in ((1088.9, False), (1089.1, True)):
        clock[0] = now
        assert stop.time_is_up() == up == stop.due()
    assert StopRequest().seconds_left() == float("inf") and not StopRequest().due()


@pytest.mark.parametrize("minutes, late", [(0.5, 0.3), (0.79, 0.01), (0.81, None), (2.0, None)])
def test_a_time_limit_that_cannot_be_kept_is_announced(minutes, late, clock, capsys):
    stop = StopRequest(minutes)
    stop.took = {"validation": 20.0, "export": 5.0}
    clock[0] += 6.5  # 6.5 s of start, about 10 s for the first step, and 1.05 * 30 s for the end: 0.8 minutes
    loop._announce(minutes, stop)
    said = capsys.readouterr().out
    assert bool(said) == bool(late)
    if late:
        assert f"--max_minutes {minutes:g} is too short" in said and f"about {minutes + late:.1f} minutes" in said


def test_the_first_estimate_adds_the_tracing_and_the_whole_clip_up(clock):
    frames = np.zeros((330, 8, 16, 3), np.uint8)
    stop = StopRequest(1.0)
    validation = callbacks.Validation((frames, frames), set(), None, None, None, stop, None)
    took = iter([8.0, 2.0])  # the first run traces, for 6 s; 33 frames take 2 s

    def run_freely(length):
        assert length == 33
        clock[0] += next(took)

    validation._run_freely = run_freely
    validation.estimate()
    assert stop.took == {"validation": 6 + 20, "export": 9}


# ---------------------------------------------------------------------- beginning

def test_initial_weights_depend_on_the_seed_alone_and_no_random_generator_is_disturbed():
    import random

    random.seed(123)
    np.random.seed(123)
    before = random.getstate(), np.random.get_state()[1].tobytes()
    one, same, other = (build.build_network(Config(width=4, seed=seed)).named_weights() for seed in (1, 1, 2))
    assert (random.getstate(), np.random.get_state()[1].tobytes()) == before
    for name, weight in one.items():
        np.testing.assert_array_equal(weight.numpy(), same[name].numpy())
    assert any(np.any(weight.numpy() != other[name].numpy()) for name, weight in one.items())


@pytest.mark.slow
def test_a_run_begins_with_the_weights_of_an_exported_model_and_continues_without_it(whole, tmp_path):
    start = tmp_path / "start"
    shutil.copytree(whole[0] / "model", start)
    config = _config(tmp_path, init_from=str(start), lr=1e-30, seed=5)  # so that it ends with what it began with
    train(config)
    with (np.load(start / "assets/weights.npz") as begun,
          np.load(tmp_path / "run/last_model/assets/weights.npz") as ended):
        assert set(begun) == set(ended)
        for name in begun:
            np.testing.assert_array_equal(begun[name], ended[name])

    shutil.rmtree(start)
    train(dataclasses.replace(config, num_epoch=4))
    assert len(_rows(tmp_path)) == 4


def test_what_does_not_belong_together_is_refused_before_anything_is_written(whole, lab_tree, tmp_path):
    with pytest.raises(InputError, match="begun with --width 4, now 8"):
        train(_config(whole[0], width=8))
    with pytest.raises(InputError, match="is a model of --width 4, now 8"):
        train(_config(tmp_path, init_from=str(whole[0] / "model"), width=8))
    with pytest.raises(InputError, match="no SavedModel in this folder"):
        train(_config(tmp_path, init_from=str(tmp_path / "nothing")))
    shutil.copytree(lab_tree / "train", tmp_path / "data" / "train")
    with pytest.raises(InputError, match="val_img: no such folder"):
        train(_config(tmp_path, data_dir=str(tmp_path / "data")))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="is no exported model"):
        train(_config(tmp_path, export_dir=str(tmp_path / "mine")))
    with pytest.raises(InputError, match="belongs to another run"):
        train(_config(tmp_path, export_dir=str(whole[0] / "model")))
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "mine" and not (tmp_path / "run").exists()


def test_learning_rates_are_those_asked_for():
    def rates(schedule, highest):
        rate = build.learning_rate(schedule, highest, lambda epoch: 10 * epoch, num_epoch=10)
        return [float(rate(step)) if callable(rate) else rate for step in (0, 1, 2, 19, 20, 49, 50, 99)]

    assert rates("constant", 0.5) == [0.5] * 8
    np.testing.assert_allclose(rates("milestones", 1.0), [1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01], rtol=1e-6)
    cosine = rates("cosine", 1.0)
    np.testing.assert_allclose(cosine[:3], [0.5, 1, 1], atol=1e-3)
    half = 0.01 + 0.99 * 0.5 * (1 + np.cos(np.pi * (50 - 1) / 98))
    np.testing.assert_allclose([cosine[6], cosine[7]], [half, 0.01], atol=1e-3)


# ---------------------------------------------------------------------- ending early

@pytest.mark.slow
@pytest.mark.parametrize("options", [
    pytest.param(dict(lr=1e30), id="rate"), pytest.param(dict(kl_anneal_ratio=1e30), id="beta")])
def test_an_explosion_ends_with_a_line_and_leaves_no_checkpoint_of_it(options, tmp_path):
    config = _config(tmp_path, num_epoch=1, fast_train=False, steps_per_epoch=40, max_frames=24, tfr=1.0,
                     kl_anneal_type="WithoutKL", **{"kl_anneal_ratio": 1.0, **options})
    with pytest.raises(InputError) as error:
        train(config)
    line = str(error.value)
    assert "not finite in 20 steps in a row, the last of them step 2" in line and "lower --lr" in line
    assert re.search(r"at learning rate \S+ and beta \S+ on the clips studio 1, frame \d+ to studio 1, frame \d+", line)
    files = CheckpointFolder(tmp_path / "run" / "checkpoints").files()
    # Good updates may come before: the kl of a fresh network is 0 until its colours have moved.
    assert max(files, default=0) <= 2
    for path in files.values():
        with np.load(path) as arrays:
            assert all(np.all(np.abs(arrays[name]) < 1e6) for name in arrays["names"]
                       if arrays[name].ndim and arrays[name].dtype.kind == "f")


@pytest.mark.slow
def test_a_bad_batch_is_skipped_and_counted_and_a_run_continues_from_before_many(tmp_path, monkeypatch, capsys):
    step = CVAE.train_step

    def spoilt(model, data):
        factor = tf.where((model.steps == 1) | (model.steps >= 5), float("nan"), 1.0)
        return step(model, {**data, "frames": factor * tf.cast(data["frames"], tf.float32) / 255})

    options = dict(num_epoch=1, fast_train=False, steps_per_epoch=30, max_frames=24)
    with monkeypatch.context() as patch:
        patch.setattr(CVAE, "train_step", spoilt)
        with pytest.raises(InputError, match="20 steps in a row, the last of them step 25.*to continue after step 4: "):
            train(_config(tmp_path, **options))
    train(_config(tmp_path, lr=1e-4, **options))
    assert "continuing at step 4 of 30" in capsys.readouterr().out
    [row] = _rows(tmp_path)
    assert row["skipped"] == "1.0" and np.isfinite(float(row["loss"]))


@pytest.mark.slow
def test_a_folder_that_is_removed_while_running_ends_the_run(tmp_path, monkeypatch):
    _at_step(monkeypatch, 4, lambda: shutil.rmtree(tmp_path / "run"))
    with pytest.raises(InputError, match="run: was removed or replaced while it was being trained"):
        train(_config(tmp_path))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_where_nobody_reads_the_output_any_more_the_run_saves_and_ends(tmp_path):
    command = [sys.executable, ROOT / "train.py", *WORDS, "--num_epoch", "1000", "--steps_per_epoch", "3",
               "--val_every", "1000", "--checkpoint_minutes", "0", "--run_dir", "run", "--export_dir", "model"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        seen = b""
        while b" 2/1000" not in seen:
            more = os.read(process.stdout.fileno(), 10_000)
            assert more, process.stderr.read()
            seen += more
        process.stdout.close()
        shown = process.stderr.read()
    assert process.returncode == 141 and "Traceback" not in shown and "Exception ignored" not in shown
    found = re.search(r"the output was closed; to continue after step (\d+): python train.py --run_dir run", shown)
    assert CheckpointFolder(tmp_path / "run" / "checkpoints").load()[0] == int(found[1])


@pytest.mark.slow
def test_a_full_disk_ends_the_run_and_what_is_there_stays_whole(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    words = shlex.join([sys.executable, str(ROOT / "train.py"), *WORDS, "--num_epoch", "20", "--checkpoint_minutes",
                        "0"])
    script = (f"mount -t tmpfs -o size=700k tmpfs {disk} && cd {disk} && {words} --run_dir run --export_dir model; "
              f"echo code $?; mkdir {tmp_path}/kept; cp -r {disk}/. {tmp_path}/kept")
    done = subprocess.run(["unshare", "--map-root-user", "--mount", "sh", "-c", script], capture_output=True, text=True)
    if "code" not in done.stdout:
        pytest.skip(f"no file system of its own can be mounted here: {done.stderr.strip()}")
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "code 2" in done.stdout and len(errors) == 1, done.stderr[-2000:]
    assert "No space left on device" in errors[0] and "python train.py --run_dir run" in errors[0]
    kept = tmp_path / "kept"
    assert CheckpointFolder(kept / "run" / "checkpoints").load()[0] > 0
    assert not [path for path in kept.rglob(".*") if not path.name.startswith(".cvae_tf")]
    assert _rows(kept)
