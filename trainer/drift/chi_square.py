"""Pearson's test of homogeneity for categories."""

import numpy as np
from scipy import special

EXPECTED = 5.0
"""Rows that a bin needs in the window; rarer ones are taken together, for which the approximation would be poor."""


def chi_square(window: np.ndarray, reference: np.ndarray, rows: float, reference_rows: float) -> tuple[float, float]:
    """Return the total variation distance of two distributions, 0 to 1, and the logarithm of the test's p-value.

    Args:
        window: shares of the bins, float [bins]; `reference` likewise.
        rows: how many rows the window has; `reference_rows` likewise.
    """
    distance = float(np.abs(window - reference).sum() / 2.0)
    pooled = (window * rows + reference * reference_rows) / (rows + reference_rows)
    rare = pooled * min(rows, reference_rows) < EXPECTED
    if rare.any():
        window, reference, pooled = (np.append(part[~rare], part[rare].sum()) for part in (window, reference, pooled))
    there = pooled > 0.0
    freedom = int(there.sum()) - 1
    if freedom < 1:
        return distance, 0.0
    scale = rows * reference_rows / (rows + reference_rows)
    statistic = float((scale * (window - reference)[there] ** 2 / pooled[there]).sum())
    p = float(special.chdtrc(freedom, statistic))
    return distance, float(np.log(max(p, 1e-300)))
