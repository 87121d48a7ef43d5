"""Poses of people: key points, skeletons, their detection, motion and drawing."""
