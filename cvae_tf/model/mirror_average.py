"""The mean of two predictions: of the scene, and of the mirrored scene."""

import tensorflow as tf


class MirrorAverage:
    """A network for generation only: the mean of a network's frame and of its frame of the mirrored scene.

    The errors of the two are partly independent, so the mean is nearer to the truth. It takes twice the time, and
    expects a network that was trained on mirrored clips. It has the methods of `Network` that a rollout needs. All
    features hold the scenes first and then the mirrored ones: their batch is 2 B.

    Args:
        network: a `UNet` with limb hues.
    """

    def __init__(self, network):
        self.network = network
        self.gaussian_predictor, self.prior_predictor = network.gaussian_predictor, network.prior_predictor

    def latent_shape(self, height, width):
        return self.network.latent_shape(height, width)

    def encode_context(self, frame):
        return self.network.encode_context(_both(frame))

    def encode_poses(self, poses, training=False):
        mirrored = self.network.pose_encoder.read.mirrored(poses)
        return self.network.encode_poses(tf.concat([poses, mirrored], 1))

    def with_context(self, pose_features, context):
        return self.network.with_context(pose_features, context)

    def predict_gaussian(self, predictor, frames, pose_features):
        scenes = tf.nest.map_structure(lambda x: x[:, :tf.shape(frames)[1]], pose_features)
        return self.network.predict_gaussian(predictor, frames, scenes)

    def transition(self, previous, pose_features, z, context):
        both = self.network.transition(_both(previous), pose_features, tf.concat([z, z], 0), context)
        frame, mirrored = tf.split(both, 2)
        return (frame + mirrored[:, :, ::-1]) / 2


def _both(frame):
    """A frame (B, H, W, 3) and its mirror image as one batch."""
    return tf.concat([frame, frame[:, :, ::-1]], 0)
