"""The method: a conditional VAE that predicts the next frame of a person from the previous one, a pose and a latent z.

Read `cvae` first. It runs a `network` (`unet` here, or the one in ``cvae_tf.lab``) in the time loop of `rollout`
and trains it on the terms of `losses`. `schedules` sets the weight of the KL term and the teacher-forcing ratio of each
epoch. Nothing here imports from the rest of the package.
"""
