"""The study's plan and its continuation; the training itself stands in with one that writes what a run leaves."""

import dataclasses
import json
import shlex
from pathlib import Path

import keras
import pytest
import tensorflow as tf
from tensorboard.plugins.hparams import metadata
from test_compare import STUDY as LARGE
from test_compare import _write_run

from cvae_tf.errors import InputError, Interrupted
from cvae_tf.evaluation import page, plots
from cvae_tf.experiments import compare, study
from cvae_tf.model.schedules import cyclical
from cvae_tf.training import loop as training
from cvae_tf.training.run import RunFolders

STUDY = dataclasses.replace(LARGE, max_frames=64, frame_H=16, frame_W=32)


@pytest.fixture
def trained(monkeypatch):
    """Names of the runs that were trained, in order; the fifth training is interrupted once."""
    names = []

    def train(config, command):
        folders = RunFolders(Path(config.run_dir), Path(config.export_dir))
        names.append(folders.root.name)
        if len(names) == 5:
            _write_run(folders.root, config, epochs=3)
            raise KeyboardInterrupt
        if folders.root.exists():
            (folders.root / "metrics.csv").unlink()
            folders.config.unlink()
            (folders.root / "psnr_per_frame.csv").unlink()
            folders.root.rmdir()
        _write_run(folders.root, config)
        folders.last_model.mkdir()
        folders.export.mkdir(parents=True)

    monkeypatch.setattr(training, "train", train)
    monkeypatch.setattr(compare, "save_figure", lambda figure, stem: stem.with_suffix(".png").touch())
    monkeypatch.setattr(page, "svg", lambda figure: "")
    return names


def test_the_plan_is_every_schedule_with_every_schedule_and_nothing_else_differs():
    runs = study.plan(STUDY, "out")
    assert [(run.kl_anneal_type, run.tfr, run.tfr_d_step) for run in runs] == [
        (kind, *forcing) for kind in ("Cyclical", "Monotonic", "WithoutKL")
        for forcing in ((1.0, 0.1), (0.5, 0.0), (0.0, 0.1))]
    chosen = {"kl_anneal_type", "tfr", "tfr_d_step", "run_dir", "export_dir"}
    for run in runs:
        assert all(getattr(run, name) == getattr(STUDY, name) for name in STUDY.__dataclass_fields__.keys() - chosen)
    assert len({run.run_dir for run in runs} | {run.export_dir for run in runs}) == 18


def _names(axes, config=STUDY):
    return [Path(run.run_dir).name for run in study.plan(config, "out", axes)]


def test_the_runs_of_the_report_keep_their_names():
    assert _names({}) == ["Cyclical-tfr-1.0-decaying", "Cyclical-tfr-0.5", "Cyclical-tfr-0",
                          "Monotonic-tfr-1.0-decaying", "Monotonic-tfr-0.5", "Monotonic-tfr-0",
                          "WithoutKL-tfr-1.0-decaying", "WithoutKL-tfr-0.5", "WithoutKL-tfr-0"]


def test_a_chosen_grid_is_the_product_of_its_axes():
    axes = {"kl_anneal_type": ["Cyclical"], "tfr": [1.0, 0.25], "kl_anneal_cycle": [4, 7], "seed": [0, 3]}
    assert [(run.kl_anneal_type, run.tfr, run.tfr_d_step, run.kl_anneal_cycle, run.seed, Path(run.export_dir).name)
            for run in study.plan(STUDY, "out", axes)] == [
        ("Cyclical", 1.0, 0.1, 4, 0, "Cyclical-tfr-1-kl_anneal_cycle-4"),
        ("Cyclical", 1.0, 0.1, 4, 3, "Cyclical-tfr-1-kl_anneal_cycle-4-seed-3"),
        ("Cyclical", 1.0, 0.1, 7, 0, "Cyclical-tfr-1"),
        ("Cyclical", 1.0, 0.1, 7, 3, "Cyclical-tfr-1-seed-3"),
        ("Cyclical", 0.25, 0.1, 4, 0, "Cyclical-tfr-0.25-kl_anneal_cycle-4"),
        ("Cyclical", 0.25, 0.1, 4, 3, "Cyclical-tfr-0.25-kl_anneal_cycle-4-seed-3"),
        ("Cyclical", 0.25, 0.1, 7, 0, "Cyclical-tfr-0.25"),
        ("Cyclical", 0.25, 0.1, 7, 3, "Cyclical-tfr-0.25-seed-3")]


