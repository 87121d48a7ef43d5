"""Default hyperparameters, in one place for the classes, the command line and the presets. No TensorFlow."""

# Networks
WIDTH = 24  # channels of the U-Net at half resolution
N_DIM = 12  # channels of the latent
F_DIM, L_DIM, D_OUT_DIM = 128, 32, 192  # the lab's network: features of frames, of poses, and after decoder fusion

# Objective
BETA = 1e-3  # weight of the KL divergence, per nat
GDL = 2.0  # weight of the gradient difference
TEACHER_FORCING_RATIO = 0.0  # free running from the first epoch on
TEACHER_FORCING_DRAW = "batch"

# Optimisation
LEARNING_RATE = 2e-3
WEIGHT_DECAY = 1e-4
CLIP_NORM = 0.05
CHUNK_LENGTH = 0  # the network's own choice
