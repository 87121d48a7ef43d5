"""The interface of the two networks: the report's five parts, and the four ways in which a model uses them.

A network is the conditional VAE of one instant. Time is the first axis of every sequence here: (T, B, ...).
"""

import keras
import tensorflow as tf


def over_time(function, *sequences):
    """Apply ``function`` to (T, B, ...) tensors as to one batch of T * B."""
    time, batch = tf.shape(sequences[0])[0], sequences[0].shape[1] or tf.shape(sequences[0])[1]
    outputs = function(*(tf.nest.map_structure(lambda x: tf.reshape(x, [-1, *x.shape[2:]]), s) for s in sequences))
    return tf.nest.map_structure(lambda x: tf.reshape(x, [time, batch, *x.shape[1:]]), outputs)


class Network(keras.layers.Layer):
    """Base of `LabNetwork` and `UNet`.

    A subclass makes the five parts of the report, under these names (in brackets the lab's):

    - ``frame_encoder`` (frame_transformation): a frame to features
    - ``pose_encoder`` (label_transformation): a drawn pose to features
    - ``gaussian_predictor`` (Gaussian_Predictor): features of frame t and of pose t to the mean and the log variance
      of the posterior q(z_t | x_t, p_t)
    - ``decoder_fusion`` (Decoder_Fusion): features of frame t-1 and pose t, and z_t, to one feature map, or to one
      at each of several sizes
    - ``generator`` (Generator): that to frame t

    and may make a ``prior_predictor``, like the ``gaussian_predictor``, but of frame t-1: a learned prior
    p(z_t | x_{t-1}, p_t) in the place of N(0, I) (SVG-LP: Denton and Fergus, 2018, arXiv:1802.07687, without its LSTM).

    Frames and poses are (..., H, W, 3) float32 in [0, 1].
    """

    prior_predictor = None

    def latent_shape(self, height, width):
        """Shape (h, w, c) of z for frames of that size in pixels."""
        raise NotImplementedError("latent_shape(height, width) -> (h, w, c)")

    def encode_context(self, frame):
        """What `transition` needs of the context frame (B, H, W, 3); the same for every instant of a rollout."""
        raise NotImplementedError("encode_context(frame) -> nest")

    def decode(self, frame_features, pose_features, z, context):
        """Decoder fusion and generator: to the next frame (B, H, W, 3)."""
        raise NotImplementedError("decode(frame_features, pose_features, z, context) -> frame")

    def encode_poses(self, poses, training=False):
        """(T, B, H, W, 3) -> a nest of features (T, B, ...), all instants in one batch."""
        return over_time(lambda pose: self.pose_encoder(pose, training=training), poses)

    def with_context(self, pose_features, context):
        """Pose features (T, B, ...) joined with what `encode_context` made, once for all instants: for `transition`."""
        return pose_features

    def posterior(self, frames, pose_features):
        """Mean and log variance of q(z_t | x_t, p_t), each (T, B, h, w, c), for true frames (T, B, H, W, 3)."""
        return self._predict_gaussian(self.gaussian_predictor, frames, pose_features)

    def prior(self, previous, pose_features):
        """Mean and log variance of a learned p(z_t | x_{t-1}, p_t), for the frames (T, B, H, W, 3) that are fed."""
        return self._predict_gaussian(self.prior_predictor, previous, pose_features)

    def _predict_gaussian(self, predictor, frames, pose_features):
        return over_time(lambda frame, pose: predictor(self.frame_encoder(frame), pose), frames, pose_features)

    def transition(self, previous, pose_features, z, context):
        """The transition cell: previous frame (B, H, W, 3), pose, z -> next frame (B, H, W, 3).

        ``pose_features`` are those of `with_context`.
        """
        return self.decode(self.frame_encoder(previous), pose_features, z, context)

    def build(self, frame_shape):
        """Make all weights for frames of shape (H, W, 3), or (..., H, W, 3); other sizes work afterwards too."""
        frames = tf.zeros((1, 1, *frame_shape[-3:]))
        pose_features = self.encode_poses(frames)
        z, _ = self.posterior(frames, pose_features)
        if self.prior_predictor is not None:
            self.prior(frames, pose_features)
        context = self.encode_context(frames[0])
        now = tf.nest.map_structure(lambda x: x[0], (frames, self.with_context(pose_features, context), z))
        self.transition(*now, context)
        self.built = True
