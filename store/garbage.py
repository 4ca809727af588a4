"""Garbage, for processes that remember millions of things for hours.

Python looks for cycles through everything that lives, again whenever there is a quarter more of it: through a million
predictions that wait for their labels, for more than a second, while others wait for the processor. None of these is in a
cycle. So what has outlived a moment is not looked at again; it is freed as ever when it is let go.
"""

import gc

AFTER = 20_000
"""New objects, more than before, after which to look among them: each micro-batch brings thousands that stay."""


def begin() -> None:
    """Look once through all that there is, as after a start or a new beginning; what was imported stays for good."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    gc.set_threshold(AFTER)


def settle() -> None:
    """Look through what has come since the last time. Call this every second or so."""
    gc.collect()
    gc.freeze()
