"""Inputs that nobody thought of: a valid one works, any other is refused in one line, none raises anything else.

``python -m pytest tests/test_fuzz.py --hypothesis-profile long`` tries many more.
"""

import dataclasses
import os
import shutil
import tempfile
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from conftest import give_colours
from hypothesis import assume, given, settings
from PIL import Image

from cvae_tf.config import PRESETS, Config, load_config, parse_train_args
from cvae_tf.data import footage as data
from cvae_tf.data.footage import Clips, Footage, images
from cvae_tf.errors import InputError
from cvae_tf.files import read_csv
from cvae_tf.model.schedules import KL_ANNEAL_TYPES, beta_table, milestone_factor, teacher_forcing_ratio
from cvae_tf.training.checkpoint import CheckpointFolder
from cvae_tf.training.loop import build_model

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
        return st.floats(0, high, exclude_min=name in POSITIVE)
    return TEXT.filter(lambda text: text.strip() and not text.startswith("-"))


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
    """Whether the flags fit each other: the lab's network has no learned prior."""
    chosen = {**PRESETS[values.get("preset", "demo")], **values}
    return chosen.get("network", "unet") == "unet" or chosen.get("prior") != "learned"


CONFIGS = st.fixed_dictionaries({}, optional={name: _valid(name) for name in FIELDS}).filter(_agree)


def _words(values):
    for name, value in values.items():
        yield f"--{'' if value is not False else 'no_'}{name}" + ("" if isinstance(value, bool) else f"={value}")


@given(CONFIGS)
def test_valid_flags_make_a_configuration_that_survives_json(values):
    values.pop("run_dir", None)  # names a run to continue
    config, dry_run, fresh = parse_train_args(list(_words(values)))
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
        parse_train_args(list(_words(values)))


@given(st.lists(TEXT, max_size=6))
def test_any_command_line_is_a_configuration_or_one_line(words):
    assume("-h" not in [word[:2] for word in words])
    try:
        parse_train_args(words)
    except InputError as error:
        assert str(error)


@settings(max_examples=max(4, EXAMPLES // 15))
@given(CONFIGS)
def test_every_valid_configuration_builds_and_takes_a_finite_step(values):
    config = Config(**{**{name: 8 for name in ("frame_H", "frame_W", "F_dim", "D_out_dim", "N_dim")}, "L_dim": 2,
                       "width": 4, "batch_size": 1, "train_vi_len": 3, **values})
    random = np.random.default_rng(0)
    pictures = np.uint8(random.integers(0, 256, (20, config.frame_H, config.frame_W, 3)))
    try:
        clips = data.training_clips(config, Footage(pictures, pictures, ((0, 20),)))
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
    metrics = model.train_on_batch(*clips.batch(0), return_dict=True)
    assert np.isfinite(metrics["mse"]) and int(model.steps) == 1


@given(st.sampled_from(KL_ANNEAL_TYPES), st.integers(1, 400), st.integers(1, 1000), st.floats(0, 3e38),
       st.integers(0, 500))
def test_beta_has_a_value_for_each_epoch_from_zero_to_its_top(kind, num_epoch, cycles, stop, start):
    table = beta_table(kind, num_epoch, cycles, stop, start)
    assert len(table) == num_epoch and all(0 <= beta <= stop for beta in table)


@given(st.floats(0, 1), st.integers(0, 10**9), st.floats(0, 1), st.integers(0, 10_000))
def test_teacher_forcing_stays_a_ratio_and_never_rises(tfr, start, step, epoch):
    ratios = [teacher_forcing_ratio(e, tfr, start, step) for e in (epoch, epoch + 1)]
    assert 0 <= ratios[1] <= ratios[0] <= tfr
    assert milestone_factor(epoch) == pytest.approx(1 if epoch < 2 else 0.1 if epoch < 5 else 0.01)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=5), st.integers(2, 12), st.integers(1, 4), st.booleans(),
       st.integers(0, 3), st.integers(0, 50), st.integers(0, 10**6))
def test_every_batch_is_of_uncut_clips_and_belongs_to_its_epoch(lengths, length, batch_size, tiled, early_epochs,
                                                                steps_per_epoch, step):
    count = sum(lengths)
    frames = np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None, None], (count, 2, 2, 3))
    starts = np.cumsum([0, *lengths[:-1]]).tolist()
    footage = Footage(frames, frames, tuple(zip(starts, lengths, strict=True)))
    try:
        clips = Clips(footage, length, batch_size, tiled=tiled, early_share=0.7, early_epochs=early_epochs,
                      steps_per_epoch=steps_per_epoch)
    except InputError:  # no sequence has a clip in the first 70% of all frames
        assert all(min(start + size, int(0.7 * count)) - start < length
                   for start, size in zip(starts, lengths, strict=True))
        return
    epoch = clips.epoch_of(step)
    assert clips.first_step(epoch) <= step < clips.first_step(epoch + 1)
    numbers = np.rint(clips.batch(step)[0][:, :, 0, 0, 0] * 255).astype(int)
    assert numbers.shape == (length, batch_size) and np.all(np.diff(numbers, axis=0) == 1)
    sequence = np.searchsorted(starts, numbers, side="right")
    assert np.all(sequence == sequence[0])
    assert len(clips.names(step)) == batch_size


