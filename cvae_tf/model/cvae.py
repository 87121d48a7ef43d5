"""The model: training step, free running and generation.

Free running feeds each generated frame back as the next input. The latent z comes from the prior, or from the
posterior, which has seen the target frame.

The loss of a batch of clips of T frames, with the reductions of the lab and the report:

    loss = sum_t mse_t + gdl * sum_t gd_t + beta * sum_t kl_t,   t = 1 .. T-1

mse_t: squared error of pixels in [0, 1], mean over batch, pixels and channels. gd_t: the same mean of the squared error
of the differences between neighbouring pixels (not in the lab). kl_t: KL divergence in nats, summed over the latent,
mean over the batch.

The methods of Keras, ``generate``, ``continue_film`` and ``reconstruct`` take clips as (B, T, H, W, 3). All other
methods work with time as the first axis: (T, B, H, W, 3).
"""

from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from cvae_tf.model import batch, defaults, losses
from cvae_tf.model.batch import as_float
from cvae_tf.model.defaults import GENERATION_CHUNK
from cvae_tf.model.export import write
from cvae_tf.model.mirror_average import MirrorAverage
from cvae_tf.model.network import Network, dimensions, over_time
from cvae_tf.model.rollout import in_chunks, rollout

# Purposes of random numbers. The purpose is one word of each seed, so no two purposes share random numbers.
POSTERIOR, FORCING, DISTURBANCE = 1, 2, 3

Images = np.ndarray | tf.Tensor


