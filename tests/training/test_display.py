"""What a training run prints: lines that add up, a bar on a terminal only, and commands that work."""

import contextlib
import os
import re
import shlex
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from cvae_tf import cli
from cvae_tf.config import Config
from cvae_tf.training import display
from cvae_tf.training.display import Display
from cvae_tf.training.run import RunFolders, StopRequest

LOGS = {"loss": 0.0, "mse": 0.123456, "gd": 0.0334567, "kl": 12.3456, "beta": 0.0123, "tfr": 0.3, "lr": 1.234e-3,
        "skipped": 0.0}


def _logs(gdl, **values):
    logs = LOGS | values
    return logs | {"loss": logs["mse"] + gdl * logs["gd"] + logs["beta"] * logs["kl"]}


def _train(config, epochs, steps=4):
    """Call a `Display` as Keras does, for epochs of ``steps`` steps; ``epochs``: their logs."""
    shown = Display(config, range(0, steps * len(epochs)), {len(epochs) - 1}, StopRequest())
    shown.set_params({"steps": steps})
    with shown:
        for epoch, logs in enumerate(epochs):
            shown.on_epoch_begin(epoch)
            for batch in range(steps):
                shown.on_train_batch_begin(batch)
                shown.on_train_batch_end(batch, logs)
            shown.on_epoch_end(epoch, logs)
    return shown


@pytest.mark.parametrize("gdl", [2.0, 0.0])
@pytest.mark.parametrize("num_epoch", [2, 1000])
def test_lines_of_epochs_are_aligned_add_up_and_fit_in_100_columns(gdl, num_epoch, capsys):
    epochs = [_logs(gdl), _logs(gdl, mse=1234.5, val_psnr_prior=31.416), _logs(gdl, mse=0.0012, beta=1e-7, kl=98765.4)]
    _train(Config(gdl=gdl, num_epoch=num_epoch), epochs[:num_epoch])
    out = capsys.readouterr().out
    assert out.isascii() and "\x1b" not in out and "\r" not in out
    head, *lines = out.splitlines()[2:]
    assert out.count(head) == 1 and len(lines) == len(epochs[:num_epoch])
    assert head.rstrip().endswith("PSNR dB") and (f"{gdl:g} x gd" in head) == bool(gdl)
    for line in lines:
        assert len(line) <= len(head) <= 100
        assert [i for i, c in enumerate(head) if c in "=+"] == [i for i, c in enumerate(line[:50]) if c in "=+"]
        loss, *terms = re.split("[=+]", re.sub(r"^ *\S+ ", "", line))
        terms = [term.split()[0] for term in terms]
        tolerance = max(10.0 ** -len(term.partition(".")[2]) for term in [loss.strip(), *terms])
        assert float(loss) == pytest.approx(sum(map(float, terms)), abs=2 * tolerance)
    assert [len(line) == len(head) for line in lines] == [False, True, False][:num_epoch]  # only after a validation
    assert lines[1].endswith(" 31.42")


def test_skipped_updates_are_told_when_they_happen(capsys):
    _train(Config(), [_logs(2.0), _logs(2.0, skipped=3.0), _logs(2.0, skipped=3.0)])
    assert capsys.readouterr().out.count("3 updates skipped") == 1


def test_an_output_without_a_bar_gets_a_line_now_and_then(capsys, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock.__setitem__(0, clock[0] + 10.0) or clock[0])
    shown = _train(Config(num_epoch=1), [_logs(2.0)], steps=30)
    within = [line for line in capsys.readouterr().out.splitlines() if line.strip().startswith("step ")]
    assert 3 < len(within) < 30 and re.search(r"step \d+ of 30: 10.0 s a step, .* left", within[0])
    assert shown.step == 30