# ---------------------------------------------------------------------- files

NAMES = st.one_of(st.sampled_from(["frame1.png", "frame2.PNG", "7.png", "x.png", "\u0663.png", ".9.png", "frame 8.png",
                                   "frame" + "9" * 60 + ".png", "note.txt"]), TEXT.map(lambda text: text + ".png"))
PLACES = st.sampled_from(["train_img", "train_label"])
INDEX = st.integers(0, 7)
MUTATIONS = st.lists(st.one_of(
    st.tuples(st.just("remove"), PLACES, INDEX), st.tuples(st.just("truncate"), PLACES, INDEX, st.integers(0, 90)),
    st.tuples(st.just("flip"), PLACES, INDEX, st.integers(0, 400), st.integers(1, 255)),
    st.tuples(st.just("rename"), PLACES, INDEX, NAMES), st.tuples(st.just("rename both"), PLACES, INDEX, NAMES),
    st.tuples(st.just("bytes"), PLACES, INDEX, st.binary(max_size=60)),
    st.tuples(st.just("resize"), PLACES, INDEX, st.integers(1, 80), st.integers(1, 80)),
    st.tuples(st.just("link"), PLACES, INDEX, NAMES), st.tuples(st.just("folder"), PLACES, INDEX, NAMES),
    st.tuples(st.just("new"), PLACES, INDEX, NAMES)), max_size=4)


def _mutate(train, what, place, index, *more):
    files = sorted(path for path in (train / place).iterdir() if path.is_file())
    if not files:
        return
    path = files[index % len(files)]
    content = bytearray(path.read_bytes())
    if what == "remove":
        path.unlink()
    elif what == "truncate":
        path.write_bytes(content[:-more[0] or None])
    elif what == "flip" and content:
        content[more[0] % len(content)] ^= more[1]
        path.write_bytes(content)
    elif what == "bytes":
        path.write_bytes(more[0])
    elif what == "resize":
        Image.new("RGB", more).save(path, format="PNG")
    elif what in ("rename", "rename both", "link", "folder", "new"):
        name = more[0].replace("/", "_").replace("\0", "_")
        for folder in (("train_img", "train_label") if what == "rename both" else (place,)):
            source, target = train / folder / path.name, train / folder / name
            if target.exists() or target.is_symlink() or not source.is_file() or not name.strip("."):
                continue
            if what == "link":
                target.symlink_to(path.name)
            elif what == "folder":
                target.mkdir()
            elif what == "new":
                shutil.copy(source, target)
            else:
                source.rename(target)


def _colour(path):
    """The first pixel of an image, read without this project's code."""
    with Image.open(path) as image:
        return list(image.convert("RGB").getpixel((0, 0)))


@settings(max_examples=EXAMPLES * 3)
@given(MUTATIONS)
def test_a_spoilt_folder_is_refused_or_read_as_it_is(mutations):
    with tempfile.TemporaryDirectory() as root:
        train = Path(root, "train")
        for kind in ("img", "label"):
            (train / f"train_{kind}").mkdir(parents=True)
            for n in range(6):
                Image.new("RGB", (16, 8), (n, 100 + n, 7 if kind == "img" else 9)).save(
                    train / f"train_{kind}" / f"frame{n + 3}.png")
        for mutation in mutations:
            _mutate(train, *mutation)
        config = Config(data_dir=root, frame_H=8, frame_W=16, network="lab")
        try:
            footage = data.load_footage(config, "train")
        except InputError as error:
            assert str(error)
            return
        names = {int("".join(c for c in Path(name).stem if c.isdecimal())): name for name in
                 os.listdir(train / "train_img") if name.lower().endswith(".png") and not name.startswith(".")}
        numbers = sorted(names)
        for found, place in ((footage.frames, "train_img"), (footage.poses, "train_label")):
            assert found[:, 0, 0].tolist() == [_colour(train / place / names[n]) for n in numbers]
        cuts = [i for i in range(len(numbers)) if i == 0 or numbers[i] != numbers[i - 1] + 1]
        assert [start for start, _ in footage.sequences] == cuts
        again = data.load_footage(config, "train")
        np.testing.assert_array_equal(again.frames, footage.frames)


@given(st.binary(max_size=300), st.sampled_from(["png", "jpeg", "nothing"]))
def test_any_bytes_are_an_image_or_refused(content, kind):
    start = {"png": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "jpeg": b"\xff\xd8\xff\xe0\0\x10JFIF\0", "nothing": b""}[kind]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "frame1.png")
        path.write_bytes(start + content)
        try:
            assert images.read_image(path, 8, 8).shape == (8, 8, 3)
        except InputError as error:
            assert "frame1.png" in str(error)


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
