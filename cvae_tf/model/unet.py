"""The efficient network: a U-Net with features at 1/2, 1/4, 1/8, ... of the frame size and a latent vector.

The next frame is ``(1 - m) * context_frame + m * rgb`` with a predicted mask m. The static parts of a frame are copied
from the context frame at every step, so the background cannot drift, however long the rollout.
"""

import math
from collections.abc import Sequence

import keras
import tensorflow as tf

from cvae_tf.model import defaults
from cvae_tf.model.limb_planes import LimbPlanes
from cvae_tf.model.network import Network, Part, over_time

register = keras.saving.register_keras_serializable("cvae_tf")


def _conv(channels, kernel=3, share=1.0, **kwargs):
    """A convolution with the initial weights of He et al., 2015; ``share``: its share in a sum of convolutions."""
    initializer = keras.initializers.VarianceScaling(2 * share, "fan_in", "truncated_normal")
    return keras.layers.Conv2D(channels, kernel, padding="same", kernel_initializer=initializer, **kwargs)


def _zero_conv(channels, kernel, **kwargs):
    """A convolution whose weights are 0 at first."""
    return keras.layers.Conv2D(channels, kernel, padding="same", kernel_initializer="zeros", **kwargs)


def _cropped(image, like):
    """Cut off the last row or column of ``image`` where ``like`` lacks it: half of an odd size was rounded up."""
    return image[:, :tf.shape(like)[1], :tf.shape(like)[2]]


def _centred(image):
    """Subtract the mean of each image (B, H, W, 3) and scale it to about unit standard deviation.

    A drawn pose is mostly background. With this constant, the thin limbs are drowned out, and the network may go on
    copying the context frame for ever. Without it, the same training learns the person within a hundred steps.
    """
    return 4 * (image - tf.reduce_mean(image, axis=[1, 2], keepdims=True))


@register
class ResidualBlock(Part):
    """Two 3x3 convolutions with LeakyReLU, plus the input."""

    def __init__(self, channels, **kwargs):
        super().__init__(**kwargs)
        self.conv1 = _conv(channels, dtype=self.dtype_policy.name)
        self.conv2 = _conv(channels, dtype=self.dtype_policy.name)

    def call(self, x):
        return x + tf.nn.leaky_relu(self.conv2(tf.nn.leaky_relu(self.conv1(x))))


@register
class Encoder(Part):
    """An image (B, H, W, 3) -> its features at 1/2, 1/4, 1/8, ... of its size, of the given numbers of channels.

    ``read`` prepares the image: (B, H, W, 3) -> (B, H, W, C). It is a `LimbPlanes` of ``limb_hues`` and ``scale``, or
    `_centred` without hues.
    """

    def __init__(self, channels, limb_hues=None, scale=1, **kwargs):
        super().__init__(autocast=False, **kwargs)  # read in float32, even in mixed precision
        policy, self.read = self.dtype_policy.name, LimbPlanes(limb_hues, scale) if limb_hues else _centred
        self.sharp = self.read.limbs if limb_hues else 3  # channels of the read image, without blurred ones
        self.downs = [_conv(count, strides=2, dtype=policy) for count in channels]
        self.block = ResidualBlock(channels[-1], dtype=policy)

    def call(self, image, is_read=False):
        """With ``is_read``, ``read`` has prepared the image already."""
        levels = [image if is_read else self.read(image)]
        for down in self.downs:
            levels.append(tf.nn.leaky_relu(down(levels[-1])))
        return *levels[1:-1], self.block(levels[-1])


@register
class GaussianPredictor(Part):
    """Features of a frame and its pose -> mean and log variance of the latent, each (B, 1, 1, N).

    The latent is one vector for the whole frame. The cells of a latent map would be sampled independently, and paint
    one shirt in three colours. Features are max-pooled over the frame, not averaged, since a detail that the pose does
    not determine may fill few pixels. They are pooled at each scale: before any training, the features at 1/2 show a
    colour clearly, and the features at 1/8 have largely lost it.

    By default the Gaussian starts at N(0, I), so that the KL divergence starts at 0. With ``narrow``, it starts with
    means that differ between frames by about 1, and a standard deviation of 0.05. A decoder whose z is noise at first
    learns to ignore z, long before it could learn the details that the pose does not determine.
    """

    def __init__(self, width, latents, narrow=False, **kwargs):
        super().__init__(**kwargs)
        policy = self.dtype_policy.name
        self.hidden = _conv(width, dtype=policy)
        kernel = keras.initializers.VarianceScaling(2.4) if narrow else "zeros"  # 2.4: the features are small
        bias = keras.initializers.Constant(-6.0 if narrow else 0.0)
        self.mean = keras.layers.Conv2D(latents, 1, kernel_initializer=kernel, dtype=policy)
        self.logvar = keras.layers.Conv2D(latents, 1, kernel_initializer="zeros", bias_initializer=bias, dtype=policy)

    def call(self, frame_features, pose_features):
        h = tf.nn.leaky_relu(self.hidden(tf.concat([frame_features[-1], pose_features[-1]], -1)))
        h = tf.concat([tf.reduce_max(x, axis=[1, 2], keepdims=True) for x in (*frame_features[:-1], h)], -1)
        # Beyond these bounds, exp() overflows in the first epochs.
        return self.mean(h), tf.clip_by_value(self.logvar(h), -10.0, 10.0)


