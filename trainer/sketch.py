"""Quantiles of a stream in bounded memory: DDSketch (Masson, Rim and Lee, 2019), for values of either sign."""

from math import log
from typing import Any

import numpy as np

ACCURACY = 0.01
"""By how much a quantile may be off, relative to its distance from the centre."""

_GAMMA = (1 + ACCURACY) / (1 - ACCURACY)
_LOG_GAMMA = log(_GAMMA)
_MOST_BUCKETS = 1024
_NOTHING = 1e-12
"""Distances below count as zero."""


class Sketch:
    """Counts by logarithmic buckets of the distance from a centre, at most 1,024 on each side: beyond that, those nearest to
    it are one. A centre amid the values keeps apart what lies close together far from zero."""

    def __init__(self, centre: float = 0.0) -> None:
        self._centre = centre
        self._above: dict[int, float] = {}
        self._below: dict[int, float] = {}
        self._zero = 0.0
        self.count = 0.0
        self.low, self.high = float("inf"), float("-inf")

    def add(self, values: np.ndarray) -> None:
        """Take in finite numbers, float64 [any]."""
        if not len(values):
            return
        self.count += len(values)
        self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))
        values = values - self._centre
        magnitudes = np.abs(values)
        counted = magnitudes > _NOTHING
        self._zero += len(values) - int(counted.sum())
        for buckets, chosen in ((self._above, counted & (values > 0)), (self._below, counted & (values < 0))):
            indices = np.ceil(np.log(magnitudes[chosen]) / _LOG_GAMMA).astype(np.int64)
            if not len(indices):
                continue
            first = int(indices.min())  # of all finite numbers there are less than 40,000 indices
            counts = np.bincount(indices - first)
            for index in np.flatnonzero(counts).tolist():
                buckets[first + index] = buckets.get(first + index, 0.0) + int(counts[index])
            _bound(buckets)

    def quantile(self, share: float) -> float:
        """Return the value that a share of all is at most; raises ValueError where there is none."""
        if not self.count:
            raise ValueError("a sketch of nothing has no quantiles")
        wanted = share * self.count
        for value, count in self._ascending():
            wanted -= count
            if wanted <= 0:
                return min(max(value, self.low), self.high)
        return self.high

    def halve(self) -> None:
        """Give what was seen so far half of its weight."""
        self.count, self._zero = self.count / 2, self._zero / 2
        for buckets in (self._above, self._below):
            for index in buckets:
                buckets[index] /= 2

    def packed(self) -> list[Any]:
        """Return it as plain data, for `unpacked`."""
        sides = [sorted(buckets.items()) for buckets in (self._above, self._below)]
        return [self._centre, self.count, self._zero, self.low, self.high, *sides]

    @classmethod
    def unpacked(cls, data: list[Any]) -> "Sketch":
        centre, *counts, above, below = data
        made = cls(centre)
        made.count, made._zero, made.low, made.high = counts
        made._above, made._below = dict(above), dict(below)
        return made

    def _ascending(self) -> list[tuple[float, float]]:
        """Return the middle of each bucket with its count."""
        centre = self._centre
        below = [(centre - _middle(index), count) for index, count in sorted(self._below.items(), reverse=True)]
        above = [(centre + _middle(index), count) for index, count in sorted(self._above.items())]
        return [*below, (centre, self._zero), *above]


def _middle(index: int) -> float:
    """The value that is off by at most ACCURACY anywhere in a bucket."""
    return 2 * _GAMMA**index / (_GAMMA + 1)


def _bound(buckets: dict[int, float]) -> None:
    if len(buckets) > _MOST_BUCKETS:
        first, *rest = sorted(buckets)[: len(buckets) - _MOST_BUCKETS + 1]
        kept = rest[-1]
        for index in (first, *rest[:-1]):
            buckets[kept] += buckets.pop(index)
