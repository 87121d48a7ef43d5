"""Counterparts of the lab's PyTorch template: its network, optimizer, checkpoints and submission file."""
