"""Command lines: what they ask for, before anything runs."""

import dataclasses
import re

import pytest

from cvae_tf import __version__, cli
from cvae_tf.cli import train_config
from cvae_tf.config import PRESETS, Config
from cvae_tf.errors import InputError
from cvae_tf.experiments import study


def test_without_flags_the_demo_trains_on_the_studio():
    config, dry_run, fresh = train_config([])
    assert config == Config() and config.preset == "demo" and config.data_dir == "studio" and not dry_run and not fresh


def test_lab_preset_is_the_reports_final_setting():
    config, *_ = train_config(["--preset", "lab"])
    expected = dict(network="lab", batch_size=2, optim="Adam", lr=1e-3, num_epoch=70, tfr=1.0, tfr_sde=10,
                    tfr_d_step=0.1, kl_anneal_type="Cyclical", kl_anneal_cycle=7, kl_anneal_ratio=1.0,
                    train_vi_len=16, val_vi_len=630, frame_H=32, frame_W=64, gradient_through_time=False,
                    tfr_draw="batch", F_dim=128, L_dim=32, N_dim=12, D_out_dim=192, clip_norm=1.0)
    assert {name: getattr(config, name) for name in expected} == expected


def test_a_flag_overrides_its_preset_in_either_order_and_spelling():
    for words in (["--preset", "lab", "--num-epoch", "3"], ["--num_epoch=3", "--preset=lab"]):
        config, *_ = train_config(words)
        assert (config.network, config.num_epoch) == ("lab", 3)


def test_dashes_in_values_stay():
    assert train_config(["--data-dir=my-data", "--run-dir", "my-run"])[0].data_dir == "my-data"


def test_switches_go_on_and_off():
    assert train_config(["--fast-train"])[0].fast_train
    assert not train_config(["--fast_train", "--no-fast-train"])[0].fast_train
    assert not train_config(["--preset", "best", "--no_mirror"])[0].mirror


@pytest.mark.parametrize("words, message", [
    (["--preset", "nonsense"], "--preset must be one of demo, debug, lab, study, best"),
    (["--network", "resnet"], "--network must be one of unet, lab"),
    (["--num_epoch", "0"], "--num_epoch must be at least 1, received 0"),
    (["--num_epoch", "three"], "num_epoch.*three"),
    (["--tfr", "1.5"], "--tfr must be at most 1"),
    (["--lr", "0"], "--lr must be above 0"),
    (["--lr", "nan"], "--lr must be a number"),
    (["--partial", "0"], "--partial must be above 0"),
    (["--train_vi_len", "1"], "--train_vi_len must be at least 2"),
    (["--kl_anneal_type", "cyclical"], "--kl_anneal_type must be one of Cyclical, Monotonic, WithoutKL"),
    (["--frame_H", "36"], "36x64"),
    (["--N_dim", "3", "--network", "lab"], "--N_dim must be at least 4"),
    (["--learning_rate", "1"], "--learning_rate"),
    (["--num_ep", "1"], "--num_ep"),
    (["--fresh"], "--run_dir"),
])
def test_bad_flags_are_refused_by_name(words, message):
    with pytest.raises(InputError, match=message):
        train_config(words)


def test_an_existing_run_needs_no_other_flag(tmp_path):
    config, *_ = train_config(["--preset", "lab", "--lr", "0.5", "--run_dir", str(tmp_path)])
    (tmp_path / "config.json").write_text(config.to_json())
    again, *_ = train_config(["--run_dir", str(tmp_path), "--num_epoch", "99"])
    assert again == dataclasses.replace(config, num_epoch=99)


def test_a_continued_run_has_no_time_limit_unless_it_gets_a_new_one(tmp_path):
    config, *_ = train_config(["--max_minutes", "3", "--run_dir", str(tmp_path)])
    assert config.max_minutes == 3
    (tmp_path / "config.json").write_text(config.to_json())
    assert train_config(["--run_dir", str(tmp_path)])[0].max_minutes == 0
    assert train_config(["--run_dir", str(tmp_path), "--max_minutes", "5"])[0].max_minutes == 5


