"""What the lab's PyTorch template has: its network, optimiser, checkpoints and submission file."""