@register
class PixelShuffleUp(Part):
    """Upsample by 2: a 1x1 convolution to four times the channels, rearranged as 2x2 pixels."""

    def __init__(self, channels, **kwargs):
        super().__init__(**kwargs)
        self.conv = _conv(4 * channels, 1, dtype=self.dtype_policy.name)

    def call(self, x):
        return tf.nn.depth_to_space(self.conv(x), 2)


@register
class ConcatConv(Part):
    """A 3x3 convolution of three concatenated inputs: features of the current step, the pose, and the context frame.

    It is computed as the sum of three convolutions, because two of them need no generated frame: ``pose`` runs once for
    all time steps and ``context`` once for a film. Only ``call`` is left for the time loop. Its second argument is the
    sum of the pose and context terms. TensorFlow would add three separate terms in an order that depends on timing, and
    a resumed run would differ in the last bits.
    """

    def __init__(self, channels, shares=(0.5, 0.25, 0.25), **kwargs):
        super().__init__(**kwargs)
        policy = self.dtype_policy.name
        self.moving = _conv(channels, share=shares[0], dtype=policy)
        self.pose = _conv(channels, share=shares[1], use_bias=False, dtype=policy)
        self.context = _conv(channels, share=shares[2], use_bias=False, dtype=policy)

    def call(self, moving, conditioning):
        return tf.nn.leaky_relu(self.moving(moving) + conditioning)


@register
class DecoderFusion(Part):
    """Features of the previous frame, z, and the conditioning on pose and context, fused from coarse to 1/2 size.

    z also scales the channels at each scale (FiLM: Perez et al., 2018, arXiv:1709.07871). If z were only added, the
    network would have to learn through nonlinearities where a colour belongs. As a factor, z acts where a channel,
    such as one that detects the shirt, is active.
    """

    def __init__(self, channels, **kwargs):
        super().__init__(**kwargs)
        policy, channels = self.dtype_policy.name, channels[::-1]
        self.merges = [ConcatConv(count, dtype=policy) for count in channels]
        self.blocks = [ResidualBlock(count, dtype=policy) for count in channels]
        self.ups = [PixelShuffleUp(count, dtype=policy) for count in channels[1:]]
        self.gains = [_zero_conv(count, 1, use_bias=False, dtype=policy) for count in channels]

    def call(self, frame_features, conditioning, z):
        x, levels = z + tf.zeros_like(frame_features[-1][..., :1]), []  # the same z at all positions
        for level, (merge, block) in enumerate(zip(self.merges, self.blocks, strict=True)):
            if level:
                x = _cropped(self.ups[level - 1](x), frame_features[-1 - level])
            moving = tf.concat([x, frame_features[-1 - level]], -1)
            x = block(merge(moving, conditioning[level]) * (1 + self.gains[level](z)))
            levels.append(x)
        return levels  # from the coarsest to (B, H/2, W/2, width)


@register
class MultiScaleHead(Part):
    """The output (B, H, W, channels), built up from the feature maps at ..., 1/8, 1/4 and 1/2 in turn.

    Without this head all of the output passes through the few channels at full size, which learn edges first. With it,
    the coarse part of the output is learned at low resolution. A 1x1 convolution joins each level to the output so far,
    as in the skip generator of Karras et al., 2020, arXiv:1912.04958.
    """

    def __init__(self, channels, levels, **kwargs):
        super().__init__(**kwargs)
        self.heads = [_zero_conv(4 * channels, 1, dtype=self.dtype_policy.name) for _ in range(levels)]  # 2x2 pixels

    def call(self, levels):
        output = levels[0][..., :0]
        for head, features in zip(self.heads, levels, strict=True):
            output = tf.concat([features, _cropped(output, features)], -1)
            output = tf.nn.depth_to_space(head(output), 2)
        return output


