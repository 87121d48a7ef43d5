"""The interface of the networks: the report's five parts, and the methods through which a model uses them.

A network is the conditional VAE of one time step. Time is the first axis of every sequence here: (T, B, ...).
"""

import keras
import tensorflow as tf

LARGEST_CHUNK = 2**17  # pixels of the frames of a clip that train as one batch


def dimensions(tensor):
    """The sizes of a tensor's axes: a list of numbers, or of scalar tensors where a size is known at run time only."""
    sizes = tf.shape(tensor)
    return [sizes[axis] if size is None else size for axis, size in enumerate(tensor.shape)]


def over_time(function, *sequences):
    """Apply ``function`` to nested structures ("nests") of (T, B, ...) tensors, with time and batch as one axis."""
    time, batch = dimensions(tf.nest.flatten(sequences[0])[0])[:2]
    outputs = function(*tf.nest.map_structure(lambda x: tf.reshape(x, [-1, *dimensions(x)[2:]]), sequences))
    return tf.nest.map_structure(lambda x: tf.reshape(x, [time, batch, *dimensions(x)[1:]]), outputs)


def weights_by_path(layer):
    """The variables of a layer by their path, such as ``frame_encoder/downs/0/kernel``.

    A path consists of attribute names. Unlike Keras's own names, it does not depend on the order of layer creation.

    Returns:
        A dict from path to variable.
    """
    children = {}
    for name, value in vars(layer).items():
        parts = {name: value} if isinstance(value, keras.Layer) else {}
        if isinstance(value, (list, tuple)):
            parts = {f"{name}/{i}": part for i, part in enumerate(value) if isinstance(part, keras.Layer)}
        children |= parts if not name.startswith("_") else {}
    found = {f"{path}/{name}": variable for path, child in children.items()
             for name, variable in weights_by_path(child).items()}
    below = {id(variable) for variable in found.values()}
    return {variable.name: variable for variable in layer.weights if id(variable) not in below} | found


class Part(keras.layers.Layer):
    """Base of the composite layers of a network. Their inner layers create their weights at the first call."""

    def build(self, *shapes):
        """Do nothing. Otherwise Keras would trace each composite layer once more for each level of nesting."""


class Network(keras.layers.Layer):
    """Base of `UNet` and the lab's network. A network has all its weights once constructed.

    A subclass creates the five parts of the report under these names (the lab's names in brackets), then calls
    `make_weights`:

    - ``frame_encoder`` (frame_transformation): a frame to features
    - ``pose_encoder`` (label_transformation): a drawn pose to features
    - ``gaussian_predictor`` (Gaussian_Predictor): features of frame t and of pose t to the mean and the log variance
      of the posterior q(z_t | x_t, p_t)
    - ``decoder_fusion`` (Decoder_Fusion): features of frame t-1 and pose t, and z_t, to one feature map, or to one
      feature map at each of several scales
    - ``generator`` (Generator): the fused features to frame t

    A subclass may also create a ``prior_predictor``. It is like the ``gaussian_predictor``, but its frame is t-1.
    It gives a learned prior p(z_t | x_{t-1}, p_t) instead of N(0, I) (SVG-LP: Denton and Fergus, 2018,
    arXiv:1802.07687, without its LSTM).

    Frames and poses are (..., H, W, 3) float32 in [0, 1].
    """

    prior_predictor = None
    knows_limbs = False
    multiple = 1  # frame height and width must be multiples of this number of pixels

    def __init__(self, **kwargs):
        super().__init__(autocast=False, **kwargs)  # frames stay in float32 in mixed precision

    def latent_shape(self, height, width):
        """Shape (h, w, c) of z for frames of ``height`` x ``width`` pixels."""
        raise NotImplementedError("latent_shape(height, width) -> (h, w, c)")

    def encode_context(self, frame):
        """The terms of `transition` from the context frame (B, H, W, 3) alone: a nest, computed once per rollout."""
        raise NotImplementedError("encode_context(frame) -> nest")

    def decode(self, frame_features, pose_features, z, context):
        """Apply decoder fusion and generator: the next frame (B, H, W, 3)."""
        raise NotImplementedError("decode(frame_features, pose_features, z, context) -> frame")

    def encode_poses(self, poses, training=False):
        """Encode poses (T, B, H, W, 3) into a nest of features (T, B, ...), all time steps in one batch."""
        return over_time(lambda pose: self.pose_encoder(pose, training=training), poses)

    def with_context(self, pose_features, context):
        """Pose features (T, B, ...) joined with the result of `encode_context`, for all steps at once."""
        return pose_features

    def predict_gaussian(self, predictor, frames, pose_features):
        """Predict the mean and the log variance of z, each (T, B, h, w, c).

        Args:
            predictor: the ``gaussian_predictor`` or the ``prior_predictor``.
            frames: (T, B, H, W, 3): the frame of each time step for the posterior, the previous frame for the prior.
            pose_features: result of `encode_poses` for the same time steps.
        """
        return over_time(lambda frame, pose: predictor(self.frame_encoder(frame), pose), frames, pose_features)

    def transition(self, previous, pose_features, z, context):
        """The transition cell: previous frame (B, H, W, 3), pose, z -> next frame (B, H, W, 3).

        ``pose_features`` is one time step of the result of `with_context`, and ``context`` that of `encode_context`.
        """
        return self.decode(self.frame_encoder(previous), pose_features, z, context)

    def call(self, previous_frame, pose, z, context_frame):
        """Predict the next frame (B, H, W, 3) from three images, each (B, H, W, 3), and z (B, h, w, c)."""
        context = self.encode_context(context_frame)
        pose_features = self.with_context(self.encode_poses(pose[None]), context)
        return self.transition(previous_frame, tf.nest.map_structure(lambda x: x[0], pose_features), z, context)

    def chunk_length(self, height, width):
        """The fastest number of time steps to train on as one batch, for frames of a size; fewer if they are large.

        Memory grows with this number, and large frames keep the machine busy by themselves. 128x256 pixels: 4 steps.
        """
        known = isinstance(height, int) and isinstance(width, int)
        return max(1, min(16, LARGEST_CHUNK // (height * width))) if known else 16

    def make_weights(self):
        """Create all weights. They do not depend on the size of the frames."""
        frames = tf.zeros((1, 1, 16, 16, 3))
        pose_features = self.encode_poses(frames)
        for predictor in (self.gaussian_predictor, self.prior_predictor):
            if predictor is not None:
                z, _ = self.predict_gaussian(predictor, frames, pose_features)
        self.call(frames[0], frames[0], z[0], frames[0])
        self.built = True

    def named_weights(self):
        """`weights_by_path` of the network."""
        return weights_by_path(self)

    def build(self, *shapes):
        """Do nothing: `make_weights` has created all weights."""

    def check_size(self, height, width):
        """Check that the network can take frames of this size in pixels; None: unknown.

        Raises:
            ValueError: a size is not a multiple of ``multiple``.
        """
        if any(size is not None and size % self.multiple for size in (height, width)):
            raise ValueError(f"frames have an invalid size for {type(self).__name__}; expected a height and width that "
                             f"{self.multiple} divides, received {height}x{width} pixels")
