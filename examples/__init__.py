"""Models as a user would write them; each runs on the public interfaces only."""
