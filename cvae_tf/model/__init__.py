"""The method: a conditional VAE that predicts the next frame of a person from the frame before, a pose and a latent.

Read `cvae` first. It uses a `network` (`unet` here, another in ``cvae_tf.lab``) through the time loop of `rollout`,
with the terms of `losses`. `schedules` says how the weight of the KL term and the teacher forcing change over the
epochs. Nothing here imports from the rest of the package.
"""
