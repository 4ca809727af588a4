"""What windows are compared with: sums by slot of the season, and the newest windows, which wait before they join them."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from trainer.drift.season import Season
from trainer.drift.window import Place

FORGET = 0.9
"""What is left of a slot's sums when its next cycle begins."""
MOST = 200_000.0
"""Rows at most of a slot: older ones weigh less and less."""
COVERED = 0.9
"""Share of a window's rows that the reference must know the slots of."""


@dataclass(slots=True)
class Part:
    """Sums of one window: `sums` float32 [groups, columns, width] by slot, `weights` float64 [slots] of the season."""

    place: Place
    slots: np.ndarray
    cycles: np.ndarray
    sums: np.ndarray
    weights: np.ndarray


class Reference:
    """Sums [slots, columns, width] whose first `counts` entries count rows; the newest `parts` windows are apart from it.

    A change that is under way is therefore not compared with itself.
    """

    def __init__(self, season: Season, columns: int, width: int, counts: int, parts: int) -> None:
        self.season, self.parts, self._counts = season, parts, counts
        self.sums = np.zeros((season.slots, columns, width), np.float32)
        self.cycles = np.full(season.slots, -1, np.int64)
        self.recent: list[Part] = []

    def group(self, times: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the slots that occur, the cycle of each, and for each time the index of its slot among them."""
        slots, groups = np.unique(self.season.slot(times), return_inverse=True)
        cycles = np.full(len(slots), -1, np.int64)
        np.maximum.at(cycles, groups, self.season.cycle(times))
        return slots, cycles, groups

    def push(self, part: Part, direct: np.ndarray) -> None:
        """Put a window among the newest; the columns that `direct` [columns] says join the sums at once."""
        now = np.where(direct[:, None], part.sums, 0.0).astype(np.float32)
        part.sums = part.sums - now
        self._add(part, now)
        self.recent.append(part)
        if len(self.recent) > self.parts:
            oldest = self.recent.pop(0)
            self._add(oldest, oldest.sums)

    def add(self, part: Part) -> None:
        """Put a window into the sums at once."""
        self._add(part, part.sums)

    def _add(self, part: Part, sums: np.ndarray) -> None:
        later = part.cycles > self.cycles[part.slots]
        begun = part.slots[later]
        if self.season.slots > 1:
            self.sums[begun] *= np.float32(FORGET)
        self.cycles[begun] = part.cycles[later]
        self.sums[part.slots] += sums
        rows = self.sums[part.slots, :, : self._counts].sum(axis=2)
        if (rows > MOST).any():
            self.sums[part.slots] *= np.minimum(1.0, MOST / np.maximum(rows, 1.0))[:, :, None].astype(np.float32)

    def expected(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return what rows of these slots would be on the average, float64 [columns, width], and of how many rows that is
        known, float64 [columns]: 0 where too many of the slots are unknown."""
        used = np.flatnonzero(weights)
        sums = self.sums[used].astype(np.float64)
        rows = sums[:, :, : self._counts].sum(axis=2)
        weighed = np.where(rows > 0.0, weights[used, None], 0.0)
        known = weighed.sum(axis=0)
        weighed /= np.maximum(known, 1e-9)
        least = np.maximum(rows, 1e-9)
        mean = (sums * (weighed / least)[:, :, None]).sum(axis=0)
        # The variance of a mean of strata is the sum of theirs, each by the square of its share.
        effective = 1.0 / np.maximum((weighed**2 / least).sum(axis=0), 1e-12)
        return mean, np.where(known >= COVERED * weights.sum(), effective, 0.0)

    def window(self, last: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the sums float64 [columns, width] and the weights [slots] of the newest windows together."""
        parts = self.recent[-last:]
        sums = np.sum([part.sums.sum(axis=0, dtype=np.float64) for part in parts], axis=0)
        return sums, np.sum([part.weights for part in parts], axis=0)

    def reset(self, columns: np.ndarray) -> None:
        """Forget these columns."""
        self.sums[:, columns] = 0.0
        for part in self.recent:
            part.sums[:, columns] = 0.0

    def state(self) -> Any:
        recent = [
            [p.place.outcome, p.place.at, p.place.log_position, p.slots, p.cycles, p.sums, p.weights] for p in self.recent
        ]
        return [self.sums, self.cycles, recent]

    def restore(self, state: Any) -> None:
        self.sums, self.cycles, recent = state
        self.recent = [Part(Place(*one[:3]), *one[3:]) for one in recent]