def test_axes_of_the_report_that_are_not_chosen_stay():
    assert _names({"tfr_d_step": [0.05]}) == [f"{kind}-tfr-1-tfr_d_step-0.05" for kind in
                                              ("Cyclical", "Monotonic", "WithoutKL")]
    assert _names({"kl_anneal_type": ["Monotonic"], "mirror": [False, True]}) == [
        f"Monotonic-tfr-{forcing}{mirror}" for forcing in ("1.0-decaying", "0.5", "0") for mirror in ("", "-mirror")]
    folders = ["data/a", "data/b"]
    assert _names({"tfr": [0.0], "kl_anneal_type": ["WithoutKL"], "data_dir": folders}) == [
        "WithoutKL-tfr-0-data_dir-a", "WithoutKL-tfr-0-data_dir-b"]


def test_cells_of_the_grid_that_are_the_same_run_are_trained_once():
    runs = study.plan(STUDY, "out", {"tfr": [0.0], "kl_anneal_cycle": [4, 10]})
    assert [(run.kl_anneal_type, run.kl_anneal_cycle) for run in runs] == [
        ("Cyclical", 4), ("Cyclical", 10), ("Monotonic", 7), ("WithoutKL", 7)]
    assert _names({"kl_anneal_type": ["Monotonic"], "tfr": [0.0, 0.5], "tfr_d_step": [0.1, 0.0]}) == [
        "Monotonic-tfr-0", "Monotonic-tfr-0.5", "Monotonic-tfr-0.5-tfr_d_step-0.0"]


@pytest.mark.parametrize("axes, message", [
    ({"tfr": [0.5, 2.0]}, "--tfr must be at most 1"),
    ({"seed": [1, 2, 1]}, "--seed: 1 is given twice"),
    ({"val_every": [2, 7]}, "--val_every 2: changes nothing"),
    ({"tfr": [0.0], "tfr_sde": [10, 5]}, "--tfr_sde 5: changes nothing"),
    ({"preset": ["study", "lab"]}, "--preset cannot be an axis"),
    ({"deterministic": [True, False]}, "--deterministic cannot be an axis"),
    ({"run_dir": ["x"]}, "--run_dir cannot be an axis"),
    ({"colour": ["red"]}, "--colour cannot be an axis"),
    ({"seed": []}, "--seed cannot be an axis"),
    ({"network": ["unet", "lab"], "prior": ["standard", "learned"]}, "--prior learned needs"),
    ({"data_dir": ["a/x", "b/x"]}, "two runs would have one name"),
    ({"data_dir": ["out/x", "b"]}, "--out out: contains --data_dir out/x"),
])
def test_an_axis_that_cannot_be_trained_is_refused(axes, message):
    with pytest.raises(InputError, match=message):
        study.plan(STUDY, "out", axes)


def test_further_values_extend_a_study_and_fewer_are_refused(trained, tmp_path):
    fixed = {"kl_anneal_type": ["Cyclical"], "tfr": [0.0]}
    config = dataclasses.replace(STUDY, seed=5)
    study.study(config, tmp_path / "out", axes=fixed)
    study.study(config, tmp_path / "out", axes=fixed)
    assert trained == ["Cyclical-tfr-0"]
    wider = fixed | {"seed": [4, 5]}  # the first run keeps its name, wherever its seed comes
    study.study(dataclasses.replace(config, seed=4), tmp_path / "out", axes=wider)
    study.study(STUDY, tmp_path / "out", axes=wider | {"tfr": [0.0, 0.5]})
    assert trained == ["Cyclical-tfr-0", "Cyclical-tfr-0-seed-4", "Cyclical-tfr-0.5-seed-4", "Cyclical-tfr-0.5"]
    assert (tmp_path / "out" / "comparison" / "seeds.md").is_file()
    for axes, message in [({"seed": [4, 5], "tfr": [0.5]}, "begun with --tfr 0.0 0.5, now it is"),
                          (wider | {"seed": [4, 6]}, "begun with --seed 4 5, now it is 4 6")]:
        with pytest.raises(InputError, match=message):
            study.study(config, tmp_path / "out", axes={"kl_anneal_type": ["Cyclical"]} | axes)
    unusable = wider | {"tfr": [0.0, 0.5], "data_dir": ["studio", str(tmp_path / "nowhere")]}
    before = (tmp_path / "out" / "study.json").read_text()
    with pytest.raises(InputError, match="no such folder"):
        study.study(config, tmp_path / "out", axes=unusable)
    assert (tmp_path / "out" / "study.json").read_text() == before and len(trained) == 4


