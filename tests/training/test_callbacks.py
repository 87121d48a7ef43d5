"""Callbacks by themselves, with a stand-in for the model."""

from types import SimpleNamespace

import pytest
import tensorflow as tf

from cvae_tf.errors import InputError
from cvae_tf.files import read_csv
from cvae_tf.model.schedules import cyclical, linear_decay
from cvae_tf.training import callbacks
from cvae_tf.training.callbacks import EpochRecord, EpochSchedules, StopWhenNotFinite
from cvae_tf.training.checkpoint import CheckpointFolder, RunState

LOGS = {"loss": 1.5, "mse": 1.0, "gd": 3.0, "kl": 0.5, "beta": 0.5, "tfr": 0.0, "lr": 1e-3, "skipped": 0}


def _model():
    return SimpleNamespace(beta=tf.Variable(0.25), teacher_forcing_ratio=tf.Variable(0.5), epoch=tf.Variable(0))


def _values(schedules, epochs):
    schedules.set_model(_model())
    found = []
    for epoch in epochs:
        schedules.on_epoch_begin(epoch)
        model = schedules.model
        assert int(model.epoch) == epoch
        found.append((float(model.beta), float(model.teacher_forcing_ratio)))
    return found


def test_schedules_are_tables_functions_or_left_alone():
    assert _values(EpochSchedules(), [0, 5]) == [(0.25, 0.5)] * 2
    assert _values(EpochSchedules(beta=[0, 0.5, 1]), [0, 2]) == [(0, 0.5), (1, 0.5)]
    both = EpochSchedules(beta=cyclical(4, cycles=2, stop=1.0), teacher_forcing=linear_decay(1.0, 1, 0.5))
    assert _values(both, range(4)) == [(0, 1), (0.5, 0.5), (0, 0), (0.5, 0)]


def test_after_the_end_of_a_table_its_last_value_holds():
    assert _values(EpochSchedules(beta=(0.5, 0.125)), [1, 2, 100]) == [(0.125, 0.5)] * 3


@pytest.mark.parametrize("schedules, message", [
    (dict(beta=[]), "beta must hold a value"), (dict(beta=[-1.0]), "beta must be from 0 .*received -1 for epoch 0"),
    (dict(beta=lambda epoch: float("nan")), "beta must be from 0 .*received nan"),
    (dict(teacher_forcing=[1.5]), "teacher_forcing must be from 0 to 1, received 1.5")],
    ids=["empty", "negative", "nan", "above 1"])
def test_schedules_out_of_range_are_refused(schedules, message):
    with pytest.raises(ValueError, match=message):
        _values(EpochSchedules(**schedules), [0])


def test_the_seconds_of_a_continued_epoch_count_both_sessions(tmp_path, monkeypatch):
    now = 1000.0
    monkeypatch.setattr(callbacks.time, "monotonic", lambda: now)
    state = RunState((), ())
    first = EpochRecord(tmp_path / "metrics.csv", state)
    first.on_epoch_begin(0)
    now += 30
    first.on_train_batch_end(0)
    saved = state.seconds
    now += 500  # nothing is running
    second = EpochRecord(tmp_path / "metrics.csv", RunState((), (), seconds=saved))
    for epoch in (0, 1):
        second.on_epoch_begin(epoch)
        now += 12
        second.on_epoch_end(epoch, dict(LOGS))
    assert [row["seconds"] for row in read_csv(tmp_path / "metrics.csv")] == ["42.0", "12.0"]


def test_checkpoints_that_may_hold_the_damage_are_removed(tmp_path):
    store = CheckpointFolder(tmp_path)
    for step in (79, 80, 81):
        store.save(step, {})
    watch = StopWhenNotFinite(lambda step: [f"clip of step {step}"], store)
    for in_a_row in (1, 19):
        watch.set_model(SimpleNamespace(skipped_in_a_row=in_a_row, steps=99))
        watch.on_train_batch_end(0, LOGS)
    watch.set_model(SimpleNamespace(skipped_in_a_row=20, steps=100))
    with pytest.raises(InputError, match="20 steps in a row, the last of them step 100 .*clip of step 99"):
        watch.on_train_batch_end(0, LOGS)
    assert list(store.files()) == [79]
