"""Training runs: folder, loop, callbacks, checkpoints."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow starts: its notes are not for users