def test_a_study_begun_before_there_were_axes_is_continued(tmp_path):
    record = {"minutes_per_run": 0.0, **dataclasses.asdict(STUDY)}
    (tmp_path / "study.json").write_text(json.dumps(record))
    assert len(study.plan(STUDY, tmp_path)) == 9 and len(study.plan(STUDY, tmp_path, {"seed": [0, 1]})) == 18
    for axes in (7, [], {"seed": 0}, {"seed": [[]]}, "seed"):
        (tmp_path / "study.json").write_text(json.dumps(record | {"axes": axes}))
        with pytest.raises(InputError, match="not the settings of a study|begun with --seed"):
            study.plan(STUDY, tmp_path)


def test_schedules_are_drawn_without_training(tmp_path, monkeypatch, capsys):
    drawn = {}
    monkeypatch.setattr(plots, "save_figure", lambda figure, stem: drawn.update({stem.name: figure}))
    axes = {"kl_anneal_cycle": [2, 5], "seed": [0, 1]}
    study.draw_schedules(STUDY, tmp_path / "out", axes)
    beta, ratio = ({line.get_label(): line.get_ydata().tolist() for line in drawn[name].axes[0].get_lines()}
                   for name in ("4_beta", "8_teacher_forcing_ratio"))
    assert beta == {"Cyclical, kl_anneal_cycle 2": cyclical(20, 2, 1.0), "Monotonic": cyclical(20, 1, 1.0),
                    "Cyclical, kl_anneal_cycle 5": cyclical(20, 5, 1.0), "WithoutKL": [1.0] * 20}
    assert ratio["tfr 0.5, not decaying"] == [0.5] * 20 and ratio["tfr 0.0"] == [0.0] * 20
    assert ratio["tfr 1.0, -0.1 an epoch"] == pytest.approx([1.0] * 10 + [1 - k / 10 for k in range(1, 11)])
    assert "schedules of 24 runs" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["schedules"]


def test_a_study_begins_where_its_schedules_were_drawn(trained, tmp_path):
    axes = {"kl_anneal_type": ["Cyclical"], "tfr": [0.0]}
    for _ in range(2):
        study.draw_schedules(STUDY, tmp_path / "out", axes)
    assert (tmp_path / "out" / "schedules" / "4_beta.png").read_bytes()[:4] == b"\x89PNG"
    study.study(STUDY, tmp_path / "out", axes=axes)
    assert trained == ["Cyclical-tfr-0"]


def test_an_interrupted_study_continues_and_repeats_no_finished_run(trained, tmp_path, capsys):
    with pytest.raises(Interrupted):
        study.study(STUDY, tmp_path / "out")
    begun = list(trained)
    study.study(STUDY, tmp_path / "out")
    names = [Path(run.run_dir).name for run in study.plan(STUDY, "out")]
    assert begun == names[:5] and trained[5:] == names[4:]
    text = capsys.readouterr().out
    assert "run 4 of 9" in text and "is finished already" in text and "minutes left" in text
    assert len(list((tmp_path / "out" / "comparison").glob("*.png"))) == 9
    study.study(STUDY, tmp_path / "out")
    assert len(trained) == 10  # nothing was left to do


@pytest.mark.parametrize("stop, code, said", [
    (KeyboardInterrupt(), 130, "interrupted; "),
    pytest.param(Interrupted("terminated", 15), 143, "terminated; ", marks=pytest.mark.slow),
    pytest.param(InputError("the disk is full"), 2, "error: the disk is full; ", marks=pytest.mark.slow),
    pytest.param(None, 130, "stopped by SIGINT after step 4; ", marks=pytest.mark.slow)])
def test_whatever_stops_a_study_names_the_command_that_continues_the_study(stop, code, said, trained, end_of,
                                                                           monkeypatch):
    def train(config, command):
        raise stop or Interrupted(f"stopped by SIGINT after step 4; to continue after step 4: {command}", 2)

    words = ["--out", "my study", "--lr", "3e-4", "--max_frames", "64", "--frame_H", "16", "--frame_W", "32",
             "--val_every", "7", "--mirror", "--checkpoint_minutes", "2.5"]
    with monkeypatch.context() as patch:
        patch.setattr(training, "train", train)
        ended = end_of("study", *words)
    assert ended.code == code and ended.err.startswith(said) and ended.err.count("to continue") == 1
    program = shlex.split(ended.err.partition(": python ")[2])
    assert program[:3] == ["-m", "cvae_tf", "study"]
    ended = end_of(*program[2:])  # is taken for the same study, and trains on until the fifth run is interrupted
    assert ended.code == 130 and len(trained) == 5 and ended.err.startswith("interrupted; ")


