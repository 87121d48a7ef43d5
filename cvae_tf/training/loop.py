"""One training run from configuration to exported model: what ``python train.py`` does."""

import contextlib
import dataclasses
import itertools
import os
import shlex
import signal
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow starts: its notes are not for users

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from tensorboard.plugins.hparams import api as hparams  # noqa: E402

from cvae_tf.data import footage as data  # noqa: E402
from cvae_tf.training import callbacks  # noqa: E402
from cvae_tf.config import Config, load_config  # noqa: E402
from cvae_tf.errors import BROKEN_PIPE, InputError, Interrupted, in_plain_words, stop_printing  # noqa: E402
from cvae_tf.files import atomic, check_model, check_replaceable  # noqa: E402
from cvae_tf.inference.export import MODEL_FILES, load_weights, save_model  # noqa: E402
from cvae_tf.lab.adam import Adam  # noqa: E402
from cvae_tf.lab.network import LabNetwork  # noqa: E402
from cvae_tf.model.cvae import CVAE  # noqa: E402
from cvae_tf.model.schedules import MILESTONES, milestone_factor  # noqa: E402
from cvae_tf.model.unet import UNet  # noqa: E402
from cvae_tf.training.checkpoint import CheckpointFolder  # noqa: E402
from cvae_tf.training.run import claim, locked, run_folders, set_aside  # noqa: E402
from cvae_tf.training.stopping import Stopped, StopRequest  # noqa: E402


def build_network(config):
    """The network of ``config``, built, with the initial weights of its seed."""
    keras.utils.set_random_seed(config.seed)
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(config.precision)
    try:
        if config.network == "lab":
            network = LabNetwork(config.F_dim, config.L_dim, config.N_dim, config.D_out_dim, config.batch_norm)
        else:
            network = UNet(config.width, config.N_dim, config.prior, config.narrow_posterior)
        network.build((config.frame_H, config.frame_W, 3))
    finally:
        keras.config.set_dtype_policy(policy)
    return network


def build_model(config, clips):
    """The model of ``config``, built and compiled, with the learning-rate schedule over all of its steps."""
    # It fails on the gradient of a leaky ReLU of a sum, leaves the graph as it was, and says so as if it were an error.
    tf.config.optimizer.set_experimental_options({"remapping": False})
    model = CVAE(build_network(config), seed=config.seed, tfr_draw=config.tfr_draw, clip_norm=config.clip_norm,
                 gradient_through_time=config.gradient_through_time, xla=config.xla, gdl=config.gdl,
                 instants_at_once=config.instants_at_once or _instants_at_once(config))
    rate = _learning_rate(config, clips)
    if config.optim == "Adam":
        optimizer = Adam(rate, epsilon=1e-8)  # PyTorch's epsilon
    else:
        optimizer = keras.optimizers.AdamW(rate, epsilon=1e-8, weight_decay=config.weight_decay)
    if config.precision == "mixed_float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    model.compile(optimizer, jit_compile=False)  # `CVAE.clip_gradient` alone is compiled: noise would change under XLA
    optimizer.build(model.trainable_variables)
    return model


def in_float32(model, config):
    """The model to export: computing in float32, whatever it was trained in, since a CPU is slow in 16 bits."""
    if config.precision == "float32":
        return model
    network = build_network(dataclasses.replace(config, precision="float32"))
    network.set_weights(model.network.get_weights())
    return CVAE(network)


def _instants_at_once(config):
    """What is fastest: on a CPU one instant of the lab's network keeps all cores busy, one of the unet does not."""
    return 1 if config.network == "lab" and not tf.config.list_physical_devices("GPU") else 16


