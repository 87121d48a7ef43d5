"""The lab's network, layer by layer: five convolutional parts at full resolution, 1,585,620 trainable parameters.

The initial weights of convolutions are PyTorch's: kernel and bias uniform within +-1/sqrt(fan_in). Their values depend
on the order in which layers are created.
"""

import keras
import tensorflow as tf

from cvae_tf.model import defaults
from cvae_tf.model.network import Network, Part, over_time

register = keras.saving.register_keras_serializable("cvae_tf.lab")


def _uniform(fan_in):
    return keras.initializers.RandomUniform(-(fan_in**-0.5), fan_in**-0.5)


def _conv(inputs, outputs, kernel, dtype, padding="same"):
    fan_in = inputs * kernel**2
    return keras.layers.Conv2D(outputs, kernel, padding=padding, kernel_initializer=_uniform(fan_in),
                               bias_initializer=_uniform(fan_in), dtype=dtype)


def _depthwise_conv(kernel, dtype):
    return keras.layers.DepthwiseConv2D(kernel, padding="same", depthwise_initializer=_uniform(kernel**2),
                                        bias_initializer=_uniform(kernel**2), dtype=dtype)


@register
class ResidualBlock(Part):
    """Two 3x3 convolutions, each with LeakyReLU 0.01, plus a skip (1x1 where channels change); no activation after."""

    def __init__(self, inputs, outputs, **kwargs):
        super().__init__(**kwargs)
        policy = self.dtype_policy.name
        self.conv1 = _conv(inputs, outputs, 3, policy)
        self.conv2 = _conv(outputs, outputs, 3, policy)
        self.skip = _conv(inputs, outputs, 1, policy) if inputs != outputs else None

    def call(self, x):
        h = tf.nn.leaky_relu(self.conv1(x), 0.01)
        h = tf.nn.leaky_relu(self.conv2(h), 0.01)
        return h + (self.skip(x) if self.skip else x)


@register
class DepthConv(Part):
    """Convolutions 1x1, LeakyReLU 0.01, depthwise 3x3, 1x1, plus a skip (1x1 where the channels change)."""

    def __init__(self, inputs, outputs, **kwargs):
        super().__init__(**kwargs)
        policy = self.dtype_policy.name
        self.conv1 = _conv(inputs, inputs, 1, policy)
        self.depth_conv = _depthwise_conv(3, policy)
        self.conv2 = _conv(inputs, outputs, 1, policy)
        self.adaptor = _conv(inputs, outputs, 1, policy) if inputs != outputs else None

    def call(self, x):
        h = tf.nn.leaky_relu(self.conv1(x), 0.01)
        return self.conv2(self.depth_conv(h)) + (self.adaptor(x) if self.adaptor else x)


@register
class ConvFFN(Part):
    """1x1 to four times the channels, one half times LeakyReLU 0.1 of the other, 1x1 back, plus the input."""

    def __init__(self, channels, **kwargs):
        super().__init__(**kwargs)
        self.conv = _conv(channels, 4 * channels, 1, self.dtype_policy.name)
        self.conv_out = _conv(2 * channels, channels, 1, self.dtype_policy.name)

    def call(self, x):
        value, gate = tf.split(self.conv(x), 2, axis=-1)
        return x + self.conv_out(value * tf.nn.leaky_relu(gate, 0.1))


class _Chain(Part):
    """Base of layers that apply their ``blocks`` one after the other."""

    def call(self, x):
        for block in self.blocks:
            x = block(x)
        return x

    def _residual(self, inputs, outputs):
        return ResidualBlock(inputs, outputs, dtype=self.dtype_policy.name)

    def _depth_conv_block(self, inputs, outputs):
        policy = self.dtype_policy.name
        return DepthConv(inputs, outputs, dtype=policy), ConvFFN(outputs, dtype=policy)


