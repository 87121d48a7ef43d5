"""The lab's optimiser."""

import keras
import tensorflow as tf


class Adam(keras.optimizers.Adam):
    """Adam as PyTorch computes it: epsilon joins the root of the second moment after its bias correction, not before.

    Keras's own takes, in its first steps, an epsilon up to 30 times as large: enough for a run to leave PyTorch's path.
    """

    def update_step(self, gradient, variable, learning_rate):
        epsilon = self.epsilon
        step = tf.cast(self.iterations + 1, variable.dtype)
        self.epsilon = epsilon * tf.sqrt(1 - self.beta_2**step)  # which Keras divides by that root
        try:
            super().update_step(gradient, variable, learning_rate)
        finally:
            self.epsilon = epsilon