def _learning_rate(config, clips):
    """The learning rate as a Keras schedule over optimiser steps."""
    schedules = keras.optimizers.schedules
    steps = clips.first_step(config.num_epoch)
    if config.lr_schedule == "cosine":
        climb = max(1, steps // 50)
        return schedules.CosineDecay(0.0, max(1, steps - climb), alpha=0.01, warmup_target=config.lr,
                                     warmup_steps=climb)
    if config.lr_schedule == "milestones":
        # A boundary is the last step with the rate before it.
        boundaries = [clips.first_step(epoch) - 1 for epoch in MILESTONES]
        values = [config.lr * milestone_factor(epoch) for epoch in (0, *MILESTONES)]
        return schedules.PiecewiseConstantDecay(boundaries, values)
    return config.lr


FREE = {"preset", "run_dir", "export_dir", "num_epoch", "max_minutes", "checkpoint_minutes", "val_every", "lr",
        "batch_norm"}  # may change when a run continues
FIXED = Config.__dataclass_fields__.keys() - FREE


def _differences(saved, config, names=FIXED):
    return "; ".join(sorted(f"--{name} {getattr(saved, name)}, now {getattr(config, name)}" for name in names
                            if getattr(saved, name) != getattr(config, name)))


def _check_beginning(config):
    """Refuse to begin with the weights of another network, of a damaged model or of none."""
    if config.init_from:
        check_model(config.init_from)
        shaping = {spec.name for spec in dataclasses.fields(Config) if spec.metadata["group"] == "network"} & FIXED
        differ = _differences(load_config(Path(config.init_from) / "config.json"), config, shaping)
        if differ:
            raise InputError(f"{config.init_from}: is a model of {differ}; give the same")


def _check_run(config, folders):
    """Refuse an existing run that was begun with other settings, and an export that would replace another run's."""
    if folders.config.exists():
        differ = _differences(load_config(folders.config), config)
        if differ:
            raise InputError(f"{folders.root} was begun with {differ}; give the same, or another --run_dir, or start "
                             "over with --fresh")
    elif CheckpointFolder(folders.checkpoints).files():
        raise InputError(f"{folders.config}: is missing, while there are checkpoints; put it back, or start over with "
                         "--fresh")
    if (folders.export / "saved_model.pb").is_file():
        exported = folders.export / "config.json"
        if not folders.config.exists() or exported.exists() and _differences(load_config(exported), config):
            raise InputError(f"{folders.export}: holds the model of another run; choose another --export_dir or "
                             "--run_dir")


def _record_settings(config, folders):
    """Put the configuration on TensorBoard's HParams page, which finds the last values of all curves by itself."""
    settings = {name: value for name, value in dataclasses.asdict(config).items()
                if name not in ("run_dir", "export_dir", "max_minutes")}
    with tf.summary.create_file_writer(str(folders.tensorboard)).as_default():
        hparams.hparams(settings, trial_id=folders.root.absolute().name)


def _fit(model, clips, config, first_step, run_callbacks):
    """Run Keras's ``fit`` from ``first_step`` to the end; once for each stretch of epochs of equal length."""
    epochs = itertools.groupby(range(clips.epoch_of(first_step), config.num_epoch),
                               key=lambda epoch: clips.first_step(epoch + 1) - max(first_step, clips.first_step(epoch)))
    for steps, group in epochs:
        group = list(group)
        first, last = group[0], group[-1]
        start = max(first_step, clips.first_step(first))
        model.fit(clips.dataset(start, clips.first_step(last + 1)), initial_epoch=first, epochs=last + 1,
                  steps_per_epoch=steps, callbacks=run_callbacks, shuffle=False)


def train(config, fresh=False):
    """Train, or continue, the run of ``config``; export the best and the last model; print where everything is.

    Args:
        config: of the run.
        fresh: set an existing run of that folder aside, under another name, and start over.

    Raises:
        InputError: see the modules that read the data and write the files; or another process trains this run, it was
            begun with other settings, or it diverged.
        Interrupted: on SIGINT or SIGTERM, after the step in progress, with everything saved.
    """
    with contextlib.ExitStack() as stack:
        _train(config, fresh, stack)


def _train(config, fresh, stack):
    began, stop = time.monotonic(), StopRequest(config.max_minutes)
    if config.deterministic:
        tf.config.experimental.enable_op_determinism()
    folders, check, training, validation = _open(config, fresh, stack)
    clips = data.training_clips(config, training)
    frames, poses = validation.longest(config.val_vi_len)
    model = build_model(config, clips)
    store = CheckpointFolder(folders.checkpoints)

    def export(path):
        save_model(in_float32(model, config), path, config)

    validate = callbacks.Validation(frames, poses, config, folders,
                                    keep_best=lambda: export(folders.export))
    record = callbacks.EpochRecord(config, folders.metrics)
    checkpoints = callbacks.Checkpoints(model, clips, store, validate, record, (training.checksum, validation.checksum),
                                        stop, keep_last=lambda: export(folders.last_model),
                                        check=check, minutes=config.checkpoint_minutes)
    first_step, last_step = checkpoints.restore(), clips.first_step(config.num_epoch)
    if config.init_from and not first_step:
        load_weights(model.network, config.init_from)
    _check_state(config, folders, clips, first_step, validate)
    if not folders.config.exists() or folders.config.read_text() != config.to_json():
        with atomic(folders.config) as unfinished:
            unfinished.write_text(config.to_json())
    if config.lr_schedule == "constant":
        model.optimizer.learning_rate = config.lr  # a variable, which the checkpoint has just restored
    print(f"{folders.root}: {len(training.frames)} training frames, {len(frames)} validation frames; network "
          f"{config.network}, {model.trainable_parameters:,} trainable parameters; "
          + (f"continuing at step {first_step} of {last_step}" if first_step else f"{last_step} steps"), flush=True)
    if first_step < last_step:
        _record_settings(config, folders)
        board = keras.callbacks.TensorBoard(str(folders.tensorboard), write_graph=False)
        watch = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: check())
        with _saying_how_to_continue(checkpoints, folders), stop.listening():
            try:
                _fit(model, clips, config, first_step, [
                    watch, callbacks.EpochSchedules(config), callbacks.StopWhenNotFinite(clips, store),
                    callbacks.Progress(), validate, record, board, checkpoints])
            except Stopped:
                board.on_train_end()  # Keras has not got there
                if not stop.signal:
                    checkpoints.finish_early()
        if stop.signal and int(model.steps) < last_step:
            raise Interrupted(f"stopped by {signal.Signals(stop.signal).name} after step {int(model.steps)} of "
                              f"{last_step}; {_how_to_continue(store, folders)}", stop.signal)
    elif checkpoints.kept != first_step or not folders.last_model.exists():
        checkpoints.keep_last()
    _report(model, clips, config, folders, validate, began)