def test_a_new_start_or_a_preset_does_not_take_the_old_settings(tmp_path):
    config, *_ = train_config(["--preset", "lab", "--run_dir", str(tmp_path)])
    (tmp_path / "config.json").write_text(config.to_json())
    for words in (["--fresh"], ["--preset", "demo"]):
        assert train_config(["--run_dir", str(tmp_path), *words])[0].network == "unet"


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_has_a_line_and_help(command, capsys):
    cli.parse([])()
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.split()[:1] == [command]]
    assert len(line.split()) > 4
    with pytest.raises(SystemExit) as ended:
        cli.parse([command, "--help"])
    text = capsys.readouterr().out
    assert ended.value.code == 0 and f"cvae_tf {command}" in text and "None" not in text


def test_every_flag_has_help(capsys):
    for command in cli.COMMANDS:
        with pytest.raises(SystemExit):
            cli.parse([command, "--help"])
        lines = capsys.readouterr().out.partition("options:")[2].splitlines()
        for line, after in zip(lines, [*lines[1:], ""], strict=True):
            if line.startswith("  --"):
                assert len(line) > 24 and line[24:].strip() or after.startswith(" " * 12), line


def _help(command, capsys, *words):
    with pytest.raises(SystemExit):
        cli.parse([command, *words, "--help"])
    return capsys.readouterr().out


@pytest.mark.parametrize("preset", PRESETS)
def test_help_shows_the_values_of_the_preset(preset, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    text, config = _help("train", capsys, "--preset", preset), Config(**PRESETS[preset], preset=preset)
    for name in ("num_epoch", "width", "optim", "lr", "gdl", "mirror"):
        [shown] = re.findall(rf"^  --{name} .*\[(.*)\]$", text, re.MULTILINE)
        value = getattr(config, name)
        assert shown == ("off", "on")[value] if isinstance(value, bool) else type(value)(shown) == value, name
    assert _help("train", capsys, f"--preset={preset}") == text
    assert f"the preset '{preset}'" in text


def test_help_without_a_known_preset_shows_the_default(capsys):
    assert _help("train", capsys, "--preset", "x") == _help("train", capsys)


@pytest.mark.parametrize("command", cli.COMMANDS)
@pytest.mark.parametrize("columns", [60, 100, 200])
def test_help_fits_the_terminal_and_two_screens(command, columns, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = _help(command, capsys).splitlines()
    assert all(len(line) <= min(columns, 100) for line in lines)
    assert columns < 100 or len(lines) <= (90 if command == "train" else 45)


def test_version(capsys):
    cli.parse(["--version"])()
    assert capsys.readouterr().out.strip() == __version__


def test_a_command_may_be_spelt_with_underscores():
    cli.parse(["export_torch", "--model", "m", "--out", "epoch=1.ckpt"])
    with pytest.raises(InputError, match="train, predict.*received 'fly'"):
        cli.parse(["fly"])


@pytest.mark.parametrize("words, message", [
    (["--fresh"], "--fresh cannot be given to a study"),
    (["--max-minutes", "5"], "--max_minutes cannot be given to a study"),
    (["--run_dir=x"], "--run_dir cannot be given to a study"),
    (["--minutes_per_run", "3", "--steps_per_epoch", "3"], "exclude each other"),
    (["--colour", "red"], "--colour"),
    (["--seed", "0", "--seed", "1"], "--seed is given twice"),
    (["--lr", "1e-3", "fast"], "argument --lr: invalid float value: 'fast'"),
    (["--seed", "0", "--minutes_per_run", "1", "2"], "unrecognized arguments: 2"),
])
def test_flags_that_a_study_chooses_are_refused(words, message):
    with pytest.raises(InputError, match=message):
        cli.parse(["study", "--out", "x", *words])


def test_a_study_shows_its_nine_runs(capsys):
    cli.parse(["study", "--out", "x", "--dry_run", "--seed", "4"])()
    text = capsys.readouterr().out
    assert text.count('"preset": "study"') == text.count('"seed": 4') == 9 and "Monotonic-tfr-0.5" in text


def test_flags_of_a_study_with_several_values_are_axes(monkeypatch):
    asked = []
    monkeypatch.setattr(study, "study", lambda config, out, **more: asked.append((config, out, more)))
    cli.parse(["study", "--kl-anneal-cycle", "4", "10", "--out", "x", "--seed", "1", "2", "--no_mirror", "--mirror",
               "--tfr=0.5", "--width", "8", "--xla"])()
    ((config, out, more),) = asked
    assert out == "x" and more == {"minutes_per_run": 0.0, "axes": {
        "kl_anneal_cycle": [4, 10], "seed": [1, 2], "mirror": [False, True], "tfr": [0.5]}}
    assert config == Config(**PRESETS["study"] | {"width": 8, "xla": True}, preset="study")
