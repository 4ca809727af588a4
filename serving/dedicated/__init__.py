"""Variants that answer in a Serve deployment of their own: where they run, how they are called, who starts and ends them."""