@register
class FrameEncoder(_Chain):
    """The lab's RGB_Encoder: (B, H, W, 3) -> (B, H, W, F)."""

    def __init__(self, outputs, **kwargs):
        super().__init__(**kwargs)
        eighth, quarter, half = outputs // 8, outputs // 4, outputs // 2
        self.blocks = [
            self._residual(3, eighth), *self._depth_conv_block(eighth, eighth),
            self._residual(eighth, quarter), *self._depth_conv_block(quarter, quarter),
            self._residual(quarter, half), *self._depth_conv_block(half, half),
            _conv(half, outputs, 3, self.dtype_policy.name),
        ]


@register
class BatchNorm(Part):
    """PyTorch's BatchNorm2d for a sequence: each time step is its own batch, since the lab encodes pose after pose.

    It differs from Keras's layer in two ways. The running variance averages unbiased variances. T time steps move the
    running statistics T times.
    """

    MOMENTUM, EPSILON = 0.1, 1e-5  # PyTorch's momentum is the weight of the new value

    def __init__(self, channels, **kwargs):
        super().__init__(**kwargs)
        self.gamma = self.add_weight(shape=(channels,), initializer="ones", name="gamma")
        self.beta = self.add_weight(shape=(channels,), initializer="zeros", name="beta")
        self.running_mean = self.add_weight(shape=(channels,), initializer="zeros", trainable=False, name="mean")
        self.running_variance = self.add_weight(shape=(channels,), initializer="ones", trainable=False, name="variance")

    def call(self, x, by_batch=False, update=False):
        """Normalise x (T, B, H, W, C), with the statistics of each time step or the running statistics."""
        mean, variance = self.running_mean, self.running_variance
        if by_batch:
            mean, variance = tf.nn.moments(x, [1, 2, 3], keepdims=True)  # (T, 1, 1, 1, C)
        if update:
            count = tf.cast(tf.reduce_prod(tf.shape(x)[1:4]), x.dtype)
            self._move(self.running_mean, mean)
            self._move(self.running_variance, variance * count / (count - 1))
        return tf.nn.batch_normalization(x, mean, variance, self.beta, self.gamma, self.EPSILON)

    def _move(self, running, values):
        """``running = 0.9 running + 0.1 value`` for the value of each time step in turn, in closed form."""
        values = tf.reshape(values, [-1, values.shape[-1]])
        keep = 1 - self.MOMENTUM
        later = tf.range(tf.shape(values)[0] - 1, -1, -1)  # number of time steps after each
        weights = self.MOMENTUM * keep ** tf.cast(later, values.dtype)
        remaining = keep ** tf.cast(tf.shape(values)[0], values.dtype)
        running.assign(remaining * running + tf.linalg.matvec(values, weights, transpose_a=True))


