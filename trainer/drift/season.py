"""A cycle in slots: which slot of the day or of the week a time belongs to, and between which two it lies."""

from dataclasses import dataclass
from typing import Literal, Self

import numpy as np

HOUR_S = 3600.0
CYCLES = 2
"""Whole cycles that must have been seen before a slot is compared with itself."""


@dataclass(frozen=True, slots=True)
class Season:
    """`slots` of an hour each make a cycle; a single slot is no season at all."""

    slots: int = 1

    @classmethod
    def of(cls, declared: Literal["hour", "hour and weekday"] | None) -> Self:
        return cls({None: 1, "hour": 24, "hour and weekday": 168}[declared])

    @property
    def learning_s(self) -> float:
        """Seconds until the cycle is known."""
        return CYCLES * self.slots * HOUR_S if self.slots > 1 else 0.0

    def slot(self, times: np.ndarray) -> np.ndarray:
        """Return each time's slot, for times float64 [rows] in seconds since 1970."""
        return (np.floor(times / HOUR_S) % self.slots).astype(np.int64)

    def cycle(self, times: np.ndarray) -> np.ndarray:
        """Return which cycle each time is in."""
        return np.floor(times / (HOUR_S * self.slots)).astype(np.int64)

    def between(self, times: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the two slots whose middles each time lies between, and how near it is to the second, from 0 to 1.

        What changes within an hour would otherwise look like drift: an hour's first minutes are not like its mean.
        """
        place = times / HOUR_S - 0.5
        first = np.floor(place)
        return (first % self.slots).astype(np.int64), ((first + 1) % self.slots).astype(np.int64), place - first

    def weights(self, times: np.ndarray) -> np.ndarray:
        """Return how much each slot counts for these times, float64 [slots] that sum to their number."""
        first, second, share = self.between(times)
        weights = np.bincount(first, 1.0 - share, self.slots)
        return weights + np.bincount(second, share, self.slots)
