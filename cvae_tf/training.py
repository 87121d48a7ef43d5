"""One training run from configuration to exported model: what ``python train.py`` does."""

import dataclasses
import itertools
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow starts: its notes are not for users

import keras  # noqa: E402
import tensorflow as tf  # noqa: E402
from tensorboard.plugins.hparams import api as hparams  # noqa: E402

from cvae_tf import callbacks, data  # noqa: E402
from cvae_tf.adam import Adam  # noqa: E402
from cvae_tf.config import load_config  # noqa: E402
from cvae_tf.errors import InputError  # noqa: E402
from cvae_tf.export import MODEL_FILES, save_model  # noqa: E402
from cvae_tf.files import atomic, check_replaceable  # noqa: E402
from cvae_tf.lab_network import LabNetwork  # noqa: E402
from cvae_tf.model import CVAE  # noqa: E402
from cvae_tf.runs import run_folders  # noqa: E402
from cvae_tf.schedules import MILESTONES, milestone_factor  # noqa: E402
from cvae_tf.unet import UNet  # noqa: E402


def build_network(config):
    """The network of ``config``, built, with the initial weights of its seed."""
    keras.utils.set_random_seed(config.seed)
    if config.network == "lab":
        network = LabNetwork(config.F_dim, config.L_dim, config.N_dim, config.D_out_dim, config.batch_norm)
    else:
        network = UNet(config.width, config.N_dim)
    network.build((config.frame_H, config.frame_W, 3))
    return network


def build_model(config, clips):
    """The model of ``config``, built and compiled, with the learning-rate schedule over all of its steps."""
    model = CVAE(build_network(config), seed=config.seed, tfr_draw=config.tfr_draw, clip_norm=config.clip_norm,
                 gradient_through_time=config.gradient_through_time)
    rate = _learning_rate(config, clips)
    if config.optim == "Adam":
        optimizer = Adam(rate, epsilon=1e-8)  # PyTorch's epsilon
    else:
        optimizer = keras.optimizers.AdamW(rate, epsilon=1e-8, weight_decay=config.weight_decay)
    model.compile(optimizer, jit_compile=False)  # XLA is many times slower for this loop on a CPU
    optimizer.build(model.trainable_variables)
    return model


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


def _open_run(config, folders):
    """Make the run's folder and its ``config.json``, or check that an existing one agrees; nothing else is touched."""
    export = folders.export
    check_replaceable(export, MODEL_FILES, "exported model", "--export_dir")
    if folders.config.exists():
        saved = load_config(folders.config)
        free = {"preset", "run_dir", "export_dir", "num_epoch", "max_minutes", "val_every", "lr", "batch_norm"}
        for name in saved.__dataclass_fields__.keys() - free:
            if getattr(saved, name) != getattr(config, name):
                raise InputError(f"{folders.root} was begun with --{name} {getattr(saved, name)}, now it is "
                                 f"{getattr(config, name)}; give the same value, or another --run_dir")
    elif (export / "saved_model.pb").is_file():
        raise InputError(f"{export}: holds the model of another run; choose another --export_dir or --run_dir")
    try:
        export.parent.mkdir(parents=True, exist_ok=True)  # rather now than after the first epochs
    except OSError as error:
        raise InputError(f"{export.parent}: cannot be made ({error.strerror}); choose another --export_dir") from error
    with atomic(folders.config) as unfinished:
        unfinished.write_text(config.to_json())


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
        if model.stop_training:
            return


def train(config):
    """Train, or continue, the run of ``config``; export the best and the last model; print where everything is.

    Raises:
        InputError: see the modules that read the data and write the files; or the run diverged, or TensorFlow could
            not read or write a file or ran out of memory.
    """
    try:
        _train(config)
    except (tf.errors.DataLossError, tf.errors.NotFoundError, tf.errors.PermissionDeniedError,
            tf.errors.ResourceExhaustedError) as error:
        raise InputError(f"TensorFlow stopped: {str(error).splitlines()[0]}; look for a damaged checkpoint, a full "
                         "disk or memory, or lower --batch_size") from error


def _train(config):
    began = time.monotonic()
    limit = callbacks.TimeLimit(config.max_minutes)
    training, validation = data.load_footage(config, "train"), data.load_footage(config, "val")
    clips = data.training_clips(config, training)
    frames, poses = validation.longest(config.val_vi_len)
    folders = run_folders(config)
    _open_run(config, folders)
    model = build_model(config, clips)
    validate = callbacks.Validation(frames, poses, config, folders,
                                    keep_best=lambda: save_model(model, folders.export, config))
    checkpoints = callbacks.Checkpoints(model, clips, folders.checkpoints, validate.best)
    first_step = checkpoints.restore()
    if config.lr_schedule == "constant":
        model.optimizer.learning_rate = config.lr  # a variable, which the checkpoint has just restored
    last_step = clips.first_step(config.num_epoch)
    print(f"{folders.root}: {len(training.frames)} training frames, {len(frames)} validation frames; network "
          f"{config.network}, {model.trainable_parameters:,} trainable parameters; "
          + (f"continuing at step {first_step} of {last_step}" if first_step else f"{last_step} steps"), flush=True)
    if first_step < last_step:
        _record_settings(config, folders)
        record = callbacks.EpochRecord(folders.metrics, clips, config.num_epoch, clips.epoch_of(first_step))
        board = keras.callbacks.TensorBoard(str(folders.tensorboard), write_graph=False)
        _fit(model, clips, config, first_step, [callbacks.EpochSchedules(config), callbacks.StopWhenNotFinite(), limit,
                                                callbacks.Progress(), validate, record, board, checkpoints])
    if first_step < last_step or not folders.last_model.exists():
        save_model(model, folders.last_model, config)
    _report(model, clips, config, folders, validate, began)


def _report(model, clips, config, folders, validate, began):
    steps, last_step = int(model.steps), clips.first_step(config.num_epoch)
    samples = sorted(folders.samples.glob("*.gif"), key=lambda path: path.stat().st_mtime)
    print(f"""
{"Finished" if steps >= last_step else "Stopped by --max_minutes"} at step {steps} of {last_step} after \
{(time.monotonic() - began) / 60:.1f} minutes.
PSNR on the validation clip, free running over {len(validate.copy_first)} frames, z from the prior:
  best model  {float(validate.best):.2f} dB
  copy-first  {validate.copy_first.mean():.2f} dB (the first frame repeated)
GIF           {samples[-1] if samples else "none"}   (truth, pose, prediction)
TensorBoard   tensorboard --logdir {folders.tensorboard}
SavedModel    {folders.export}   (the last one: {folders.last_model})
Next          python predict.py --model {folders.export}""")
    if steps < last_step:
        print(f"To continue   python train.py --run_dir {folders.root}")
