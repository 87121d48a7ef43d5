"""A training run, from its configuration to the exported models. ``python train.py`` calls `train`."""

import contextlib
import dataclasses
import itertools
import shlex
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from cvae_tf.config import Config, load_config
from cvae_tf.errors import BROKEN_PIPE, InputError, Interrupted, in_plain_words, program, say, stop_printing
from cvae_tf.files import atomic, check_model, check_paths, check_replaceable, lock_of, write_csv
from cvae_tf.inference.export import MODEL_FILES, load_weights, save_model
from cvae_tf.inference.exported_model import owner_of, write_owner
from cvae_tf.training import callbacks, display
from cvae_tf.training.board import Board
from cvae_tf.training.build import build_model, environment, epoch_schedules, load_data, make_deterministic
from cvae_tf.training.checkpoint import CheckpointFolder, RunState
from cvae_tf.training.run import Stopped, StopRequest, claim, export_reserved, locked, run_folders, set_aside

FREE = {"preset", "run_dir", "export_dir", "num_epoch", "max_minutes", "checkpoint_minutes", "val_every", "lr",
        "batch_norm"}  # settings that may change when a run continues
FIXED = Config.__dataclass_fields__.keys() - FREE


@dataclass(frozen=True)
class TrainingResult:
    """Result of `train`, over all sessions of the run. A session is one call of `train`.

    Attributes:
        scores: mean PSNR in dB over the frames of the validation clip. ``best``: the highest of all validations, with z
            from the prior; ``posterior``: the last validation, with z from the posterior; ``copy_first``: the repeated
            first frame. Scores that were never measured are NaN.
        history: column of ``metrics.csv`` -> list of floats, one for each epoch. Validation scores are NaN in epochs
            without a validation.
        steps: number of training steps done.
        run_dir: folder of the run.
        model_dir: folder of the exported best model.
        last_model_dir: folder of the exported last model.
    """

    scores: dict[str, float]
    history: dict[str, list[float]]
    steps: int
    run_dir: Path
    model_dir: Path
    last_model_dir: Path


def train(config: Config, fresh: bool = False, began: float | None = None,
          command: str | None = None) -> TrainingResult:
    """Train or continue the run of ``config``, export its best and its last model, and print the paths of all results.

    Args:
        config: a `Config`.
        fresh: rename an existing run in the same folder, and start over.
        began: value of `time.monotonic` from which ``max_minutes`` counts; None: now.
        command: command line that messages give for continuing the run; None: that of `train` with ``--run_dir``.

    Returns:
        A `TrainingResult`.

    Raises:
        InputError: the data cannot be read or a file cannot be written; the run is being trained by another process or
            was begun with other settings; or the training diverged.
        Interrupted: SIGINT or SIGTERM arrived; everything is saved after the step in progress.
    """
    began = time.monotonic() if began is None else began
    stop = StopRequest(config.max_minutes, began)
    if config.deterministic:
        make_deterministic()
    with contextlib.ExitStack() as stack:
        folders, check, data = _open_run(config, fresh, stack)
        model, clips, last_step = build_model(config, data.clips), data.clips, data.clips.first_step(config.num_epoch)
        command = command or f"{program('train')} --run_dir {shlex.quote(str(folders.root))}"
        state = RunState(data.checksums, clips.footage.sequences, environment())
        store = CheckpointFolder(folders.checkpoints)
        first_step = store.restore_run(model, state)
        if config.init_from and not first_step:
            load_weights(model.network, config.init_from)
        if config.lr_schedule == "constant":
            model.optimizer.learning_rate = config.lr  # overrides the rate restored from the checkpoint
        _check_state(state, folders, first_step, last_step, clips.epoch_of)
        _write_settings(config, folders)
        display.opening(config, folders, clips, len(data.validation[0]), model, first_step, last_step)

        def export(path):
            check()
            with stop.timing("export"):
                save_model(model, path, config, folders.number(), data.origin)

        epochs = {*range(config.val_every - 1, config.num_epoch, config.val_every), config.num_epoch - 1}
        board = Board(folders.tensorboard)
        validation = callbacks.Validation(data.validation, epochs, folders, state, lambda: export(folders.export), stop,
                                          board)
        checkpoints = callbacks.Checkpoints(store, state, stop, check, config.checkpoint_minutes)
        checkpoints.set_model(model)
        with _explaining_how_to_continue(command, store, checkpoints), stop.listening():
            if first_step < last_step:
                board.begin(config, clips.epoch_of(first_step))
                folders.stopped.unlink(missing_ok=True)
                if config.max_minutes:
                    validation.set_model(model)
                    validation.estimate()
                    _announce(config.max_minutes, stop)
                shown = display.Display(config, range(first_step, last_step), epochs, stop)
                with contextlib.suppress(Stopped), shown:
                    _fit(model, clips, range(first_step, last_step), [
                        keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: check()),
                        callbacks.EpochSchedules(**epoch_schedules(config)),
                        callbacks.StopWhenNotFinite(clips.names, store), validation,
                        callbacks.EpochRecord(folders.metrics, state), shown, board, checkpoints])
            steps = int(model.steps)
            if steps < last_step:
                if stop.signal:
                    raise Interrupted(f"stopped by {signal.Signals(stop.signal).name} after step {steps} of "
                                      f"{last_step}; {_how_to_continue(command, store)}", stop.signal)
                if validation.step != steps:
                    epoch = clips.epoch_of(steps - 1)
                    scores = validation.validate(epoch)
                    part = (steps - clips.first_step(epoch)) / clips.steps_in_epoch(epoch)
                    write_csv(folders.stopped, ("epochs", *scores), [(epoch + part, *scores.values())])
            if state.last_model_step != steps or not folders.last_model.exists():
                export(folders.last_model)
                state.last_model_step = steps
                checkpoints.save()
            _mark_finished(folders)
    result = _result(folders, state, validation.copy_first, steps)
    display.report(result, config, folders, len(validation.copy_first), last_step, time.monotonic() - began, command)
    return result


