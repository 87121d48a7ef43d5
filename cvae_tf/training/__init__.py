"""Training runs: folder, loop, callbacks, checkpoints."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # set before TensorFlow starts, to hide its informational log
