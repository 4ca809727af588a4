"""Learning a window of the archive anew, beside the trainer: by one process or several, to a version of a line of its own."""