def _open_run(config, fresh, stack):
    """Lock the run's folder for as long as ``stack`` is open, and read the data.

    All checks that can refuse the run come before anything is written.

    Returns:
        ``(folders, check, data)``: the `RunFolders`, the function that `locked` yields, and the `RunData`.
    """
    names = config.preset, config.run_dir, config.export_dir
    folders = run_folders(*names)
    exists = folders.root.exists()
    check_paths(config.inputs(), {"--run_dir": folders.root, "--export_dir": folders.export})
    if lock_of(folders.export.absolute()).exists():
        with export_reserved(folders.export):  # if another run uses the export folder, refuse before reading data
            pass
    check_replaceable(folders.export, MODEL_FILES, "exported model", "--export_dir")
    if exists and not fresh:
        check = stack.enter_context(locked(folders))
        _check_settings(config, folders)
        return folders, check, load_data(config)
    if not exists:
        _check_settings(config, folders)
    elif folders.is_run():
        _check_owner(folders)
    else:
        raise InputError(f"{folders.root}: is no run, so --fresh leaves it alone; choose another --run_dir")
    data = load_data(config)
    if config.init_from:
        _check_beginning(config)
    if exists:
        for path in set_aside(folders):
            print(f"what was there is kept as {path}", flush=True)
    folders = claim(*names)
    check = stack.enter_context(locked(folders))
    _check_settings(config, folders)  # check again: another process may have begun this run meanwhile
    return folders, check, data


def _check_settings(config, folders):
    """Refuse a run that was begun with other settings, and an export that would replace the model of another run."""
    if folders.config.exists():
        differences = _differences(load_config(folders.config), config)
        if differences:
            raise InputError(f"{folders.root} was begun with {differences}; give the same, or another --run_dir, or "
                             "start over with --fresh")
    elif CheckpointFolder(folders.checkpoints).files():
        raise InputError(f"{folders.config}: is missing, while there are checkpoints; put it back, or start over with "
                         "--fresh")
    _check_owner(folders)
    exported = folders.export / "config.json"
    if (folders.export / "saved_model.pb").is_file() and (
            not folders.config.exists() or exported.exists() and _differences(load_config(exported), config)):
        raise InputError(f"{folders.export}: holds the model of another run; choose another --export_dir or --run_dir")


def _check_owner(folders):
    """Refuse an export folder whose run number belongs to another run. Older and imported models have no run number."""
    owner, _ = owner_of(folders.export)
    if owner not in (None, folders.number()):
        raise InputError(f"{folders.export}: belongs to another run than {folders.root}, by the numbers in "
                         f"{folders.lock} and run.json; choose another --export_dir or --run_dir, or remove run.json, "
                         "which gives the model to this run")


