"""Exported models, and films made with them."""
