"""The efficient network: features at 1/2, 1/4 and 1/8 of the frame, a latent vector, a U-Net that composes.

The next frame is ``(1 - m) * context_frame + m * rgb`` with a predicted mask m: what does not move is copied from the
context frame at every step, so a static background cannot drift, however long the rollout.
"""

import keras
import tensorflow as tf

from cvae_tf.model.network import Network, over_time


def _conv(channels, kernel=3, share=1.0, **kwargs):
    """A convolution that starts as He et al. have it; ``share``: of the inputs of a sum of convolutions, its own."""
    initializer = keras.initializers.VarianceScaling(2 * share, "fan_in", "truncated_normal")
    return keras.layers.Conv2D(channels, kernel, padding="same", kernel_initializer=initializer, **kwargs)


def _zero_conv(channels, kernel, **kwargs):
    """A convolution that starts at 0."""
    return keras.layers.Conv2D(channels, kernel, padding="same", kernel_initializer="zeros", **kwargs)


def _centred(image):
    """An image without its mean: (B, H, W, 3) to about unit deviation.

    A drawn pose is mostly paper. Left in, that constant drowns the thin limbs, and the training may stay at copying the
    context frame for ever; without it, the same training learns the person within a hundred steps.
    """
    return 4 * (image - tf.reduce_mean(image, axis=[1, 2], keepdims=True))


class ResidualBlock(keras.layers.Layer):
    """Two 3x3 convolutions with LeakyReLU, plus the input."""

    def __init__(self, channels, **kwargs):
        super().__init__(**kwargs)
        self.conv1 = _conv(channels)
        self.conv2 = _conv(channels)

    def call(self, x):
        return x + tf.nn.leaky_relu(self.conv2(tf.nn.leaky_relu(self.conv1(x))))