@pytest.mark.parametrize("limit, left", [(float("inf"), "85 s"), (50.0, "50 s"), (-5.0, "0 s")])
def test_the_time_left_is_that_of_all_steps_and_validations_within_the_limit(limit, left):
    stop = SimpleNamespace(took={"validation": 30.0, "export": 5.0}, seconds_left=lambda: limit)
    shown = Display(Config(), range(90, 100), {3, 7, 11}, stop)
    shown.epoch = 4
    shown.durations.extend([1.0, 3.0])
    assert shown._pace() == f"2.0 s a step, {left} left"  # 10 x 2 s + 2 x 30 s + 5 s


def _all_of(master):
    read = b""
    with os.fdopen(master, "rb", buffering=0) as stream, contextlib.suppress(OSError):  # at the end of a terminal
        while more := stream.read(1000):
            read += more
    return read


@pytest.mark.parametrize("columns", [100, 60])
def test_a_terminal_gets_a_bar_that_disappears(columns, monkeypatch):
    master, slave = pytest.importorskip("pty").openpty()
    with ThreadPoolExecutor(1) as pool, os.fdopen(slave, "w") as terminal:
        reading = pool.submit(_all_of, master)
        monkeypatch.setattr("sys.stdout", terminal)
        monkeypatch.setenv("TERM", "xterm-256color")
        monkeypatch.setenv("COLUMNS", str(columns))
        _train(Config(num_epoch=2), [_logs(2.0), _logs(2.0, val_psnr_prior=31.4)])
    raw = reading.result().decode()
    assert "━" in raw and "0/8" in raw and "8/8" in raw
    assert raw.count("\x1b[?25l") == 1 and raw.index("\x1b[?25h") < raw.index("8/8")  # the cursor stays visible
    assert raw.endswith("\x1b[1A\x1b[2K")  # up, and the line of the bar is erased
    text = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", raw)
    assert all(len(line) <= columns for line in re.split("[\r\n]+", text))
    assert ("tfr" in text.split("epoch  ")[1]) == (columns >= 100)  # a narrow line leaves the schedules out


@pytest.mark.parametrize("term", ["dumb", "xterm-color"])
def test_a_terminal_without_a_cursor_gets_plain_lines(term, monkeypatch):
    monkeypatch.setattr("sys.stdout", SimpleNamespace(isatty=lambda: True, write=lambda text: 0, flush=lambda: None))
    monkeypatch.setenv("TERM", term)
    assert Display(Config(), range(1), set(), StopRequest()).bar.disable


@pytest.mark.parametrize("on_disk", [False, True])
def test_the_end_names_the_result_and_commands_that_are_accepted(on_disk, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = Config(data_dir="my data" if on_disk else "studio")
    for name in ("val_img", "val_label"):
        (tmp_path / "my data" / "val" / name).mkdir(parents=True)
    folders = RunFolders(tmp_path / "runs" / "two", tmp_path / "models" / "two")
    for name, other in (("one", config), ("two", config), ("lab", Config(data_dir="lab")), ("none", None)):
        (tmp_path / "runs" / name).mkdir(parents=True)
        if other:
            (tmp_path / "runs" / name / "config.json").write_text(other.to_json())
            (tmp_path / "runs" / name / "metrics.csv").write_text("epoch\n0\n")
    folders.last_model.mkdir()
    result = SimpleNamespace(scores={"best": 25.5, "copy_first": 20.0}, steps=7)
    display.report(result, config, folders, 31, 8, 90.0, "python train.py --run_dir runs/two")
    out = capsys.readouterr().out
    assert "at step 7 of 8 after 1.5 minutes" in out and "25.50 dB, 5.50 dB better" in out and "31 frames" in out
    assert "To continue   python train.py --run_dir runs/two" in out
    found = {words[1]: words[4:] for line in out.splitlines() if line.startswith("To ") and "-m cvae_tf" in line
             for words in [shlex.split(line)]}
    for command, (name, *words) in zip(("predict", "evaluate", "compare"), found.values(), strict=True):
        assert name == "cvae_tf" and words[0] == command
        cli.parse(words)
    runs = [os.path.basename(word) for word in found["compare"][2:-2]]
    assert runs == ["one", "two"] and ("my data" in found["evaluate"]) == on_disk
    assert ("my data/val/val_img" in found["predict"]) == on_disk
