"""Default hyperparameters and shared numbers, in one place for all modules. Does not import TensorFlow."""

# Networks
WIDTH = 24  # channels of the U-Net at half resolution
N_DIM = 12  # channels of the latent
F_DIM, L_DIM, D_OUT_DIM = 128, 32, 192  # the lab's network: channels of frame, pose and fused features

# Objective
BETA = 1e-3  # weight of the KL divergence, per nat
GDL = 2.0  # weight of the gradient difference loss
TEACHER_FORCING_RATIO = 0.0  # free running from the first epoch on
TEACHER_FORCING_DRAW = "batch"
DISTURBED = 0.25  # share of clips that begin with a disturbed previous frame

# Optimisation
LEARNING_RATE = 8e-3  # of Muon
WEIGHT_DECAY = 1e-4
CLIP_NORM = 0.05
CHUNK_LENGTH = 0  # the network's own choice

# Number of frames generated at a time. Pose features and noise are held for this many, however long the film.
GENERATION_CHUNK = 64
# PSNR in dB of identical frames. The true value is infinite, and one such frame would make every mean infinite.
HIGHEST_PSNR = 100.0
