"""The lab's optimizer."""

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable("cvae_tf.lab")
class Adam(keras.optimizers.Adam):
    """Adam as PyTorch computes it: epsilon is added to the root of the second moment after bias correction, not before.

    In the first steps, Keras's own Adam has an effective epsilon up to 30 times as large. This difference is enough
    for a run to deviate from PyTorch's.
    """

    def update_step(self, gradient, variable, learning_rate):
        epsilon = self.epsilon
        step = tf.cast(self.iterations + 1, variable.dtype)
        self.epsilon = epsilon * tf.sqrt(1 - self.beta_2**step)  # Keras divides by the same root
        try:
            super().update_step(gradient, variable, learning_rate)
        finally:
            self.epsilon = epsilon
