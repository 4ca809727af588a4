"""Distributions as counts of few bins: they add up over any stretch, and are small enough to save at every step."""

import numpy as np

MISSING = 16
BINS = 17
"""Sixteen bins for values, one for those that are missing."""
SUM = 17
WIDTH = 18
"""The bins, and the sum of the known values behind them."""


def learned(values: np.ndarray, categories: bool) -> np.ndarray:
    """Return what values float64 [rows] are sorted into bins by: of numbers quantiles, with the least and the greatest so that
    what lies beyond has bins of its own; of categories the most frequent ones, by code."""
    if categories:
        codes, counts = np.unique(values[values > 0], return_counts=True)
        return np.sort(codes[np.argsort(-counts, kind="stable")[: MISSING - 1]])
    known = values[np.isfinite(values)]
    if not len(known):
        return np.zeros(0)
    inner = np.quantile(known, np.linspace(0.0, 1.0, MISSING - 1)[1:-1], method="lower")
    return np.unique([np.nextafter(known.min(), -np.inf), *inner, known.max()])


def placed(values: np.ndarray, by: np.ndarray, categories: bool) -> np.ndarray:
    """Return the bin of each value, int64 [rows]."""
    if not categories:
        return np.where(np.isnan(values), MISSING, np.searchsorted(by, values, side="left"))
    index = np.searchsorted(by, values)
    known = index < len(by)
    known[known] = by[index[known]] == values[known]
    return np.where(values <= 0, MISSING, np.where(known, index, MISSING - 1))


def counted(groups: np.ndarray, count: int, values: np.ndarray, bins: np.ndarray) -> np.ndarray:
    """Count rows by group: float32 [count, columns, WIDTH], for groups [rows], values and bins [rows, columns].

    A bin below zero is one of a column that is not counted.
    """
    columns = bins.shape[1]
    flat = (groups[:, None] * columns + np.arange(columns)) * WIDTH
    use = bins >= 0
    found = np.bincount((flat + bins)[use], minlength=count * columns * WIDTH)
    known = use & np.isfinite(values)
    sums = np.bincount((flat + SUM)[known], values[known], minlength=count * columns * WIDTH)
    return (found + sums).reshape(count, columns, WIDTH).astype(np.float32)
