"""Footage and training clips, images and films on disk."""
