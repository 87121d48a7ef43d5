"""Inputs that nobody thought of: a valid one works, any other is refused in one line, none raises anything else.

``python -m pytest tests/test_fuzz.py --hypothesis-profile long`` tries many more.
"""

import dataclasses
import tempfile
from pathlib import Path
from unittest import mock

import hypothesis.strategies as st
import numpy as np
import pytest
from conftest import give_colours
from hypothesis import assume, given, settings

from cvae_tf.cli import train_config
from cvae_tf.config import PRESETS, Config, load_config
from cvae_tf.data.footage import Footage, Splits
from cvae_tf.data.mirror import STUDIO
from cvae_tf.errors import InputError
from cvae_tf.files import read_csv
from cvae_tf.model.schedules import KL_ANNEAL_TYPES, beta_table, linear_decay, milestone_factor
from cvae_tf.training.build import build_model, load_data
from cvae_tf.training.checkpoint import CheckpointFolder

EXAMPLES = settings.default.max_examples
FIELDS = {spec.name: spec for spec in dataclasses.fields(Config)}
# Small enough to build in a moment; everything else takes its whole range.
SIZES = {"frame_H": st.sampled_from([8, 16, 24]), "frame_W": st.sampled_from([8, 16, 32]), "width": st.integers(4, 9),
         "F_dim": st.integers(8, 12), "L_dim": st.integers(2, 6), "N_dim": st.integers(4, 6),
         "D_out_dim": st.integers(8, 12), "batch_size": st.integers(1, 3), "train_vi_len": st.integers(2, 6),
         "preset": st.sampled_from(sorted(PRESETS))}
POSITIVE = ("lr", "clip_norm", "partial", "fast_partial")
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)


def _valid(name):
    spec = FIELDS[name]
    rules = spec.metadata
    if name in SIZES:
        return SIZES[name]
    if rules["choices"]:
        return st.sampled_from(rules["choices"])
    if spec.type is bool:
        return st.booleans()
    if spec.type is int:
        return st.integers(rules["low"], rules["high"] if rules["high"] is not None else 10**9)
    if spec.type is float:
        high = rules["high"] if rules["high"] is not None else 3e38
        return st.floats(rules["low"] or 0, high, exclude_min=name in POSITIVE)
    names = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=8)  # no control characters
    return names.filter(lambda text: text.strip() and not text.startswith("-"))


def _invalid(name):
    spec = FIELDS[name]
    rules = spec.metadata
    wrong = [st.just("\u00bd")] if spec.type in (int, float) else []
    if rules["choices"] or name == "preset":
        wrong.append(TEXT.filter(lambda text: text not in (rules["choices"] or PRESETS)))
    if spec.type is int:
        wrong.append(st.integers(max_value=rules["low"] - 1))
        wrong += [st.integers(min_value=rules["high"] + 1)] if rules["high"] is not None else []
        wrong.append(st.floats().map(str).filter(lambda text: "." in text or "n" in text))
    if spec.type is float:
        wrong += [st.sampled_from(["nan", "inf", "-inf", "1e39"]), st.floats(max_value=-1e-9)]
        wrong += [st.floats(min_value=rules["high"], exclude_min=True)] if rules["high"] is not None else []
    return st.one_of(wrong)


def _agree(values):
    """Whether the flags fit each other: the lab's network has no learned prior, and at least 4 latent channels."""
    chosen = {**PRESETS[values.get("preset", "demo")], **values}
    return chosen.get("network", "unet") == "unet" or chosen.get("prior") != "learned" and chosen.get("N_dim", 12) >= 4


CONFIGS = st.fixed_dictionaries({}, optional={name: _valid(name) for name in FIELDS}).filter(_agree)


def _words(values):
    for name, value in values.items():
        yield f"--{'' if value is not False else 'no_'}{name}" + ("" if isinstance(value, bool) else f"={value}")


@given(CONFIGS)
def test_valid_flags_make_a_configuration_that_survives_json(values):
    values.pop("run_dir", None)  # names a run to continue
    config, dry_run, fresh = train_config(list(_words(values)))
    assert not dry_run and not fresh
    for name, value in values.items():
        assert getattr(config, name) == value
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "config.json")
        path.write_text(config.to_json())
        assert load_config(path) == config


@given(st.sampled_from([name for name in FIELDS if FIELDS[name].type in (int, float) or FIELDS[name].metadata["choices"]
                        or name == "preset"]), CONFIGS, st.data())
def test_one_invalid_value_is_refused_before_any_data_are_read(name, values, draw):
    values = {**values, name: draw.draw(_invalid(name))}
    values.pop("run_dir", None)
    with pytest.raises(InputError):
        train_config(list(_words(values)))


@given(st.lists(TEXT, max_size=6))
def test_any_command_line_is_a_configuration_or_one_line(words):
    assume("-h" not in [word[:2] for word in words])
    try:
        train_config(words)
    except InputError as error:
        assert str(error)


@settings(max_examples=max(4, EXAMPLES // 15))
@given(CONFIGS)
def test_every_valid_configuration_builds_and_takes_a_finite_step(values):
    config = Config(**{**{name: 8 for name in ("frame_H", "frame_W", "F_dim", "D_out_dim", "N_dim")}, "L_dim": 2,
                       "width": 4, "batch_size": 1, "train_vi_len": 3, **values})
    random = np.random.default_rng(0)
    pictures = np.uint8(random.integers(0, 256, (20, config.frame_H, config.frame_W, 3)))
    footage = Footage(pictures, pictures, ((0, 20),), palette=STUDIO)
    try:
        with mock.patch("cvae_tf.training.build.load_footage", return_value=Splits(footage, footage)):
            clips = load_data(config).clips
    except InputError as error:  # a small share of 20 frames holds no clip
        assert "too short" in str(error)
        return
    model = build_model(config, clips)
    give_colours(model.network)
    model.epoch.assign(0)
    model.beta.assign(beta_table(config.kl_anneal_type, config.num_epoch, config.kl_anneal_cycle,
                                 config.kl_anneal_ratio, config.kl_anneal_start)[0])
    model.teacher_forcing_ratio.assign(config.tfr)
    model.run_eagerly = True
    metrics = model.train_on_batch(clips.batch(0), return_dict=True)
    assert np.isfinite(metrics["mse"]) and int(model.steps) == 1


@given(st.sampled_from(KL_ANNEAL_TYPES), st.integers(1, 400), st.integers(1, 1000), st.floats(0, 3e38),
       st.integers(0, 500))
def test_beta_has_a_value_for_each_epoch_from_zero_to_its_top(kind, num_epoch, cycles, stop, start):
    table = beta_table(kind, num_epoch, cycles, stop, start)
    assert len(table) == num_epoch and all(0 <= beta <= stop for beta in table)


@given(st.floats(0, 1), st.integers(0, 10**9), st.floats(0, 1), st.integers(0, 10_000))
def test_teacher_forcing_stays_a_ratio_and_never_rises(tfr, start, step, epoch):
    ratios = [linear_decay(tfr, start, step)(e) for e in (epoch, epoch + 1)]
    assert 0 <= ratios[1] <= ratios[0] <= tfr
    assert milestone_factor(epoch) == pytest.approx(1 if epoch < 2 else 0.1 if epoch < 5 else 0.01)


@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode)))
def test_any_bytes_are_a_table_a_configuration_and_a_checkpoint_or_refused(content):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "step_00000001.npz")
        path.write_bytes(content)
        for read in (read_csv, load_config, lambda path: CheckpointFolder(path.parent).load()):
            try:
                read(path)
            except InputError as error:
                assert str(error)
