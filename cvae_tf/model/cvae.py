"""The model: one training step, free running with either latent, and the generation that gets exported.

The loss of a clip of T frames, per batch (the lab's and the report's reductions):

    loss = sum_t mse_t + gdl * sum_t gd_t + beta * sum_t kl_t,   t = 1 .. T-1

mse_t: mean over batch, pixels and channels, pixels in [0, 1]. gd_t: the same of differences between neighbouring pixels
(ours, not the lab's). kl_t: nats, summed over the latent, mean over the batch.
"""

import keras
import tensorflow as tf

from cvae_tf.model import losses as elbo
from cvae_tf.model.network import over_time
from cvae_tf.model.rollout import by_stretches, rollout

# What a random number is for: a word of its seed, so that no two purposes share numbers.
POSTERIOR, FORCING = 1, 2

# Instants that a film is generated in at a time: pose features and noise exist for so many only, however long the film.
STRETCH = 64


class CVAE(keras.Model):
    """Conditional VAE for video prediction.

    Args:
        network: a built `Network`.
        seed: of all noise in training.
        tfr_draw: what one teacher-forcing coin decides: ``"batch"``, ``"epoch"`` or ``"frame"``.
        gradient_through_time: keep the gradient through fed-back frames; otherwise it stops there, as in the report.
        instants_at_once: with the gradient stopped, how many instants of a clip run forward and backward as one batch:
            the same gradient, more memory, and fewer, larger operations.
        gdl: weight of `elbo.gradient_difference` in the loss.
        clip_norm: global norm above which the gradients of a step are scaled down.
        xla: compile the gradient of each stretch with XLA, its time loop written out.

    ``beta``, ``teacher_forcing_ratio`` and ``epoch`` are set by `callbacks.EpochSchedules`; ``steps`` counts batches.
    """

    def __init__(self, network, seed=0, tfr_draw="batch", gradient_through_time=False, gdl=0.0, clip_norm=1.0,
                 instants_at_once=16, xla=False, **kwargs):
        super().__init__(**kwargs)
        self.network, self.seed, self.tfr_draw = network, seed, tfr_draw
        self.gradient_through_time = gradient_through_time
        self.gdl = gdl
        self.clip_norm = clip_norm
        self.instants_at_once = instants_at_once
        self.xla = xla
        for name, dtype in (("beta", "float32"), ("teacher_forcing_ratio", "float32"), ("epoch", "int32"),
                            ("steps", "int32"), ("skipped", "int32"), ("skipped_in_a_row", "int32")):
            setattr(self, name, self.add_weight(shape=(), dtype=dtype, initializer="zeros", trainable=False, name=name))
        self.means = {name: keras.metrics.Mean(name) for name in ("loss", "mse", "gd", "kl", "grad_norm")}
        self.built = True

    @property
    def trainable_parameters(self):
        """Number of trainable parameters."""
        return sum(weight.value.shape.num_elements() for weight in self.network.trainable_weights)

    # ------------------------------------------------------------------ the transition and its two sources of z

    def cell(self, context, sample=False):
        """The transition for `rollout` with an encoded context frame: previous, (pose_features, z) -> frame.

        With ``sample``, noise N(0, I) is in the place of z, which is drawn from the prior with it.
        """
        def step(previous, now):
            pose_features, z = now
            if sample and self.network.prior_predictor is not None:
                prior = self.prior(*tf.nest.map_structure(lambda x: x[None], (previous, pose_features)), z.shape)
                z = prior.loc[0] + prior.scale[0] * z
            return self.network.transition(previous, pose_features, z, context)
        return step

    def posterior(self, frames, pose_features):
        """q(z_t | x_t, p_t) for true frames (T, B, H, W, 3): a tfp Normal of batch shape (T, B, h, w, c)."""
        return elbo.diagonal_normal(*self.network.posterior(frames, pose_features))

    def prior(self, previous, pose_features, shape):
        """p(z_t | x_{t-1}, p_t): N(0, I) of ``shape``, or learned, for the frames (T, B, H, W, 3) that are fed."""
        if self.network.prior_predictor is None:
            return elbo.standard_normal(shape)
        return elbo.diagonal_normal(*self.network.prior(previous, pose_features))

    # ------------------------------------------------------------------ training

    def draw_forcing(self, shape):
        """Draw which steps are fed the true frame: (T-1, B) bool."""
        key = self.epoch if self.tfr_draw == "epoch" else self.steps
        coins = tf.random.stateless_uniform(shape if self.tfr_draw == "frame" else (), self._key(FORCING, key))
        return tf.broadcast_to(coins < self.teacher_forcing_ratio, shape)

    def _key(self, purpose, number):
        return tf.random.fold_in(tf.stack([self.seed, purpose]), tf.cast(number, tf.int32))

    def draw_noise(self, shape):
        """Draw the noise of the reparameterisation, N(0, I), for a batch of clips: (T-1, B, h, w, c)."""
        return elbo.standard_normal(shape).sample(seed=self._key(POSTERIOR, self.steps))

    def instants(self, frames, poses):
        """What is needed to predict frames 1 to T-1 of (T, B, H, W, 3), by instant: a tuple of (T-1, B, ...).

        True frames before and at each, poses, noise of the posterior, and whether it is fed the true frame.
        """
        length, batch, height, width, _ = frames[1:].shape
        return (frames[:-1], frames[1:], poses[1:],
                self.draw_noise((length, batch, *self.network.latent_shape(height, width))),
                self.draw_forcing((length, batch)))

    def predict_stretch(self, before, instants, context, training=True):
        """Predict frames with z from the posterior, under teacher forcing.

        Args:
            before: (B, H, W, 3), what was generated before the first; of a clip, its true frame 0.
            instants: of T consecutive ones, from `instants`.
            context: (B, H, W, 3), the context frame.

        Returns:
            ``(predictions, kl)``: (T, B, H, W, 3), and (T, B) in nats.
        """
        true_previous, targets, poses, noise, forced = instants
        pose_features = self.network.encode_poses(poses, training=training)
        posterior = self.posterior(targets, pose_features)
        context = self.network.encode_context(context)
        inputs = (self.network.with_context(pose_features, context),
                  posterior.loc + posterior.scale * noise)  # the reparameterisation
        cell = self.cell(context)

        def fed(earlier):  # to each instant, from what was generated for those before it
            generated = tf.concat([before[None], earlier], 0)
            return tf.where(forced[:, :, None, None, None], true_previous, generated)

        def with_kl(previous, predictions):
            return predictions, elbo.kl_divergence(posterior, self.prior(previous, pose_features, tf.shape(noise)))

        if self.gradient_through_time:
            predictions = rollout(cell, before, inputs, true_previous, forced, unrolled=self.xla)
            return with_kl(fed(predictions[:-1]), predictions)

        # With the gradient stopped at fed-back frames, what each step is fed can be generated first, without a
        # gradient, and all steps can then run as one batch: the same loss and gradient as step by step, but faster.
        def feed_back():
            if targets.shape[0] == 1:
                return fed(targets[:0])
            earlier = tf.nest.map_structure(lambda x: x[:-1], (inputs, true_previous, forced))
            return fed(rollout(cell, before, *earlier, unrolled=self.xla))

        previous = tf.stop_gradient(tf.cond(tf.reduce_all(forced), lambda: true_previous, feed_back))
        return with_kl(previous, self._all_at_once(previous, inputs, context))

    def _all_at_once(self, previous, inputs, context):
        context = tf.nest.map_structure(lambda x: tf.repeat(x[None], tf.shape(previous)[0], axis=0), context)
        return over_time(self.network.transition, previous, *inputs, context)

    def clip_gradient(self, frames, poses, context, loss_scale=1.0):
        """The terms of a clip batch's loss and the loss's gradient, by stretches of ``instants_at_once``.

        Args:
            frames, poses, context: (T, B, H, W, 3) twice, and the context frame (B, H, W, 3).
            loss_scale: factor of the gradient, so that small ones do not vanish in float16.

        Returns:
            ``(mse, gd, kl, gradients)``: sums over time of means over the batch; a tensor for each trainable variable.
        """
        instants, length = self.instants(frames, poses), frames.shape[0] - 1
        stretch = length if self.gradient_through_time else min(length, self.instants_at_once)

        def of_stretch(before, instants):
            with tf.GradientTape() as tape:
                predictions, kl = self.predict_stretch(before, instants, context)
                terms = (elbo.squared_error(instants[1], predictions),
                         elbo.gradient_difference(instants[1], predictions), kl)
                terms = [tf.reduce_sum(tf.reduce_mean(term, axis=1)) for term in terms]
                scaled = loss_scale * self.objective(*terms)
            return predictions[-1], *terms, tape.gradient(scaled, self.trainable_variables)

        if self.xla:
            of_stretch = tf.function(of_stretch, jit_compile=True, autograph=False)
        if stretch == length:
            return of_stretch(frames[0], instants)[1:]

        def add(start, before, *sums):
            now = tf.nest.map_structure(lambda x: x[start:start + stretch], instants)
            if stretch == 1:
                now = tf.nest.map_structure(lambda x: tf.ensure_shape(x, (1, *x.shape[1:])), now)
            before, *terms, gradients = of_stretch(before, now)
            return before, *(a + b for a, b in zip(sums, (*terms, *gradients), strict=True))

        zeros = [*(tf.zeros(()),) * 3, *(tf.zeros_like(variable) for variable in self.trainable_variables)]
        _, mse, gd, kl, *gradients = by_stretches(add, length, stretch, frames[0], *zeros)
        return mse, gd, kl, gradients

    def objective(self, mse, gd, kl):
        """The loss of a batch from its terms."""
        return mse + self.gdl * gd + self.beta * kl

    def train_step(self, data):
        """One teacher-forced clip batch, one optimiser step; skipped where the loss or gradient is not finite."""
        frames, poses, context = data
        running = [(statistic, tf.identity(statistic)) for statistic in self.network.non_trainable_variables]
        scale = self.optimizer.scale_loss(1.0)  # 1, but for float16
        mse, gd, kl, gradients = self.clip_gradient(frames, poses, context, scale)
        gradients = [gradient / scale for gradient in gradients]
        loss = self.objective(mse, gd, kl)
        norm = tf.linalg.global_norm(gradients)
        finite = tf.math.is_finite(loss) & tf.math.is_finite(norm)
        gradients, _ = tf.clip_by_global_norm(gradients, self.clip_norm, use_norm=norm)
        gradients = [gradient * scale for gradient in gradients]  # which the optimiser undoes

        rate = tf.identity(self.optimizer.learning_rate)  # before the update moves its schedule on

        def update():
            self.optimizer.apply(gradients, self.trainable_variables)
            return tf.constant(0)

        def skip():
            for statistic, before in running:  # BatchNorm's have moved in the forward pass
                statistic.assign(before)
            if tf.is_tensor(scale):
                self.optimizer.apply(gradients, self.trainable_variables)  # it skips too, and lowers the scale
            return tf.constant(1)

        skipped = tf.cond(finite, update, skip)
        self.steps.assign_add(1)
        self.skipped.assign_add(skipped)
        self.skipped_in_a_row.assign(skipped * (self.skipped_in_a_row + 1))
        for name, value in (("loss", loss), ("mse", mse), ("gd", gd), ("kl", kl), ("grad_norm", norm)):
            self.means[name].update_state(tf.where(finite, value, 0.0), sample_weight=tf.cast(finite, tf.float32))
        return {**{name: mean.result() for name, mean in self.means.items()},
                "beta": self.beta.value, "tfr": self.teacher_forcing_ratio.value,
                "lr": rate, "skipped": self.skipped.value}

    # ------------------------------------------------------------------ free running

    def run_freely(self, first_frame, pose_features, z):
        """Generate the frame of each pose in turn, from one frame, which is the context too.

        Args:
            first_frame: (B, H, W, 3).
            pose_features: of T poses, from ``network.encode_poses``.
            z: (T, B, h, w, c).

        Returns:
            (T, B, H, W, 3), not clipped to [0, 1], as it is fed back in the lab too.
        """
        context = self.network.encode_context(first_frame)
        return rollout(self.cell(context), first_frame, (self.network.with_context(pose_features, context), z))

    def generate(self, first_frame, poses, seed, temperature=1.0):
        """Free running with z from the prior, times ``temperature``: what a user gets.

        Args:
            first_frame: (B, H, W, 3).
            poses: (B, T, H, W, 3).
            seed: (2,) int32. The same seed gives the same frames.
            temperature: scales z about the prior's mean; 0 gives that mean, the most likely film.

        Returns:
            (B, T, H, W, 3) in [0, 1], the frame of each pose in turn.
        """
        return self.continue_film(first_frame, first_frame, poses, seed, temperature)[0]

    def continue_film(self, context_frame, before, poses, seed, temperature=1.0, start=0):
        """`generate` from the middle of a film: in parts, films of any length take constant memory.

        Args:
            context_frame: (B, H, W, 3), the frame that the film began with.
            before: (B, H, W, 3), the ``last`` of the part before.
            poses: (B, T, H, W, 3), of the frames to generate.
            seed, temperature: as for `generate`.
            start: number of frames generated before, a multiple of `STRETCH`.

        Returns:
            ``(frames, last)``: (B, T, H, W, 3) in [0, 1], equal to those of a film generated at once; and (B, H, W, 3),
            the last of them as it is fed back, not clipped.
        """
        poses = _swap_time(poses)
        length, batch = tf.shape(poses)[0], tf.shape(poses)[1]
        shape = [STRETCH, batch, *self.network.latent_shape(*poses.shape[2:4])]
        context = self.network.encode_context(context_frame)
        films = tf.TensorArray(tf.float32, (length + STRETCH - 1) // STRETCH, infer_shape=False,
                               element_shape=(None, *poses.shape[1:]))

        def add(now, before, films):
            part = poses[now:now + STRETCH]
            noise = elbo.standard_normal(shape).sample(seed=tf.random.fold_in(seed, (start + now) // STRETCH))
            poses_now = self.network.with_context(self.network.encode_poses(part), context)
            inputs = poses_now, temperature * noise[:tf.shape(part)[0]]
            film = rollout(self.cell(context, sample=True), before, inputs)
            return tf.ensure_shape(film[-1], before.shape), films.write(now // STRETCH, film)

        last, films = by_stretches(add, length, STRETCH, before, films)
        return _swap_time(tf.clip_by_value(films.concat(), 0.0, 1.0)), last

    def reconstruct(self, frames, poses, seed=(0, 0)):
        """Free running with z from the posterior, which has seen each target frame: no prediction score.

        Args:
            frames, poses: (B, T, H, W, 3); only the first frame is fed, the others are what z is inferred from.
            seed: (2,) int32.

        Returns:
            ``(predictions, kl, mean)``: (B, T-1, H, W, 3) in [0, 1], of frames 1 to T-1; (B, T-1) in nats; and the
            posterior's mean, (B, T-1, h, w, c).
        """
        frames, poses = _swap_time(frames), _swap_time(poses)
        pose_features = self.network.encode_poses(poses[1:])
        posterior = self.posterior(frames[1:], pose_features)
        z = posterior.sample(seed=seed)
        predictions = self.run_freely(frames[0], pose_features, z)
        previous = tf.concat([frames[:1], predictions[:-1]], 0)
        kl = elbo.kl_divergence(posterior, self.prior(previous, pose_features, tf.shape(z)))
        return _swap_time(tf.clip_by_value(predictions, 0.0, 1.0)), tf.transpose(kl), _swap_time(posterior.loc)


def _swap_time(frames):
    """(B, T, ...) <-> (T, B, ...)."""
    return tf.transpose(frames, [1, 0, *range(2, len(frames.shape))])