@register
class Generator(Part):
    """Fused features from coarse to 1/2, pose and context frame -> the composed next frame (B, H, W, 3).

    The layers that give colours and mask start at 0, so that the first frames are half context frame, half grey.
    Random colours would be so much worse than the context frame that training closes the mask (m = 0). In two runs of
    twelve, the mask never opened again (docs/experiments.md).

    Even in mixed precision, the frame is composed in float32: 16 bits are coarser than the levels of a pixel.
    """

    def __init__(self, width, depth, **kwargs):
        super().__init__(autocast=False, **kwargs)
        policy, inputs = self.dtype_policy.name, width // 2 + 6
        self.up = PixelShuffleUp(width // 2, dtype=policy)
        self.merge = ConcatConv(width // 2, shares=(1 - 6 / inputs, 3 / inputs, 3 / inputs), dtype=policy)
        self.out = _zero_conv(4, 3, dtype="float32")
        self.coarse = MultiScaleHead(4, levels=depth, dtype="float32")

    def call(self, fused, conditioning, context_frame):
        details = self.out(self.merge(self.up(fused[-1]), conditioning))
        rgb, mask = tf.split(self.coarse(fused) + details, [3, 1], axis=-1)
        # Copying the context frame everywhere is an easy first answer. A softsign has more gradient in its tails
        # than a sigmoid, so a closed mask opens again. After random initial colours, even a softsign was not enough.
        mask = 0.5 + 0.5 * tf.nn.softsign(mask)
        return (1 - mask) * context_frame + mask * tf.sigmoid(rgb)


def depth_for(height, width):
    """The depth of a `UNet` whose coarsest feature map has about four rows (or columns, if these are fewer)."""
    return max(2, round(math.log2(min(height, width) / 4)))


@register
class UNet(Network):
    """The multi-scale network. Frame height and width must be multiples of 8.

    Args:
        width: channels at half resolution.
        N_dim: size of the latent vector.
        prior: ``"standard"``, N(0, I), or ``"learned"``.
        narrow_posterior: start with a narrow posterior; see `GaussianPredictor`.
        depth: number of times that the resolution is halved; see `depth_for`.
        limb_hues: hues of the limbs in drawn poses, as for `LimbPlanes`, which reads the drawings; None: drawings are
            read as RGB images. `Footage.limb_hues` has them.
        **kwargs: those of ``keras.layers.Layer``; ``dtype="mixed_bfloat16"`` computes most of the network in 16 bits.
    """

    multiple = 8

    def __init__(self, width: int = defaults.WIDTH, N_dim: int = defaults.N_DIM, prior: str = "standard",
                 narrow_posterior: bool = False, depth: int = 3, limb_hues: Sequence | None = None, **kwargs):
        super().__init__(**kwargs)
        self.width, self.N_dim, policy = width, N_dim, self.dtype_policy.name
        channels = [width * min(level, 3) for level in range(1, depth + 1)]
        self.frame_encoder = Encoder(channels, dtype=policy)
        self.pose_encoder = Encoder(channels, limb_hues, 2 ** max(0, depth - 3), dtype=policy)
        self.gaussian_predictor = GaussianPredictor(width, N_dim, narrow_posterior, dtype=policy)
        self.decoder_fusion = DecoderFusion(channels, dtype=policy)
        self.generator = Generator(width, depth, dtype=policy)
        if prior == "learned":
            self.prior_predictor = GaussianPredictor(width, N_dim, dtype=policy)
        self.make_weights()

    @property
    def knows_limbs(self):
        """Whether drawings are read as `LimbPlanes`."""
        return isinstance(self.pose_encoder.read, LimbPlanes)

    def latent_shape(self, height, width):
        return 1, 1, self.N_dim

    def encode_poses(self, poses, training=False):
        """As in `Network`: the coarsest features for the posterior, and the pose terms of all `ConcatConv` layers."""
        return over_time(self._encode_pose, poses)

    def _encode_pose(self, drawing):
        image = self.pose_encoder.read(drawing)
        features = self.pose_encoder(image, is_read=True)
        sharp = image[..., :self.pose_encoder.sharp]  # at full size, blurred planes cost more time than they are worth
        return features[-1], self._conditioning("pose", features, sharp)

    def encode_context(self, frame):
        return frame, self._conditioning("context", self.frame_encoder(frame), frame)

    def _conditioning(self, source, features, image):
        """The terms from a pose or a context frame for all `ConcatConv` layers, from the coarsest to full size."""
        merges = (*self.decoder_fusion.merges, self.generator.merge)
        inputs = (*reversed(features), image)
        return [getattr(merge, source)(x) for merge, x in zip(merges, inputs, strict=True)]

    def with_context(self, pose_features, context):
        coarsest, pose_terms = pose_features
        _, context_terms = context
        return coarsest, [pose + context[None] for pose, context in zip(pose_terms, context_terms, strict=True)]

    def predict_gaussian(self, predictor, frames, pose_features):
        coarsest, _ = pose_features
        return super().predict_gaussian(predictor, frames, (coarsest,))

    def decode(self, frame_features, pose_features, z, context):
        _, (*conditioning, at_full_size) = pose_features
        context_frame, _ = context
        return self.generator(self.decoder_fusion(frame_features, conditioning, z), at_full_size, context_frame)
