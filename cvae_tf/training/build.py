"""Build the objects of a run from its configuration: threads, footage and clips, network, model and optimizer."""

import os
import platform
import random
import re
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import cvae_tf
from cvae_tf.data.clips import Clips
from cvae_tf.data.footage import load_footage
from cvae_tf.errors import InputError
from cvae_tf.inference.origin import Origin, origin_of
from cvae_tf.lab.adam import Adam
from cvae_tf.lab.network import LabNetwork
from cvae_tf.model.cvae import CVAE
from cvae_tf.model.schedules import MILESTONES, beta_table, linear_decay, milestone_factor
from cvae_tf.model.unet import UNet, depth_for
from cvae_tf.training.muon import Muon

# Number of threads per operation under ``--deterministic``, regardless of the number of cores. TensorFlow splits a sum
# into as many parts as there are threads, so their number affects the last bits of the result. On one core, two threads
# take a quarter longer than one.
THREADS = 2


def make_deterministic():
    """Make TensorFlow deterministic to the last bit: deterministic operations with a fixed number of threads each.

    Raises:
        InputError: TensorFlow has already started in this process with another number of threads.
    """
    try:
        tf.config.threading.set_intra_op_parallelism_threads(THREADS)
    except RuntimeError as error:
        raise InputError(f"--deterministic needs {THREADS} threads an operation, and TensorFlow has started with "
                         "another number; start Python anew and train first, or begin with tf.config.threading."
                         f"set_intra_op_parallelism_threads({THREADS})") from error
    tf.config.experimental.enable_op_determinism()


def environment():
    """The properties of the machine and software that affect the last bits of a run's results: name -> text.

    The number of inter-operation threads is not included, since it affects only the order of operations.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = tf.config.threading.get_intra_op_parallelism_threads() or os.environ.get("TF_NUM_INTRAOP_THREADS", cores)
    devices = [tf.config.experimental.get_device_details(gpu).get("device_name", "GPU")
               for gpu in tf.config.list_physical_devices("GPU")]
    cpus = Path("/proc/cpuinfo")  # exists on Linux, where `platform` does not know the processor's name
    names = re.findall(r"model name\s*: *(.*)", cpus.read_text()) if cpus.exists() else []
    found = np.show_config(mode="dicts").get("SIMD Extensions", {}).get("found", [])  # missing on a basic processor
    return {"threads": str(threads), "TensorFlow": tf.__version__, "Keras": keras.__version__, "NumPy": np.__version__,
            "cvae_tf": cvae_tf.__version__,
            "processor": " ".join([*devices, (names or [platform.processor()])[0], platform.machine(),
                                   *found[-1:]])}  # the processor's newest instruction set


@dataclass(frozen=True)
class RunData:
    """The data of a run.

    Attributes:
        clips: the training clips, a `Clips`.
        validation: frames and poses of the validation clip, each (T, H, W, 3) uint8.
        checksums: checksums of the training and the validation footage.
        origin: `Origin` of the training footage.
    """

    clips: Clips
    validation: tuple
    checksums: tuple
    origin: Origin


def load_data(config):
    """Read the footage of both splits, cut it into clips as ``config`` says, and return a `RunData`.

    Raises:
        InputError: a folder or file is missing or unreadable, or there are too few frames for a clip.
    """
    studio = {name: getattr(config, name) for name in ("studio_sequences", "studio_seed", "studio_variety",
                                                       "studio_lamp")}
    splits = load_footage(config.data_dir, frame_size=(config.frame_H, config.frame_W), max_frames=config.max_frames,
                          **studio)
    clips = Clips(splits.train, config.train_vi_len, config.batch_size, order=config.clips, context=config.context,
                  mirror=config.mirror, zoom=config.zoom, share=config.partial,
                  early_share=config.fast_partial if config.fast_train else 1.0,
                  early_epochs=config.fast_train_epoch if config.fast_train else 0,
                  steps_per_epoch=config.steps_per_epoch, seed=config.seed)
    return RunData(clips, splits.val.longest(config.val_vi_len), (splits.train.checksum, splits.val.checksum),
                   origin_of(splits.train, config.data_dir, config.studio_seed))


def build_network(config, limb_hues=None):
    """Build the network of ``config`` with initial weights from its seed. No global random-generator state changes.

    Args:
        config: a `Config`.
        limb_hues: `Footage.limb_hues` of the training footage.
    """
    state = random.getstate()
    random.seed(config.seed)  # Keras's initializers draw their seeds from `random`
    try:
        if config.network == "lab":
            return LabNetwork(config.F_dim, config.L_dim, config.N_dim, config.D_out_dim, config.batch_norm,
                              dtype=config.precision)
        return UNet(config.width, config.N_dim, config.prior, config.narrow_posterior,
                    depth_for(config.frame_H, config.frame_W), limb_hues if config.limb_planes else None,
                    dtype=config.precision)
    finally:
        random.setstate(state)


def build_model(config, clips):
    """The compiled model of ``config``, with a built optimizer.

    Args:
        config: a `Config`.
        clips: `Clips`: its ``first_step(epoch)`` is the number of steps before an epoch, and ``footage.limb_hues`` are
            those of its poses.
    """
    network = build_network(config, clips.footage.limb_hues)
    model = CVAE(network, teacher_forcing_draw=config.tfr_draw, gdl=config.gdl, seed=config.seed,
                 gradient_through_time=config.gradient_through_time, disturbed=config.disturbed,
                 mirror_average=config.mirror_average and config.mirror and network.knows_limbs,
                 clip_norm=config.clip_norm, xla=config.xla, chunk_length=config.chunk_length)
    rate = learning_rate(config.lr_schedule, config.lr, clips.first_step, config.num_epoch)
    if config.optim == "Adam":
        optimizer = Adam(rate, epsilon=1e-8)  # PyTorch's epsilon
    else:
        kind = Muon if config.optim == "Muon" else keras.optimizers.AdamW
        optimizer = kind(rate, epsilon=1e-8, weight_decay=config.weight_decay)
    if config.precision == "mixed_float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    model.compile(optimizer)
    return model


def learning_rate(schedule, highest, first_step, num_epoch):
    """Return the learning rate: a number, or a Keras schedule over the steps of a run.

    Args:
        schedule: ``"constant"``, ``"milestones"`` or ``"cosine"``.
        highest: the highest rate.
        first_step: function from an epoch to the number of steps before it.
        num_epoch: number of epochs in the run.
    """
    schedules = keras.optimizers.schedules
    if schedule == "cosine":
        steps = first_step(num_epoch)
        climb = max(1, steps // 50)  # warm-up steps; the rate is above 0 from the first step on
        warmup = {"warmup_target": highest, "warmup_steps": climb - 1} if climb > 1 else {}
        return schedules.CosineDecay(highest / climb, max(1, steps - climb), alpha=0.01, **warmup)
    if schedule == "milestones":
        # Keras applies the old rate up to and including the boundary step.
        boundaries = [first_step(epoch) - 1 for epoch in MILESTONES]
        return schedules.PiecewiseConstantDecay(boundaries, [highest * milestone_factor(e) for e in (0, *MILESTONES)])
    return highest


def epoch_schedules(config):
    """The arguments of `EpochSchedules` for ``config``, as a dict."""
    beta = beta_table(config.kl_anneal_type, config.num_epoch, config.kl_anneal_cycle, config.kl_anneal_ratio,
                      config.kl_anneal_start)
    return {"beta": beta, "teacher_forcing": linear_decay(config.tfr, config.tfr_sde, config.tfr_d_step)}