@register
class PoseEncoder(Part):
    """The lab's Label_Encoder: (T, B, H, W, 3) -> (T, B, H, W, L). Its ``LeakyReLU(True)`` has slope 1: the identity.

    Args:
        outputs: number of channels L.
        batch_norm: statistics that normalise poses outside training. ``"inference"``: running statistics. ``"train"``:
            batch statistics, as in the lab's template, which never leaves training mode.
    """

    def __init__(self, outputs, batch_norm="inference", **kwargs):
        super().__init__(**kwargs)
        self.batch_norm = batch_norm
        self.conv = _conv(3, outputs // 2, 7, self.dtype_policy.name, padding="valid")
        self.norm = BatchNorm(outputs // 2, dtype="float32")
        self.block = ResidualBlock(outputs // 2, outputs, dtype=self.dtype_policy.name)

    def call(self, poses, training=False):
        padded = tf.pad(poses, [[0, 0], [0, 0], [3, 3], [3, 3], [0, 0]], mode="REFLECT")
        h = self.norm(over_time(self.conv, padded), by_batch=training or self.batch_norm == "train", update=training)
        return over_time(self.block, h)


@register
class GaussianPredictor(_Chain):
    """The lab's Gaussian_Predictor: features of a frame and its pose -> mean and log variance, each (B, H, W, N)."""

    def __init__(self, inputs, latents, **kwargs):
        super().__init__(**kwargs)
        quarter, half = latents // 4, latents // 2
        self.blocks = [
            self._residual(inputs, quarter), *self._depth_conv_block(quarter, quarter),
            self._residual(quarter, half), *self._depth_conv_block(half, half),
            self._residual(half, latents),  # then the lab's LeakyReLU(True), the identity
            _conv(latents, 2 * latents, 1, self.dtype_policy.name),
        ]

    def call(self, frame_features, pose_features):
        return tuple(tf.split(super().call(tf.concat([frame_features, pose_features], -1)), 2, axis=-1))


@register
class DecoderFusion(_Chain):
    """The lab's Decoder_Fusion: features of frame and pose, and z -> (B, H, W, D)."""

    def __init__(self, inputs, outputs, **kwargs):
        super().__init__(**kwargs)
        quarter, half = inputs // 4, inputs // 2
        self.blocks = [
            *self._depth_conv_block(inputs, inputs), self._residual(inputs, quarter),
            *self._depth_conv_block(quarter, half), self._residual(half, half),
            *self._depth_conv_block(half, outputs // 2), _conv(outputs // 2, outputs, 1, self.dtype_policy.name),
        ]

    def call(self, frame_features, pose_features, z):
        return super().call(tf.concat([frame_features, pose_features, z], -1))


@register
class Generator(_Chain):
    """The lab's Generator: (B, H, W, D) -> (B, H, W, 3), unbounded: no sigmoid, no clamp."""

    def __init__(self, inputs, **kwargs):
        super().__init__(**kwargs)
        half, quarter, eighth = inputs // 2, inputs // 4, inputs // 8
        self.blocks = [
            *self._depth_conv_block(inputs, inputs),
            self._residual(inputs, half), *self._depth_conv_block(half, half),
            self._residual(half, quarter), *self._depth_conv_block(quarter, quarter),
            self._residual(quarter, eighth), *self._depth_conv_block(eighth, eighth),
            _conv(eighth, 3, 1, "float32"),  # pixels, in mixed precision too
        ]


@register
class LabNetwork(Network):
    """The lab's network. It has no context frame; its latent map is as large as the frame.

    Args:
        F_dim, L_dim, N_dim, D_out_dim: channels of frame features, pose features, latent map and fused features.
        batch_norm: ``"inference"`` or ``"train"``, the statistics that normalise poses outside training; see
            `PoseEncoder`.
        **kwargs: those of ``keras.layers.Layer``; ``dtype="mixed_bfloat16"`` computes most of the network in 16 bits.
    """

    def __init__(self, F_dim: int = defaults.F_DIM, L_dim: int = defaults.L_DIM, N_dim: int = defaults.N_DIM,
                 D_out_dim: int = defaults.D_OUT_DIM, batch_norm: str = "inference", **kwargs):
        super().__init__(**kwargs)
        self.F_dim, self.L_dim, self.N_dim, self.D_out_dim = F_dim, L_dim, N_dim, D_out_dim
        policy = self.dtype_policy.name
        self.frame_encoder = FrameEncoder(F_dim, dtype=policy)
        self.pose_encoder = PoseEncoder(L_dim, batch_norm, dtype=policy)
        self.gaussian_predictor = GaussianPredictor(F_dim + L_dim, N_dim, dtype=policy)
        self.decoder_fusion = DecoderFusion(F_dim + L_dim + N_dim, D_out_dim, dtype=policy)
        self.generator = Generator(D_out_dim, dtype=policy)
        self.make_weights()

    def latent_shape(self, height, width):
        return height, width, self.N_dim

    def chunk_length(self, height, width):
        # On a CPU one frame keeps all cores busy, and larger operations only take more memory.
        return super().chunk_length(height, width) if tf.config.list_physical_devices("GPU") else 1

    def encode_context(self, frame):
        return ()

    def encode_poses(self, poses, training=False):
        return self.pose_encoder(poses, training=training)

    def decode(self, frame_features, pose_features, z, context):
        return self.generator(self.decoder_fusion(frame_features, pose_features, z))