def _open(config, fresh, stack):
    """The run's folders, locked for as long as ``stack`` lives, what checks them, and the footage of both splits.

    Nothing is written before everything that can be refused has been.
    """
    folders = run_folders(config)
    fresh = fresh and folders.root.exists()
    continued = folders.root.exists() and not fresh
    check_replaceable(folders.export, MODEL_FILES, "exported model", "--export_dir")
    if continued:
        check = stack.enter_context(locked(folders))
    if not fresh:
        _check_run(config, folders)
    elif not folders.is_run():
        raise InputError(f"{folders.root}: is no run, so --fresh leaves it alone; choose another --run_dir")
    training, validation = data.load_footage(config, "train"), data.load_footage(config, "val")
    data.training_clips(config, training)
    validation.longest(config.val_vi_len)
    if not continued:
        _check_beginning(config)
    if fresh:
        for path in set_aside(folders):
            print(f"what was there is kept as {path}", flush=True)
    if not continued:
        folders = claim(config)
        check = stack.enter_context(locked(folders))
        _check_run(config, folders)  # another process may have been here meanwhile
    return folders, check, training, validation


def _check_state(config, folders, clips, first_step, validate):
    """Refuse, or say, where the checkpoint and what lies beside it do not belong together."""
    if first_step > clips.first_step(config.num_epoch):
        raise InputError(f"{folders.root}: has {clips.epoch_of(first_step - 1) + 1} epochs behind it, more than the "
                         f"--num_epoch {config.num_epoch}; give a higher number")
    if not first_step and folders.last_model.exists():
        raise InputError(f"{folders.checkpoints}: holds no checkpoint, while there is a {folders.last_model.name}; put "
                         "one back, or start over with --fresh")
    if first_step < clips.first_step(config.num_epoch) and validate.best > -np.inf and not folders.export.exists():
        print(f"{folders.export}: is missing, so the best model is chosen anew from here on", flush=True)
        validate.best = -np.inf


@contextlib.contextmanager
def _saying_how_to_continue(checkpoints, folders):
    """Add to whatever ends the training how to continue it."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{error}; {_how_to_continue(checkpoints.store, folders)}") from error
    except tf.errors.OpError as error:
        raise InputError(f"{in_plain_words(error)}; {_how_to_continue(checkpoints.store, folders)}") from error
    except BrokenPipeError:
        stop_printing()
        checkpoints.save_within_epoch()
        raise Interrupted(f"the output was closed; {_how_to_continue(checkpoints.store, folders)}",
                          BROKEN_PIPE - 128) from None


def _how_to_continue(store, folders):
    steps = max(store.files(), default=0)
    return (f"to continue after step {steps}" if steps else "nothing was saved yet; to begin again") + \
        f": {_command(folders)}"


def _command(folders):
    return f"python train.py --run_dir {shlex.quote(str(folders.root))}"


def _report(model, clips, config, folders, validate, began):
    steps, last_step = int(model.steps), clips.first_step(config.num_epoch)
    model_to_use = folders.export if folders.export.exists() else folders.last_model
    samples = sorted(folders.samples.glob("*.gif"), key=lambda path: path.stat().st_mtime)
    print(f"""
{"Finished" if steps >= last_step else "Stopped by --max_minutes"} at step {steps} of {last_step} after \
{(time.monotonic() - began) / 60:.1f} minutes.
PSNR on the validation clip, free running over {len(validate.copy_first)} frames, z from the prior:
  best model  {float(validate.best):.2f} dB
  copy-first  {validate.copy_first.mean():.2f} dB (the first frame repeated)
GIF           {samples[-1] if samples else "none"}   (truth, pose, prediction)
TensorBoard   tensorboard --logdir {folders.tensorboard}
SavedModel    {folders.export if folders.export.exists() else "none"}   (the last one: {folders.last_model})
Next          python predict.py --model {shlex.quote(str(model_to_use))}""")
    if steps < last_step:
        print(f"To continue   {_command(folders)}")
