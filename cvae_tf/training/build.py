"""From a configuration to the objects of a run: footage and clips, network, model and optimizer."""

import random
from dataclasses import dataclass

import keras

from cvae_tf.data.clips import Clips
from cvae_tf.data.footage import load_footage
from cvae_tf.lab.adam import Adam
from cvae_tf.lab.network import LabNetwork
from cvae_tf.model.cvae import CVAE
from cvae_tf.model.schedules import MILESTONES, beta_table, linear_decay, milestone_factor
from cvae_tf.model.unet import UNet


@dataclass(frozen=True)
class RunData:
    """The data of a run.

    Attributes:
        clips: the training clips.
        validation: frames and poses of the validation clip, each (T, H, W, 3) uint8.
        checksums: of the training and the validation footage.
    """

    clips: Clips
    validation: tuple
    checksums: tuple


def load_data(config):
    """Read the footage of both splits, and cut it as ``config`` says: a `RunData`.

    Raises:
        InputError: a folder or file is missing or unreadable, or there are too few frames for a clip.
    """
    studio = {name: getattr(config, name) for name in ("studio_sequences", "studio_seed", "studio_variety",
                                                       "studio_lamp")}
    splits = load_footage(config.data_dir, frame_size=(config.frame_H, config.frame_W), max_frames=config.max_frames,
                          **studio)
    clips = Clips(splits.train, config.train_vi_len, config.batch_size, order=config.clips, context=config.context,
                  mirror=config.mirror, share=config.partial,
                  early_share=config.fast_partial if config.fast_train else 1.0,
                  early_epochs=config.fast_train_epoch if config.fast_train else 0,
                  steps_per_epoch=config.steps_per_epoch, seed=config.seed)
    return RunData(clips, splits.val.longest(config.val_vi_len), (splits.train.checksum, splits.val.checksum))


def build_network(config):
    """The network of ``config`` with the initial weights of its seed. The state of all random generators is kept."""
    state = random.getstate()
    random.seed(config.seed)  # from which Keras's initializers draw their seeds
    try:
        if config.network == "lab":
            return LabNetwork(config.F_dim, config.L_dim, config.N_dim, config.D_out_dim, config.batch_norm,
                              dtype=config.precision)
        return UNet(config.width, config.N_dim, config.prior, config.narrow_posterior, dtype=config.precision)
    finally:
        random.setstate(state)


def build_model(config, clips):
    """The compiled model of ``config``, with a built optimizer.

    Args:
        config: a `Config`.
        clips: `Clips`, or any object whose ``first_step(epoch)`` is the number of steps before an epoch.
    """
    model = CVAE(build_network(config), teacher_forcing_draw=config.tfr_draw, gdl=config.gdl, seed=config.seed,
                 gradient_through_time=config.gradient_through_time, clip_norm=config.clip_norm, xla=config.xla,
                 chunk_length=config.chunk_length)
    rate = learning_rate(config.lr_schedule, config.lr, clips.first_step, config.num_epoch)
    if config.optim == "Adam":
        optimizer = Adam(rate, epsilon=1e-8)  # PyTorch's epsilon
    else:
        optimizer = keras.optimizers.AdamW(rate, epsilon=1e-8, weight_decay=config.weight_decay)
    if config.precision == "mixed_float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    model.compile(optimizer)
    return model


def learning_rate(schedule, highest, first_step, num_epoch):
    """The learning rate, as a number or as a Keras schedule over the steps of a run.

    Args:
        schedule: ``"constant"``, ``"milestones"`` or ``"cosine"``.
        highest: the highest rate.
        first_step: function from an epoch to the number of steps before it.
        num_epoch: number of epochs in the run.
    """
    schedules = keras.optimizers.schedules
    if schedule == "cosine":
        steps = first_step(num_epoch)
        climb = max(1, steps // 50)  # steps up to the highest rate; the first of them already learns
        warmup = {"warmup_target": highest, "warmup_steps": climb - 1} if climb > 1 else {}
        return schedules.CosineDecay(highest / climb, max(1, steps - climb), alpha=0.01, **warmup)
    if schedule == "milestones":
        # A boundary is the last step with the rate before it.
        boundaries = [first_step(epoch) - 1 for epoch in MILESTONES]
        return schedules.PiecewiseConstantDecay(boundaries, [highest * milestone_factor(e) for e in (0, *MILESTONES)])
    return highest


def epoch_schedules(config):
    """The arguments of `EpochSchedules`."""
    beta = beta_table(config.kl_anneal_type, config.num_epoch, config.kl_anneal_cycle, config.kl_anneal_ratio,
                      config.kl_anneal_start)
    return {"beta": beta, "teacher_forcing": linear_decay(config.tfr, config.tfr_sde, config.tfr_d_step)}