@keras.saving.register_keras_serializable("cvae_tf")
class CVAE(keras.Model):
    """Conditional VAE for video prediction.

    ``fit``, ``evaluate`` and ``predict`` take batches of clips from a ``tf.data.Dataset``, NumPy arrays or a generator.
    A batch is a tuple ``(frames, poses)``, or a dict of ``frames`` and ``poses`` (B, T, H, W, 3) and optionally
    ``context`` (B, H, W, 3). All are uint8, or floats in [0, 1]. Frame t and pose t show the same instant. The context
    frame, from which `UNet` copies the background, is the clip's first frame unless given. ``predict`` returns the
    films of ``call``.

    Args:
        network: a `Network`.
        beta: weight of the KL divergence, per nat.
        teacher_forcing_ratio: probability, in [0, 1], that the input of a step is the true previous frame instead of
            the generated one.
        teacher_forcing_draw: unit for which teacher forcing is drawn: ``"batch"``, ``"epoch"`` or ``"frame"``.
        gradient_through_time: let the gradient flow through fed-back frames; else it stops there, as in the report.
        disturbed: share of the training clips, in [0, 1], whose first input frame is replaced by another picture; see
            `disturb`.
        mirror_average: generate with `MirrorAverage`: better frames for twice the time. For a network with limb hues
            that is trained on mirrored clips.
        gdl: weight of `losses.gradient_difference`.
        clip_norm: global norm above which the gradients of a step are scaled down.
        chunk_length: number of time steps that run forward and backward as one batch. The gradient does not depend on
            this number; larger chunks need fewer operations and more memory. 0: the network's own choice. No effect
            with ``gradient_through_time``.
        xla: compile the gradient of each chunk with XLA, with the time loop unrolled; T must be static.
        seed: seed of all random draws in training.
        frame_size: (height, width) of the frames in pixels, for `export`; None: taken from the first batch.

    ``beta``, ``teacher_forcing_ratio`` and ``epoch`` are variables that `EpochSchedules` sets. ``steps`` counts
    batches; ``skipped`` counts the batches whose loss or gradient was not finite.
    """

    network: Network
    beta: keras.Variable
    teacher_forcing_ratio: keras.Variable
    epoch: keras.Variable
    steps: keras.Variable
    skipped: keras.Variable
    skipped_in_a_row: keras.Variable

    def __init__(self, network: Network, beta: float = defaults.BETA,
                 teacher_forcing_ratio: float = defaults.TEACHER_FORCING_RATIO,
                 teacher_forcing_draw: str = defaults.TEACHER_FORCING_DRAW, gradient_through_time: bool = False,
                 disturbed: float = defaults.DISTURBED, mirror_average: bool = False, gdl: float = defaults.GDL,
                 clip_norm: float = defaults.CLIP_NORM, chunk_length: int = defaults.CHUNK_LENGTH, xla: bool = False,
                 seed: int = 0, frame_size: tuple[int, int] | None = None, **kwargs):
        super().__init__(**kwargs)
        self.network, self.teacher_forcing_draw, self.gradient_through_time = network, teacher_forcing_draw, \
            gradient_through_time
        self.disturbed, self.mirror_average = disturbed, mirror_average
        self.gdl, self.clip_norm, self.chunk_length, self.xla, self.seed = gdl, clip_norm, chunk_length, xla, seed
        self.frame_size = frame_size and tuple(frame_size)
        for name, value, dtype in (("beta", beta, "float32"), ("teacher_forcing_ratio", teacher_forcing_ratio,
                                                               "float32"),
                                   *((name, 0, "int32") for name in ("epoch", "steps", "skipped", "skipped_in_a_row"))):
            setattr(self, name, self.add_weight(shape=(), dtype=dtype, trainable=False, name=name,
                                                initializer=keras.initializers.Constant(value),
                                                aggregation="only_first_replica"))
        self.means = {name: keras.metrics.Mean(name) for name in
                      ("loss", "mse", "gd", "kl", "grad_norm", "psnr_prior", "psnr_posterior")}
        self.built = True

    # ------------------------------------------------------------------ the Keras model

    def compile(self, optimizer: str | keras.optimizers.Optimizer = "adamw", **kwargs) -> None:
        """As in Keras, but without ``loss`` and ``metrics``, which the model defines. For XLA, see the constructor.

        Raises:
            ValueError: ``loss`` or ``metrics`` is given.
        """
        # Grappler's remapper fails on the gradient of a leaky ReLU of a sum: it logs an error and changes nothing.
        tf.config.optimizer.set_experimental_options({"remapping": False})
        if kwargs.get("loss") is not None or kwargs.get("metrics") is not None:
            raise ValueError("compile() has an invalid argument; expected no loss and no metrics, which the model "
                             "brings along")
        super().compile(optimizer, **kwargs | {"jit_compile": False})  # XLA on the whole step would change the noise
        self.optimizer.build(self.trainable_variables)

    def compile_from_config(self, config):
        self.compile(keras.saving.deserialize_keras_object(config["optimizer"]))

    def get_config(self):
        names = ("teacher_forcing_draw", "gradient_through_time", "disturbed", "mirror_average", "gdl", "clip_norm",
                 "chunk_length", "xla", "seed", "frame_size")
        return {**super().get_config(), "network": keras.saving.serialize_keras_object(self.network),
                "beta": float(self.beta), "teacher_forcing_ratio": float(self.teacher_forcing_ratio),
                **{name: getattr(self, name) for name in names}}

    @classmethod
    def from_config(cls, config):
        return cls(**config | {"network": keras.saving.deserialize_keras_object(config["network"])})

    def fit(self, x=None, *args, **kwargs) -> keras.callbacks.History:
        if isinstance(x, tf.data.Dataset) or hasattr(x, "__next__"):
            kwargs.setdefault("shuffle", False)  # Keras cannot shuffle a data set or a generator, and warns
        with batch.range_errors():
            return super().fit(batch.in_tuples(x), *args, **kwargs)

    def evaluate(self, x=None, *args, **kwargs):
        with batch.range_errors():
            return super().evaluate(batch.in_tuples(x), *args, **kwargs)

    def predict(self, x, *args, **kwargs):
        with batch.range_errors():
            return super().predict(batch.in_tuples(x), *args, **kwargs)

    @property
    def metrics(self):
        return list(self.means.values())

    @property
    def trainable_parameters(self) -> int:
        """Number of trainable parameters."""
        return sum(weight.value.shape.num_elements() for weight in self.network.trainable_weights)

    def call(self, inputs, training=False):
        """A film of each clip, free running from the first frame with z from the prior, seed 0: (B, T-1, H, W, 3)."""
        frames, poses, context = self.unpack(inputs)
        film, _ = self._generate(context, frames[0], poses[1:], as_seed(0), 1.0, 0)
        return _swap_time(tf.clip_by_value(film, 0.0, 1.0))

    def predict_step(self, data):
        return self(data)

    def unpack(self, data):
        """Read a batch of clips with `batch.read`, check the size of its frames, and make time the first axis.

        Returns:
            ``(frames, poses, context)``: frames and poses (T, B, H, W, 3), context (B, H, W, 3); float32 in [0, 1].

        Raises:
            ValueError: the batch is invalid, or the network cannot take frames of its size.
        """
        frames, poses, context = batch.read(data)
        self._see_size(*frames.shape[2:4])
        return _swap_time(frames), _swap_time(poses), context

    def _see_size(self, height, width):
        self.network.check_size(height, width)
        if self.frame_size is None and height is not None and width is not None:
            self.frame_size = height, width

    # ------------------------------------------------------------------ the transition and its two sources of z

    @property
    def sampler(self):
        """The network of generation: the trained one, or its `MirrorAverage`."""
        return MirrorAverage(self.network) if self.mirror_average else self.network

    def cell(self, network, context, prior_noise=False):
        """The transition for `rollout` with an encoded context frame: ``cell(previous, (pose_features, z)) -> frame``.

        With ``prior_noise``, the inputs hold noise N(0, I) instead of z, and the cell makes z from the noise and the
        prior.
        """
        def step(previous, now):
            pose_features, z = now
            if prior_noise and network.prior_predictor is not None:
                inputs = tf.nest.map_structure(lambda x: x[None], (previous, pose_features))
                prior = self.prior(network, *inputs, z.shape)
                z = prior.loc[0] + prior.scale[0] * z
            return network.transition(previous, pose_features, z, context)
        return step

    def posterior(self, network, frames, pose_features):
        """Posterior q(z_t | x_t, p_t) for true frames (T, B, H, W, 3): a tfp Normal of batch shape (T, B, h, w, c)."""
        return losses.diagonal_normal(*network.predict_gaussian(network.gaussian_predictor, frames, pose_features))

    def prior(self, network, previous, pose_features, shape):
        """The prior p(z_t | x_{t-1}, p_t): N(0, I) of ``shape``, or learned, given the input frames (T, B, H, W, 3)."""
        if network.prior_predictor is None:
            return losses.standard_normal(shape)
        return losses.diagonal_normal(*network.predict_gaussian(network.prior_predictor, previous, pose_features))

    # ------------------------------------------------------------------ training

    def train_step(self, data):
        """One optimiser step on a batch of clips with teacher forcing; skipped if loss or gradient is not finite."""
        frames, poses, context = self.unpack(data)
        scale = self.optimizer.scale_loss(1.0)  # 1, except in float16
        before = [tf.identity(variable) for variable in self.network.non_trainable_variables]
        terms, gradients = self._clip_gradient(frames, poses, context, scale)
        terms, gradients = self._mean_over_replicas(terms, [gradient / scale for gradient in gradients])
        norm = tf.linalg.global_norm(gradients)
        finite = tf.math.is_finite(terms["loss"]) & tf.math.is_finite(norm)
        gradients, _ = tf.clip_by_global_norm(gradients, self.clip_norm, use_norm=norm)
        rate = tf.identity(self.optimizer.learning_rate)  # before the update advances its schedule
        self._update(finite, gradients, scale, before)
        self.steps.assign_add(1)
        for name, value in (terms | {"grad_norm": norm}).items():
            self.means[name].update_state(tf.where(finite, value, 0.0), sample_weight=tf.cast(finite, tf.float32))
        return {**{name: self.means[name].result() for name in (*terms, "grad_norm")}, "lr": rate,
                "beta": tf.identity(self.beta), "tfr": tf.identity(self.teacher_forcing_ratio),
                "skipped": tf.identity(self.skipped)}

    def _mean_over_replicas(self, *tensors):
        """The means over all replicas of ``tf.distribute``, so that all replicas clip and skip alike."""
        context = tf.distribute.get_replica_context()
        count = context.num_replicas_in_sync
        if count == 1:
            return tensors
        return tf.nest.map_structure(lambda x: x / count, context.all_reduce(tf.distribute.ReduceOp.SUM, tensors))

    def _update(self, finite, gradients, scale, statistics):
        """Apply the gradients if the step is ``finite``; else restore the network's ``statistics`` and count a skip.

        The ``tf.cond`` is outside the replicas. Keras's optimisers communicate between replicas, which is not allowed
        in a ``tf.cond`` inside a replica.
        """
        # The optimiser divides by the scale and sums over replicas.
        factor = scale / tf.distribute.get_replica_context().num_replicas_in_sync

        def apply(gradients):
            self.optimizer.apply([gradient * factor for gradient in gradients], self.trainable_variables)
            self.skipped_in_a_row.assign(0)

        def skip(gradients, statistics):
            for variable, value in zip(self.network.non_trainable_variables, statistics, strict=True):
                variable.assign(value)  # the forward pass has moved the batch normalisation statistics
            if tf.is_tensor(scale):
                self.optimizer.apply([gradient * factor for gradient in gradients], self.trainable_variables)
            # A loss-scaling optimiser skips the step itself and lowers the scale. The learning-rate schedule advances.
            inner = getattr(self.optimizer, "inner_optimizer", self.optimizer)
            inner.iterations.assign_add(1)
            self.skipped.assign_add(1)
            self.skipped_in_a_row.assign_add(1)

        def choose(strategy, finite, gradients, statistics):
            each = strategy.extended.call_for_each_replica
            tf.cond(strategy.experimental_local_results(finite)[0],
                    lambda: _nothing(each(apply, args=(gradients,))),
                    lambda: _nothing(each(skip, args=(gradients, statistics))))

        tf.distribute.get_replica_context().merge_call(choose, args=(finite, gradients, statistics))

    def _clip_gradient(self, frames, poses, context, scale):
        """The loss terms of a batch of clips, and the gradient of ``scale`` times the loss, computed in chunks of time.

        Args:
            frames, poses, context: as returned by `unpack`.
            scale: factor of the gradient, so that small gradients do not vanish in float16.

        Returns:
            ``(terms, gradients)``: a dict of ``loss``, ``mse``, ``gd`` and ``kl``, and one gradient for each
            trainable variable.
        """
        length, clips, height, width, _ = dimensions(frames[1:])
        shape = length, clips, *self.network.latent_shape(height, width)
        previous = tf.concat([self.disturb(frames)[None], frames[1:-1]], 0)
        clip = (previous, frames[1:], poses[1:], self.draw_noise(shape), self.draw_teacher_forcing((length, clips)))
        gradient = tf.function(self._chunk_gradient, jit_compile=True, autograph=False) if self.xla \
            else self._chunk_gradient
        chunk = length if self.gradient_through_time else self.chunk_length or self.network.chunk_length(height, width)
        if self.gradient_through_time or isinstance(length, int) and chunk >= length:
            return gradient(previous[0], clip, context, scale)[1:]

        def add(start, previous, terms, gradients):
            now = tf.nest.map_structure(lambda x: x[start:start + chunk], clip)
            if chunk == 1:
                now = tf.nest.map_structure(lambda x: tf.ensure_shape(x, (1, *x.shape[1:])), now)
            previous, *more = gradient(previous, now, context, scale)
            return previous, *tf.nest.map_structure(tf.add, [terms, gradients], more)

        zeros = {name: tf.zeros(()) for name in ("loss", "mse", "gd", "kl")}
        nothing = [tf.zeros_like(variable) for variable in self.trainable_variables]
        return in_chunks(add, length, chunk, previous[0], zeros, nothing)[1:]

    def _chunk_gradient(self, previous, chunk, context, scale):
        """The last predicted frame, which is ``previous`` for the next chunk, and `_clip_gradient` of this chunk."""
        with tf.GradientTape() as tape:
            predictions, kl = self.predict_chunk(previous, chunk, context, training=True)
            terms = self._loss_terms(chunk[1], predictions, kl)
            scaled = scale * terms["loss"]
        last = tf.ensure_shape(predictions[-1], previous.shape)
        return last, terms, tape.gradient(scaled, self.trainable_variables)

    def _loss_terms(self, frames, predictions, kl):
        """A dict of the loss and its terms, each summed over time and averaged over the batch."""
        mse, gd, kl = (tf.reduce_sum(tf.reduce_mean(term, axis=1)) for term in (
            losses.squared_error(frames, predictions), losses.gradient_difference(frames, predictions), kl))
        return {"loss": mse + self.gdl * gd + self.beta * kl, "mse": mse, "gd": gd, "kl": kl}

    def predict_chunk(self, before, chunk, context, training=False):
        """Predict frames with z from the posterior, under teacher forcing.

        Args:
            before: (B, H, W, 3), the generated frame before the chunk; at the start of a clip, its true frame 0.
            chunk: T consecutive time steps, each a tensor (T, B, ...): the true previous frames, the true frames,
                poses, the posterior's noise, and the teacher-forcing mask.
            context: (B, H, W, 3), the context frame.

        Returns:
            ``(predictions, kl)``: (T, B, H, W, 3), and (T, B) in nats.
        """
        true_previous, targets, poses, noise, mask = chunk
        network = self.network
        pose_features = network.encode_poses(poses, training=training)
        posterior = self.posterior(network, targets, pose_features)
        context = network.encode_context(context)
        inputs = (network.with_context(pose_features, context),
                  posterior.loc + posterior.scale * noise)  # the reparameterisation
        cell = self.cell(network, context)

        def fed(generated):  # the input frame of each step, from the frames generated before it
            return tf.where(mask[:, :, None, None, None], true_previous, tf.concat([before[None], generated], 0))

        if self.gradient_through_time:
            predictions = rollout(cell, before, inputs, true_previous, mask, unrolled=self.xla)
            previous = fed(predictions[:-1])
        else:
            # The gradient stops at fed-back frames, so all inputs are generated first, without a gradient. All steps
            # then run as one batch. Loss and gradient are the same as step by step, but this is faster.
            def feed_back():
                if targets.shape[0] == 1:
                    return fed(targets[:0])
                # The last frame is not fed back. A last chunk of one step thus makes a loop over no steps, which is
                # possible only if the shape of a frame is known.
                end = -1 if before.shape.is_fully_defined() else None
                earlier = tf.nest.map_structure(lambda x: x[:end], (inputs, true_previous, mask))
                return fed(rollout(cell, before, *earlier, unrolled=self.xla)[:tf.shape(targets)[0] - 1])

            previous = tf.stop_gradient(tf.cond(tf.reduce_all(mask), lambda: true_previous, feed_back))
            length = tf.shape(previous)[0]
            repeated = tf.nest.map_structure(lambda x: tf.repeat(x[None], length, axis=0), context)
            predictions = over_time(network.transition, previous, *inputs, repeated)
        return predictions, losses.kl_divergence(posterior, self.prior(network, previous, pose_features,
                                                                      tf.shape(noise)))

    def draw_teacher_forcing(self, shape):
        """Draw the teacher-forcing mask, (T-1, B) bool: true where a step gets the true previous frame."""
        key = self.epoch if self.teacher_forcing_draw == "epoch" else self.steps
        draws = tf.random.stateless_uniform(shape if self.teacher_forcing_draw == "frame" else (),
                                            self._key(FORCING, key))
        return tf.broadcast_to(draws < self.teacher_forcing_ratio, shape)

    def disturb(self, frames):
        """The input frames (B, H, W, 3) of the first step: frame 0 of the clips, in some of them disturbed.

        So the network learns to return from any picture within a few steps. Otherwise a film can fall into a state
        from which it never returns. The disturbed frame is one of four pictures: uniform noise, one grey level, the
        inverted frame, or the last frame of another clip of the batch.

        Args:
            frames: (T, B, H, W, 3) float32 in [0, 1], the true frames.
        """
        if not self.disturbed:
            return frames[0]
        first = frames[0]
        shape = dimensions(first)
        noise, *draws = (tf.random.stateless_uniform(size, self._key(DISTURBANCE + i, self.steps))
                         for i, size in enumerate((shape, *3 * [(shape[0], 1, 1, 1)])))
        grey, kind, chance = draws
        grey = tf.broadcast_to(tf.round(4 * grey) / 4, shape)  # from black to white
        other = tf.roll(frames[-1], 1, axis=0)
        chosen = tf.where(kind < 0.25, noise, tf.where(kind < 0.5, grey, tf.where(kind < 0.75, 1 - first, other)))
        return tf.where(chance < self.disturbed, chosen, first)

    def draw_noise(self, shape):
        """Draw the noise of the reparameterisation, N(0, I), for a batch of clips: (T-1, B, h, w, c)."""
        return losses.standard_normal(shape).sample(seed=self._key(POSTERIOR, self.steps))

    def _key(self, purpose, number):
        return tf.random.fold_in(tf.stack([self.seed, purpose]), tf.cast(number, tf.int32))

    # ------------------------------------------------------------------ free running

    def test_step(self, data):
        """Evaluate free running: loss terms with z from the posterior, and PSNR in dB with z from prior and posterior.

        ``psnr_prior`` scores a prediction. ``psnr_posterior`` does not: the posterior has seen each target frame.
        """
        frames, poses, context = self.unpack(data)
        predictions, kl, _ = self._reconstruct(frames, poses, context, as_seed(0))
        film, _ = self._generate(context, frames[0], poses[1:], as_seed(0), 1.0, 0)
        values = self._loss_terms(frames[1:], predictions, kl)
        values |= {f"psnr_{name}": tf.reduce_mean(losses.psnr(frames[1:], result))
                   for name, result in (("prior", film), ("posterior", predictions))}
        for name, value in values.items():
            self.means[name].update_state(value, sample_weight=tf.cast(tf.shape(context)[0], tf.float32))
        return {name: self.means[name].result() for name in values}

    def generate(self, first_frame: Images, poses: Images, seed: int | tf.Tensor = 0,
                 temperature: float | tf.Tensor = 1.0) -> tf.Tensor:
        """Free running with z from the prior.

        Args:
            first_frame: (B, H, W, 3), uint8, or floats in [0, 1]; it is also the context frame.
            poses: (B, T, H, W, 3), uint8, or floats in [0, 1]: the poses of the frames to generate.
            seed: an integer, or a tensor (2,) int32. The same seed gives the same film, alone or in a batch; all films
                of a batch have the same noise.
            temperature: factor of the deviation of z from the prior's mean; 0: z is the prior's mean.

        Returns:
            (B, T, H, W, 3) float32 in [0, 1], one frame for each pose.

        Raises:
            ValueError: the rank, type, range or size of an input is invalid.
        """
        return self.continue_film(first_frame, None, poses, seed, temperature)[0]

    def continue_film(self, context_frame: Images, previous: tf.Tensor | None, poses: Images,
                      seed: int | tf.Tensor = 0, temperature: float | tf.Tensor = 1.0,
                      start: int | tf.Tensor = 0) -> tuple[tf.Tensor, tf.Tensor]:
        """Generate the next part of a film, as `generate` does. In parts, films of any length take constant memory.

        Args:
            context_frame: (B, H, W, 3), the first frame of the film.
            previous: (B, H, W, 3) float32, the ``last`` that the previous part returned; None at the start of a film.
            poses: (B, T, H, W, 3), the poses of the frames to generate.
            seed, temperature: as for `generate`.
            start: number of frames generated before, a multiple of `GENERATION_CHUNK`.

        Returns:
            ``(frames, last)``: frames (B, T, H, W, 3) in [0, 1], equal to those of a film generated at once; and the
            last frame (B, H, W, 3), not clipped, to be fed back.
        """
        context, poses = as_float(context_frame, "the first frame", 4), as_float(poses, "poses", 5)
        if not context.shape.is_compatible_with(poses[:, 0].shape):
            raise ValueError(f"poses have an invalid shape; expected {tuple(context.shape)} at each time, as the first "
                             f"frame, received {tuple(poses.shape)}, time being axis 1")
        self._see_size(*context.shape[1:3])
        film, last = self._generate(context, context if previous is None else previous, _swap_time(poses),
                                    as_seed(seed), temperature, start)
        return _swap_time(tf.clip_by_value(film, 0.0, 1.0)), last

    def _generate(self, context_frame, previous, poses, seed, temperature, start):
        network, (length, _, height, width, _) = self.sampler, dimensions(poses)
        shape = [GENERATION_CHUNK, 1, *network.latent_shape(height, width)]  # 1: the same noise for each film
        context = network.encode_context(context_frame)
        films = tf.TensorArray(tf.float32, (length + GENERATION_CHUNK - 1) // GENERATION_CHUNK, infer_shape=False,
                               element_shape=(None, *poses.shape[1:]))

        def add(now, previous, films):
            part = poses[now:now + GENERATION_CHUNK]
            key = tf.random.fold_in(seed, (start + now) // GENERATION_CHUNK)
            noise = temperature * losses.standard_normal(shape).sample(seed=key)[:tf.shape(part)[0]]
            noise = tf.repeat(noise, tf.shape(part)[1], axis=1)
            pose_features = network.with_context(network.encode_poses(part), context)
            film = rollout(self.cell(network, context, prior_noise=True), previous, (pose_features, noise))
            return tf.ensure_shape(film[-1], previous.shape), films.write(now // GENERATION_CHUNK, film)

        last, films = in_chunks(add, length, GENERATION_CHUNK, previous, films)
        return films.concat(), last

    def reconstruct(self, frames: Images, poses: Images,
                    seed: int | tf.Tensor = 0) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Free running with z from the posterior. It has seen each target frame, so the result is no prediction.

        Args:
            frames, poses: (B, T, H, W, 3), uint8, or floats in [0, 1]. Only the first frame is fed to the
                transition; z is inferred from the others.
            seed: as for `generate`.

        Returns:
            ``(predictions, kl, mean)``: predictions (B, T-1, H, W, 3) in [0, 1] of frames 1 to T-1; KL divergence
            (B, T-1) in nats; and the posterior's mean (B, T-1, h, w, c).
        """
        frames, poses, context = self.unpack((frames, poses))
        predictions, kl, mean = self._reconstruct(frames, poses, context, as_seed(seed))
        return _swap_time(tf.clip_by_value(predictions, 0.0, 1.0)), tf.transpose(kl), _swap_time(mean)

    def _reconstruct(self, frames, poses, context_frame, seed):
        network = self.sampler
        pose_features = network.encode_poses(poses[1:])
        posterior = self.posterior(network, frames[1:], pose_features)
        length, _, *latent = dimensions(posterior.loc)
        noise = losses.standard_normal([length, 1, *latent]).sample(seed=seed)
        context = network.encode_context(context_frame)
        inputs = network.with_context(pose_features, context), posterior.loc + posterior.scale * noise
        predictions = rollout(self.cell(network, context), frames[0], inputs)
        previous = tf.concat([frames[:1], predictions[:-1]], 0)
        prior = self.prior(network, previous, pose_features, tf.shape(posterior.loc))
        return predictions, losses.kl_divergence(posterior, prior), posterior.loc

    def export(self, filepath: str | Path, frame_size: tuple[int, int] | None = None) -> None:
        """Write a SavedModel that needs neither Keras nor this package; see `export.write`."""
        write(self, filepath, frame_size)


def as_seed(seed):
    """Convert a seed to (2,) int32, as TensorFlow's stateless operations take it; an integer k becomes (0, k)."""
    seed = tf.convert_to_tensor(seed, tf.int32)
    return seed if seed.shape.rank == 1 else tf.stack([0, seed])


def _swap_time(frames):
    """Swap the first two axes: (B, T, ...) <-> (T, B, ...)."""
    return tf.transpose(frames, [1, 0, *range(2, len(frames.shape))])


def _nothing(_):
    """A common result for the branches of a `tf.cond`, which must return the same structure."""
    return tf.constant(0)