def test_the_command_of_a_study_gives_back_its_settings():
    from cvae_tf.cli import train_config

    for options in ({}, dict(preset="debug", width=8), dict(mirror=True, steps_per_epoch=3, init_from="a model")):
        config = dataclasses.replace(STUDY, **options)
        words = shlex.split(study._command(config, "my study", 0.0))
        assert words[:6] == ["python", "-m", "cvae_tf", "study", "--out", "my study"]
        assert train_config(words[6:])[0] == dataclasses.replace(config, tfr=train_config(words[6:8])[0].tfr)
    axes = {"tfr": [0.5], "mirror": [True, False], "seed": [0, 1], "lr": [3e-4, 1e-3]}
    words = shlex.split(study._command(dataclasses.replace(STUDY, tfr_d_step=0.05), "out", 0.0, axes))
    for flag in ("--tfr 0.5", "--tfr_d_step 0.05", "--mirror --no_mirror", "--seed 0 1", "--lr 0.0003 0.001"):
        assert f" {flag} " in f" {' '.join(words)} "
    words = shlex.split(study._command(dataclasses.replace(STUDY, steps_per_epoch=3), "out", 1.5))
    assert words[words.index("--minutes_per_run") + 1] == "1.5" and "--steps_per_epoch" not in words


@pytest.mark.slow
def test_tensorboards_hparams_page_shows_what_the_study_varies_and_the_final_psnr(trained, tmp_path):
    with pytest.raises(Interrupted):
        study.study(STUDY, tmp_path / "out")
    (path,) = (tmp_path / "out" / "runs").glob("*tfevents*")
    content = {value.tag: value.metadata.plugin_data.content
               for record in tf.compat.v1.train.summary_iterator(str(path)) for value in record.summary.value}
    shown = metadata.parse_experiment_plugin_data(content[metadata.EXPERIMENT_TAG])
    assert [one.name for one in shown.hparam_infos] == ["kl_anneal_type", "tfr", "tfr_d_step"]
    assert (shown.metric_infos[0].name.group, shown.metric_infos[0].name.tag) == ("", "psnr/prior")


@pytest.mark.slow
def test_another_study_in_the_same_folder_is_refused(trained, tmp_path):
    with pytest.raises(Interrupted):
        study.study(STUDY, tmp_path / "out")
    with pytest.raises(InputError, match="was begun with --seed 0, now it is 1"):
        study.study(dataclasses.replace(STUDY, seed=1), tmp_path / "out")


@pytest.mark.slow
def test_minutes_per_run_choose_one_number_of_steps_for_all_runs(trained, tmp_path, monkeypatch):
    measured = []
    monkeypatch.setattr(study, "steps_for", lambda config, minutes: measured.append(minutes) or 17)
    monkeypatch.setattr(compare, "compare", lambda runs, out: None)
    with pytest.raises(Interrupted):
        study.study(STUDY, tmp_path / "out", minutes_per_run=2.0)
    study.study(STUDY, tmp_path / "out", minutes_per_run=2.0)
    assert measured == [2.0]  # once, at the beginning
    for minutes in (0.0, 3.0):
        with pytest.raises(InputError, match="was begun with --minutes_per_run 2.0"):
            study.study(STUDY, tmp_path / "out", minutes_per_run=minutes)
    steps = {json.loads((folder / "config.json").read_text())["steps_per_epoch"]
             for folder in (tmp_path / "out" / "runs").glob("*-tfr-*")}
    assert steps == {17}


def test_a_study_of_what_cannot_be_read_writes_nothing(trained, tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        study.study(dataclasses.replace(STUDY, data_dir=str(tmp_path / "nowhere")), tmp_path / "out")
    assert not list(tmp_path.iterdir()) and not trained


@pytest.mark.slow
def test_steps_for_measures_this_machine(monkeypatch):
    small = dataclasses.replace(STUDY, width=4, train_vi_len=4, batch_size=1)
    clock = iter(range(1000))
    monkeypatch.setattr(study.time, "monotonic", lambda: next(clock) * 0.5)  # every step takes half a second
    given = []
    train_on_batch = keras.Model.train_on_batch
    monkeypatch.setattr(keras.Model, "train_on_batch", lambda model, *batch, **options: given.append(
        (batch, options)) or train_on_batch(model, *batch, **options))
    assert study.steps_for(small, minutes=10) == 600 * 2 // 20
    for (batch,), options in given:  # and nothing that Keras would take for labels or weights of the samples
        assert set(batch) == {"frames", "poses", "context"} and not options


@pytest.mark.parametrize("minutes", [-1, 10_001])
def test_minutes_out_of_range_are_refused(minutes, tmp_path):
    with pytest.raises(InputError, match=f"--minutes_per_run must be from 0 to 10000, received {minutes}"):
        study.study(STUDY, tmp_path / "out", minutes)
    assert not list(tmp_path.iterdir())
