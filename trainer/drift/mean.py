"""The seam of detectors that watch one number, and where a series of such numbers changed."""

from typing import Protocol

import numpy as np

CLIP = 4.0
"""Standard deviations beyond which a mean counts as that far: a single broken row is no drift."""


class MeanDetector(Protocol):
    """Watches standardised means in order. What it knows follows from what it was fed, which is how it is saved."""

    name: str

    def rose(self, mean: float) -> bool | None:
        """Take in a mean; return whether the means have risen, None if they have fallen."""
        ...


def changed(values: np.ndarray) -> int:
    """Return where a series float64 [n >= 2] most likely stepped: the first index after the step (least squares).

    >>> changed(np.array([0.0, 0.1, 0.0, 2.0, 2.1]))
    3
    """
    before = np.arange(1, len(values))
    sums = np.cumsum(values)
    gap = sums[:-1] / before - (sums[-1] - sums[:-1]) / (len(values) - before)
    return int(before[np.argmax(gap**2 * before * (len(values) - before))])
