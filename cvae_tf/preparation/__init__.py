"""Own footage: a video to a data set in the lab's layout."""
