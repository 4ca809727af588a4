"""As many rows of each stratum: rare ones are seen in every step, and count no more than their share."""

import numpy as np

from trainer.sampling.choice import Candidates, Choice


def stratified(candidates: Candidates, count: int, draw: np.random.Generator) -> Choice:
    """Take an equal part of `count` from each stratum, at least one row, all of a stratum that has fewer (Cochran 1977, chapter
    5: the strata's means, weighed by their sizes)."""
    found, stratum, sizes = np.unique(candidates.strata, return_inverse=True, return_counts=True)
    quota = np.minimum(sizes, max(1, count // len(found)))
    order = np.lexsort((draw.random(len(candidates)), stratum))  # shuffled inside each stratum
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    rows = np.flatnonzero(place < quota[stratum])
    factors = (sizes / quota)[stratum[rows]] * (len(rows) / len(candidates))
    return Choice(rows, factors)
