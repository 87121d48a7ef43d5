"""Experiments with several runs: the study of schedules, and the comparison of runs."""
