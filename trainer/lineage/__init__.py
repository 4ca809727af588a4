"""Where a version comes from: what it was learned with is kept beside it, and with that it can be learned again."""