def _mark_finished(folders):
    """Record in both exported models that the run has ended normally."""
    for model in (folders.export, folders.last_model):
        owner, finished = owner_of(model)
        if owner == folders.number() and not finished:
            write_owner(model, owner, finished=True)


def _check_beginning(config):
    """Refuse initial weights (``init_from``) of another network, or of a missing or damaged model."""
    check_model(config.init_from)
    shaping = {spec.name for spec in dataclasses.fields(Config) if spec.metadata["group"] == "network"} & FIXED
    shaping -= {"mirror_average"}  # the same weights
    differences = _differences(load_config(Path(config.init_from) / "config.json"), config, shaping)
    if differences:
        raise InputError(f"{config.init_from}: is a model of {differences}; give the same")


def _differences(saved, config, names=FIXED):
    return "; ".join(sorted(f"--{name} {getattr(saved, name)}, now {getattr(config, name)}" for name in names
                            if getattr(saved, name) != getattr(config, name)))


def _check_state(state, folders, first_step, last_step, epoch_of):
    """Refuse a checkpoint that does not fit the run's other files. If the best model is missing, forget its score."""
    if first_step > last_step:
        raise InputError(f"{folders.root}: has {epoch_of(first_step - 1) + 1} epochs behind it, more than the "
                         f"--num_epoch {epoch_of(last_step - 1) + 1}; give a higher number")
    if not first_step and folders.last_model.exists():
        raise InputError(f"{folders.checkpoints}: holds no checkpoint, while there is a {folders.last_model.name}; put "
                         "one back, or start over with --fresh")
    if first_step < last_step and state.best > -np.inf and not folders.export.exists():
        print(f"{folders.export}: is missing, so the best model is chosen anew from here on", flush=True)
        state.best = -np.inf


def _write_settings(config, folders):
    if not folders.config.exists() or folders.config.read_text() != config.to_json():
        with atomic(folders.config) as unfinished:
            unfinished.write_text(config.to_json())


def _fit(model, clips, steps, run_callbacks):
    """Call Keras's ``fit`` over a range of steps, once for each group of successive epochs with equally many steps."""
    epochs = range(clips.epoch_of(steps.start), clips.epoch_of(steps.stop - 1) + 1)
    starts = {epoch: max(steps.start, clips.first_step(epoch)) for epoch in epochs}
    for length, group in itertools.groupby(epochs, key=lambda epoch: clips.first_step(epoch + 1) - starts[epoch]):
        first, *others = group
        last = others[-1] if others else first
        model.fit(clips.dataset(starts[first], clips.first_step(last + 1)), initial_epoch=first, epochs=last + 1,
                  steps_per_epoch=length, callbacks=run_callbacks, shuffle=False, verbose=0)


def _announce(minutes, stop):
    """Print a line if the time limit is too short for one step, the final validation and the exports."""
    late = 2 * stop.took["export"] - stop.seconds_left()
    if late > 0:
        say(f"--max_minutes {minutes:g} is too short for one step with the validation and the export that follow; this "
            f"session will take about {minutes + late / 60:.1f} minutes")


@contextlib.contextmanager
def _explaining_how_to_continue(command, store, checkpoints):
    """Append the command for continuing the run to the message of any error that ends the training."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{error}; {_how_to_continue(command, store)}") from error
    except (tf.errors.OpError, MemoryError) as error:
        raise InputError(f"{in_plain_words(error)}; {_how_to_continue(command, store)}") from error
    except BrokenPipeError:
        stop_printing()
        if checkpoints.within_epoch():  # saving between epochs could skip an epoch's validation and row
            checkpoints.save()
        raise Interrupted(f"the output was closed; {_how_to_continue(command, store)}", BROKEN_PIPE - 128) from None


def _how_to_continue(command, store):
    steps = max(store.files(), default=0)
    return (f"to continue after step {steps}" if steps else "nothing was saved yet; to begin again") + f": {command}"


def _result(folders, state, copy_first, steps):
    history = {name: [float(row[i] or "nan") for row in state.rows] for i, name in enumerate(callbacks.COLUMNS)}
    posterior = [value for value in history["val_psnr_posterior"] if value == value]
    scores = {"best": float(state.best) if np.isfinite(state.best) else float("nan"),
              "posterior": posterior[-1] if posterior else float("nan"), "copy_first": float(copy_first.mean())}
    return TrainingResult(scores, history, steps, folders.root, folders.export, folders.last_model)
