"""The optimiser Muon for convolutional networks."""

import keras
import tensorflow as tf

STEPS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic iteration; they raise small singular values fastest
TINY = 1e-7


def orthogonalized(matrix):
    """Replace the singular values of a matrix by values near 1, and keep its singular vectors.

    `STEPS` Newton-Schulz steps with the coefficients of Jordan et al. (2024, "Muon: an optimizer for hidden layers in
    neural networks"). They bring singular values from 0.01 to 1 times the Frobenius norm into the range from 0.6 to
    1.3; much smaller ones grow, but stay small.

    Args:
        matrix: (rows, columns) float.

    Returns:
        (rows, columns) of the same type.
    """
    rows, columns = matrix.shape
    x = matrix / (tf.norm(matrix) + TINY)
    x = tf.transpose(x) if rows > columns else x  # the smaller product
    a, b, c = COEFFICIENTS
    for _ in range(STEPS):
        gram = tf.matmul(x, x, transpose_b=True)
        x = a * x + tf.matmul(b * gram + c * tf.matmul(gram, gram), x)
    return tf.transpose(x) if rows > columns else x


@keras.saving.register_keras_serializable("cvae_tf.training")
class Muon(keras.optimizers.AdamW):
    """Muon (Jordan et al., 2024) for convolution kernels, AdamW for all other weights.

    The momentum of a kernel (height, width, in, out), with Nesterov's look ahead, is taken as a matrix
    (height * width * in, out) and `orthogonalized`. Times 0.2 * sqrt(the longer side), it has the size of an update of
    Adam (Liu et al., 2025), so that one learning rate serves all weights. Keras's own Muon leaves convolution kernels
    to Adam.

    Args:
        learning_rate, options: as for `keras.optimizers.AdamW`.
        momentum: of the kernels, from 0 to 1.
    """

    def __init__(self, learning_rate: float | keras.optimizers.schedules.LearningRateSchedule = 0.004,
                 momentum: float = 0.95, **options):
        super().__init__(learning_rate, **{"name": "muon"} | options)
        self.momentum = momentum

    def update_step(self, gradient, variable, learning_rate):
        if len(variable.shape) != 4:
            return super().update_step(gradient, variable, learning_rate)
        gradient = tf.cast(gradient, variable.dtype)
        average = self._momentums[self._get_variable_index(variable)]
        self.assign(average, self.momentum * average + gradient)
        matrix = tf.reshape(gradient + self.momentum * average, (-1, variable.shape[-1]))
        size = 0.2 * max(matrix.shape) ** 0.5
        update = tf.reshape(size * orthogonalized(matrix), variable.shape)
        self.assign_sub(variable, tf.cast(learning_rate, variable.dtype) * update)

    def get_config(self):
        return super().get_config() | {"momentum": self.momentum}
