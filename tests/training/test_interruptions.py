"""Runs that are interrupted, in this process and in others, and what remains of them."""

import csv
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

from cvae_tf.config import PRESETS, Config
from cvae_tf.data import footage as data
from cvae_tf.errors import InputError
from cvae_tf.files import read_csv
from cvae_tf.model.cvae import CVAE
from cvae_tf.training import loop as training
from cvae_tf.training.checkpoint import CheckpointFolder

# Epochs of two lengths: 1, 5 and 5 steps.
FLAGS = dict(PRESETS["debug"], preset="debug", width=4, frame_H=16, frame_W=32, num_epoch=3, steps_per_epoch=0,
             val_vi_len=12, max_frames=96, val_every=2, tfr=0.5, checkpoint_minutes=0.0, fast_train_epoch=1)
WORDS = ["--fast_train", *(word for name, value in FLAGS.items() for word in (f"--{name}", str(value)))]
FLAGS["fast_train"] = True


def _config(folder, **options):
    return Config(**{**FLAGS, "run_dir": str(folder / "run"), "export_dir": str(folder / "model"), **options})


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nobody interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    training.train(_config(folder))
    return folder


def _at_step(monkeypatch, number, act):
    """Call ``act()`` within the training step of that number (from 1)."""
    step = CVAE.train_step

    def watched(model, clip):
        done = step(model, clip)
        tf.py_function(lambda now: act() if now == number else None, [model.steps], [])
        return done

    monkeypatch.setattr(CVAE, "train_step", watched)


def _assert_equal_ends(folder, other):
    mine, theirs = (CheckpointFolder(at / "run" / "checkpoints").load()[1] for at in (folder, other))
    assert mine.keys() == theirs.keys()
    for name in theirs.keys() - {"rows"}:  # of the metrics, compared below without their seconds
        np.testing.assert_array_equal(mine[name], theirs[name], err_msg=name)
    mine, theirs = (read_csv(at / "run" / "metrics.csv") for at in (folder, other))
    assert [{**row, "seconds": ""} for row in mine] == [{**row, "seconds": ""} for row in theirs]
    for model in ("model", "run/last_model"):
        mine, theirs = (tf.train.load_checkpoint(str(at / model / "variables" / "variables")) for at in (folder, other))
        names = [name for name in theirs.get_variable_to_shape_map() if name.startswith("weights/")]
        assert len(names) > 20
        for name in names:
            np.testing.assert_array_equal(mine.get_tensor(name), theirs.get_tensor(name), err_msg=name)
    assert (folder / "run/psnr_per_frame.csv").read_text() == (other / "run/psnr_per_frame.csv").read_text()


@pytest.mark.parametrize("number, step, code", [
    pytest.param(signal.SIGINT, 4, 130, id="SIGINT within an epoch"),
    pytest.param(signal.SIGTERM, 6, 143, id="SIGTERM at the end of one", marks=pytest.mark.slow)])
def test_after_a_signal_the_command_that_is_shown_continues_exactly(whole, number, step, code, end_of, tmp_path,
                                                                    monkeypatch):
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored, if this is a background job
    with monkeypatch.context() as patch:
        _at_step(patch, step, lambda: os.kill(os.getpid(), number))
        ended = end_of("train.py", *WORDS, "--run_dir", "run", "--export_dir", "model")
    assert signal.signal(signal.SIGINT, inherited) == signal.default_int_handler  # put back by the run
    assert ended.code == code
    shown = re.search(rf"stopped by {number.name} after step {step} of 11; to continue after step {step}: (.*)",
                      ended.err)
    program, *words = shlex.split(shown[1])[1:]
    ended = end_of(program, *words)
    assert ended.code == 0 and f"continuing at step {step} of 11" in ended.out
    _assert_equal_ends(tmp_path, whole)


def test_a_second_signal_ends_the_process_at_once(tmp_path):
    code = ("import os, signal, time; from cvae_tf.training.stopping import StopRequest\n"
            "with StopRequest().listening():\n"
            "    for _ in range(2):\n        os.kill(os.getpid(), signal.SIGTERM); time.sleep(0.2)\n"
            "print('still here')")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 143 and done.stdout == "" and "once more to stop at once" in done.stderr


@pytest.mark.slow
def test_where_nobody_reads_the_output_any_more_the_run_saves_and_ends(tmp_path):
    command = [sys.executable, ROOT / "train.py", *WORDS, "--num_epoch", "1", "--steps_per_epoch", "1000",
               "--run_dir", "run", "--export_dir", "model"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        seen = b""
        while b"3/1000" not in seen:
            more = os.read(process.stdout.fileno(), 10_000)
            assert more, process.stderr.read()
            seen += more
        process.stdout.close()
        shown = process.stderr.read()
    assert process.returncode == 141 and "Traceback" not in shown and "Exception ignored" not in shown
    found = re.search(r"the output was closed; to continue after step (\d+): python train.py --run_dir run", shown)
    assert CheckpointFolder(tmp_path / "run" / "checkpoints").load()[0] == int(found[1])


def test_a_finished_run_says_so_and_changes_no_file(whole, capsys):
    def files():
        return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in whole.rglob("*") if path.is_file()}

    before = files()
    training.train(_config(whole))
    assert "Finished at step 11 of 11" in capsys.readouterr().out and files() == before


