"""Several runs: the study of schedules, and the comparison of runs."""