class Encoder(keras.layers.Layer):
    """An image (B, H, W, 3) -> its features at 1/2, 1/4 and 1/8 of its size: (width, 2 width, 3 width) channels."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.downs = [_conv(width * scale, strides=2) for scale in (1, 2, 3)]
        self.block = ResidualBlock(3 * width)

    def call(self, image):
        half = tf.nn.leaky_relu(self.downs[0](_centred(image)))
        quarter = tf.nn.leaky_relu(self.downs[1](half))
        eighth = self.block(tf.nn.leaky_relu(self.downs[2](quarter)))
        return half, quarter, eighth


class GaussianPredictor(keras.layers.Layer):
    """Features of a frame and its pose -> mean and log variance of the latent, each (B, 1, 1, N).

    One vector for the whole frame: the cells of a map would draw apart, and paint one shirt in three colours. The
    maximum over the frame, not the mean, since what no pose tells may be a few pixels of it; and at each size, since a
    colour is plain to see in features at 1/2 before any training, and largely lost in those at 1/8.

    It starts at N(0, I), so that the KL starts at 0, or ``narrow``: at means that differ between frames by about 1,
    known to within 0.05. A decoder that is fed noise at first learns to ignore it, long before it could learn what no
    pose tells.
    """

    def __init__(self, width, latents, narrow=False, **kwargs):
        super().__init__(**kwargs)
        self.hidden = _conv(width)
        kernel = keras.initializers.VarianceScaling(2.4) if narrow else "zeros"  # 2.4: the features are small
        bias = keras.initializers.Constant(-6.0 if narrow else 0.0)
        self.mean = keras.layers.Conv2D(latents, 1, kernel_initializer=kernel)
        self.logvar = keras.layers.Conv2D(latents, 1, kernel_initializer="zeros", bias_initializer=bias)

    def call(self, frame_features, pose_features):
        h = tf.nn.leaky_relu(self.hidden(tf.concat([frame_features[-1], pose_features[-1]], -1)))
        h = tf.concat([tf.reduce_max(x, axis=[1, 2], keepdims=True) for x in (*frame_features[:-1], h)], -1)
        # Beyond these bounds, exp() costs the first epochs their numbers.
        return self.mean(h), tf.clip_by_value(self.logvar(h), -10.0, 10.0)


class Up(keras.layers.Layer):
    """Twice the size: a 1x1 convolution to four times the channels, laid out as 2x2 pixels."""

    def __init__(self, channels, **kwargs):
        super().__init__(**kwargs)
        self.conv = _conv(4 * channels, 1)

    def call(self, x):
        return tf.nn.depth_to_space(self.conv(x), 2)


class Merge(keras.layers.Layer):
    """A 3x3 convolution of what changes from frame to frame, of the pose and of the context frame, side by side.

    It is computed as the sum of three, since two of them need no frame that has yet to be generated: `pose` runs once
    for all instants and `context` once a film, and only ``call`` is left for the time loop. It gets their sum:
    TensorFlow adds three terms in an order that depends on timing, and runs would not continue to the bit.
    """

    def __init__(self, channels, shares=(0.5, 0.25, 0.25), **kwargs):
        super().__init__(**kwargs)
        self.moving = _conv(channels, share=shares[0])
        self.pose = _conv(channels, share=shares[1], use_bias=False)
        self.context = _conv(channels, share=shares[2], use_bias=False)

    def call(self, moving, still):
        return tf.nn.leaky_relu(self.moving(moving) + still)


class DecoderFusion(keras.layers.Layer):
    """Features of the previous frame, z, and the parts that stand still, merged from 1/8 up to 1/2 of the size.

    z also scales the channels at each size (Perez et al., 2018, arXiv:1709.07871). Were it only added, a colour would
    have to learn through nonlinearities where it belongs; as a factor, it is where a channel is that knows the shirt.
    """

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.merges = [Merge(width * scale) for scale in (3, 2, 1)]
        self.blocks = [ResidualBlock(width * scale) for scale in (3, 2, 1)]
        self.ups = [Up(width * scale) for scale in (2, 1)]
        self.gains = [keras.layers.Conv2D(width * scale, 1, use_bias=False, kernel_initializer="zeros")
                      for scale in (3, 2, 1)]

    def call(self, frame_features, still, z):
        x, levels = z + tf.zeros_like(frame_features[-1][..., :1]), []  # the same z everywhere
        for level, (merge, block) in enumerate(zip(self.merges, self.blocks, strict=True)):
            if level:
                x = self.ups[level - 1](x)
            moving = tf.concat([x, frame_features[-1 - level]], -1)
            x = block(merge(moving, still[level]) * (1 + self.gains[level](z)))
            levels.append(x)
        return levels  # from (B, H/8, W/8, 3 width) to (B, H/2, W/2, width)


class Sketch(keras.layers.Layer):
    """What the feature maps at 1/8, 1/4 and 1/2 say of the result, each over the one before: (B, H, W, channels).

    Without it everything passes through the few channels at full size, and training gives those to edges first; with
    it, what is coarse is learned where few pixels have to know it. A 1x1 convolution joins each level, as in the skip
    generator of Karras et al., 2020, arXiv:1912.04958.
    """

    def __init__(self, channels, levels, **kwargs):
        super().__init__(**kwargs)
        self.heads = [_zero_conv(4 * channels, 1, dtype=self.dtype) for _ in range(levels)]  # 4: of 2x2 pixels

    def call(self, levels):
        sketch = levels[0][..., :0]
        for head, features in zip(self.heads, levels, strict=True):
            sketch = tf.nn.depth_to_space(head(tf.concat([features, sketch], -1)), 2)
        return sketch


class Generator(keras.layers.Layer):
    """Fused features from 1/8 to 1/2, pose and context frame -> the composed next frame (B, H, W, 3).

    What says colours and mask starts at 0, so that the first frames are half the context frame and half grey. Random
    colours would be so much worse than the context frame that training shuts the mask to be rid of them; in two
    runs of twelve it never opened again (docs/experiments.md).

    In mixed precision too the frame is composed in float32: 16 bits have fewer steps than a pixel.
    """

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.up = Up(width // 2)
        inputs = width // 2 + 6
        self.merge = Merge(width // 2, shares=(1 - 6 / inputs, 3 / inputs, 3 / inputs))
        self.out = _zero_conv(4, 3, dtype="float32")
        self.sketch = Sketch(4, levels=3, dtype="float32")

    def call(self, fused, still, context_frame):
        details = self.out(self.merge(self.up(fused[-1]), still))
        rgb, mask = tf.split(self.sketch(fused) + details, [3, 1], axis=-1)
        # Copying the context frame everywhere is an easy first answer. The tails of this mask keep more of a gradient
        # than a sigmoid's, and it opens again; where random colours had shut it (above), that was not enough.
        mask = 0.5 + 0.5 * tf.nn.softsign(mask)
        return (1 - mask) * context_frame + mask * tf.sigmoid(rgb)


class UNet(Network):
    """The multi-scale network. Frame height and width must be multiples of 8.

    Args:
        width: channels at half resolution.
        N_dim: size of the latent.
        prior: ``"standard"``, N(0, I), or ``"learned"``.
        narrow_posterior: the posterior starts narrow, as in `GaussianPredictor`.
    """

    def __init__(self, width=32, N_dim=12, prior="standard", narrow_posterior=False, **kwargs):
        super().__init__(**kwargs)
        self.width, self.N_dim = width, N_dim
        self.frame_encoder = Encoder(width, dtype="float32")  # centres in float32 in mixed precision too
        self.pose_encoder = Encoder(width, dtype="float32")
        self.gaussian_predictor = GaussianPredictor(width, N_dim, narrow_posterior)
        self.decoder_fusion = DecoderFusion(width)
        self.generator = Generator(width, dtype="float32")
        if prior == "learned":
            self.prior_predictor = GaussianPredictor(width, N_dim)

    def latent_shape(self, height, width):
        return 1, 1, self.N_dim

    def encode_poses(self, poses, training=False):
        """As `Network`: the features at 1/8 for the posterior, and the poses' parts of all merges."""
        return over_time(self._encode_pose, poses)

    def _encode_pose(self, pose):
        features = self.pose_encoder(pose)
        return features[-1], self._parts("pose", features, _centred(pose))

    def encode_context(self, frame):
        return frame, self._parts("context", self.frame_encoder(frame), frame)

    def _parts(self, source, features, image):
        """The parts of the merges, from 1/8 to the full size, that a pose or a context frame gives."""
        merges = (*self.decoder_fusion.merges, self.generator.merge)
        inputs = (*reversed(features), image)
        return [getattr(merge, source)(x) for merge, x in zip(merges, inputs, strict=True)]

    def with_context(self, pose_features, context):
        eighth, pose_parts = pose_features
        _, context_parts = context
        return eighth, [pose + part[None] for pose, part in zip(pose_parts, context_parts, strict=True)]

    def _predict_gaussian(self, predictor, frames, pose_features):
        eighth, _ = pose_features
        return super()._predict_gaussian(predictor, frames, (eighth,))

    def decode(self, frame_features, pose_features, z, context):
        _, (*still, still_at_full_size) = pose_features
        context_frame, _ = context
        return self.generator(self.decoder_fusion(frame_features, still, z), still_at_full_size, context_frame)