def test_more_epochs_continue_and_fewer_are_refused(whole, tmp_path, capsys):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    with pytest.raises(InputError, match="has 3 epochs behind it, more than the --num_epoch 2; give a higher number"):
        training.train(_config(tmp_path, num_epoch=2))
    training.train(_config(tmp_path, num_epoch=4, kl_anneal_type="Cyclical"))
    assert "continuing at step 11 of 16" in capsys.readouterr().out
    rows = read_csv(tmp_path / "run" / "metrics.csv")
    assert [row["epoch"] for row in rows] == ["0", "1", "2", "3"]
    assert float(rows[3]["beta"]) == pytest.approx(0.75)  # of four epochs; of three, epoch 2 had 2/3
    assert '"num_epoch": 4' in (tmp_path / "run" / "config.json").read_text()


def test_a_damaged_last_checkpoint_and_table_of_metrics_are_made_anew(whole, tmp_path, capsys):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    last = tmp_path / "run" / "checkpoints" / "step_00000011.npz"
    last.write_bytes(last.read_bytes()[:-100])
    (tmp_path / "run" / "metrics.csv").write_text("epoch,loss\n0")
    training.train(_config(tmp_path))
    shown = capsys.readouterr().out
    assert "step_00000011.npz: damaged" in shown and "continuing at step 10 of 11" in shown
    _assert_equal_ends(tmp_path, whole)


def _spoil_batches(monkeypatch, spoilt):
    batch = data.Clips.batch
    monkeypatch.setattr(data.Clips, "batch", lambda self, step: tuple(
        x * np.float32("nan" if spoilt(step) else 1) for x in batch(self, step)))


@pytest.mark.parametrize("options", [dict(lr=1e30), dict(kl_anneal_ratio=1e30)], ids=str)
def test_an_explosion_ends_with_a_line_and_leaves_no_checkpoint_of_it(options, tmp_path):
    config = _config(tmp_path, num_epoch=1, steps_per_epoch=40, max_frames=24, tfr=1.0, kl_anneal_type="WithoutKL",
                     **{"kl_anneal_ratio": 1.0, **options})
    with pytest.raises(InputError) as error:
        training.train(config)
    line = str(error.value)
    assert "not finite in 20 steps in a row, the last of them step 2" in line and "lower --lr" in line
    assert re.search(r"at learning rate \S+ and beta \S+ on the clips studio 1, frame \d+ to studio 1, frame \d+", line)
    files = CheckpointFolder(tmp_path / "run" / "checkpoints").files()
    # Good updates may come before: the first, at the foot of the climb, and the second, since the kl of a fresh network
    # is 0 until its colours have moved.
    assert max(files, default=0) <= 2
    for path in files.values():
        with np.load(path) as arrays:
            assert all(np.all(np.abs(arrays[name]) < 1e6) for name in arrays["names"]
                       if arrays[name].ndim and arrays[name].dtype.kind == "f")


def test_a_bad_batch_is_skipped_and_counted_and_a_run_continues_from_before_many(tmp_path, monkeypatch, capsys):
    options = dict(num_epoch=1, steps_per_epoch=30, max_frames=24)
    with monkeypatch.context() as patch:
        _spoil_batches(patch, lambda step: step == 1 or step >= 5)
        with pytest.raises(InputError, match="the last of them step 25.*to continue after step 4: python train.py"):
            training.train(_config(tmp_path, **options))
    training.train(_config(tmp_path, lr=1e-4, **options))
    assert "continuing at step 4 of 30" in capsys.readouterr().out
    [row] = read_csv(tmp_path / "run" / "metrics.csv")
    assert row["skipped"] == "1.0" and np.isfinite(float(row["loss"]))


def test_a_folder_that_is_removed_while_running_ends_the_run(tmp_path, monkeypatch):
    _at_step(monkeypatch, 4, lambda: shutil.rmtree(tmp_path / "run"))
    with pytest.raises(InputError, match="run: was removed or replaced while it was being trained, so nothing"):
        training.train(_config(tmp_path))
    assert not (tmp_path / "run").exists()


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
    assert not [path for path in kept.rglob(".*") if path.name != ".cvae_tf_cache"]
    with open(kept / "run" / "metrics.csv", newline="") as stream:
        assert len(list(csv.DictReader(stream))) > 0


@pytest.mark.slow
def test_two_runs_of_one_seed_are_equal_and_deterministic_changes_nothing_on_a_cpu(whole, tmp_path):
    words = [*WORDS, "--run_dir", "run", "--export_dir", "model", "--deterministic"]
    subprocess.run([sys.executable, ROOT / "train.py", *words], cwd=tmp_path, check=True, capture_output=True)
    _assert_equal_ends(tmp_path, whole)
