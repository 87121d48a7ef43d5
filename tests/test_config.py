import dataclasses
import json

import pytest

from cvae_tf.config import PRESETS, Config, load_config, parse_train_args
from cvae_tf.errors import InputError


def test_without_flags_the_demo_trains_on_the_studio():
    config, dry_run, fresh = parse_train_args([])
    assert config == Config() and config.preset == "demo" and config.data_dir == "studio" and not dry_run and not fresh


def test_lab_preset_is_the_seeds_final_setting():
    config, *_ = parse_train_args(["--preset", "lab"])
    expected = dict(network="lab", batch_size=2, optim="Adam", lr=1e-3, num_epoch=70, tfr=1.0, tfr_sde=10,
                    tfr_d_step=0.1, kl_anneal_type="Cyclical", kl_anneal_cycle=7, kl_anneal_ratio=1.0,
                    train_vi_len=16, val_vi_len=630, frame_H=32, frame_W=64, gradient_through_time=False,
                    tfr_draw="batch", F_dim=128, L_dim=32, N_dim=12, D_out_dim=192, clip_norm=1.0)
    assert {name: getattr(config, name) for name in expected} == expected


def test_a_flag_overrides_its_preset_in_either_order_and_spelling():
    for words in (["--preset", "lab", "--num-epoch", "3"], ["--num_epoch=3", "--preset=lab"]):
        config, *_ = parse_train_args(words)
        assert (config.network, config.num_epoch) == ("lab", 3)


def test_switches_go_on_and_off():
    assert parse_train_args(["--fast-train"])[0].fast_train
    assert not parse_train_args(["--fast_train", "--no-fast-train"])[0].fast_train


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_resolves_and_survives_json(preset, tmp_path):
    config, *_ = parse_train_args(["--preset", preset])
    (tmp_path / "config.json").write_text(config.to_json())
    assert load_config(tmp_path / "config.json") == config


@pytest.mark.parametrize("words, message", [
    (["--preset", "nonsense"], "--preset must be one of demo, debug, lab, study, best"),
    (["--network", "resnet"], "--network must be one of unet, lab"),
    (["--num_epoch", "0"], "--num_epoch must be at least 1, received 0"),
    (["--num_epoch", "three"], "num_epoch.*three"),
    (["--tfr", "1.5"], "--tfr must be at most 1"),
    (["--lr", "0"], "--lr must be above 0"),
    (["--lr", "nan"], "--lr must be a number that a float32 can hold"),
    (["--partial", "0"], "--partial must be above 0"),
    (["--train_vi_len", "1"], "--train_vi_len must be at least 2"),
    (["--kl_anneal_type", "cyclical"], "--kl_anneal_type must be one of Cyclical, Monotonic, WithoutKL"),
    (["--frame_H", "36"], "8 divides"),
    (["--N_dim", "3", "--network", "lab"], "--N_dim must be at least 4"),
    (["--learning_rate", "1"], "unrecognized arguments: --learning_rate"),
    (["--num_ep", "1"], "unrecognized arguments"),
])
def test_bad_flags_are_refused_by_name(words, message):
    with pytest.raises(InputError, match=message):
        parse_train_args(words)


def test_an_existing_run_needs_no_other_flag(tmp_path):
    config, *_ = parse_train_args(["--preset", "lab", "--lr", "0.5", "--run_dir", str(tmp_path)])
    (tmp_path / "config.json").write_text(config.to_json())
    again, *_ = parse_train_args(["--run_dir", str(tmp_path), "--num_epoch", "99"])
    assert again == dataclasses.replace(config, num_epoch=99)


@pytest.mark.parametrize("text, message", [("{", "not a configuration"), ('{"colour": 1}', "colour"),
                                           ('{"lr": "fast"}', "lr")])
def test_a_damaged_configuration_is_refused(tmp_path, text, message):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match=message):
        load_config(tmp_path / "config.json")


def test_json_is_the_flags():
    assert json.loads(Config().to_json()).keys() == {field.name for field in dataclasses.fields(Config)}
