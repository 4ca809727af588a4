"""Kolmogorov and Smirnov's test for numbers, on counts of bins."""

import math

import numpy as np


def ks(window: np.ndarray, reference: np.ndarray, rows: float, reference_rows: float) -> tuple[float, float]:
    """Return the greatest distance of two distribution functions, 0 to 1, and the logarithm of its p-value.

    The p-value is the bound 2 exp(-2 D² nm/(n + m)), the first term of the limiting distribution (Smirnov 1939); with values
    in bins it is conservative. A value that is missing counts as greater than all.

    Args:
        window: shares of the bins, float [bins]; `reference` likewise.
        rows: how many rows the window has; `reference_rows` likewise.
    """
    distance = float(np.abs(np.cumsum(window - reference)).max())
    return distance, min(0.0, math.log(2.0) - 2.0 * distance**2 * rows * reference_rows / (rows + reference_rows))
