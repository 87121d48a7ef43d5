"""Training runs: folder, loop, callbacks, checkpoints."""
