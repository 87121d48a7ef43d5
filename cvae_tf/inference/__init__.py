"""Exported models: writing and loading them, and generating films with them."""
