"""Means of bounded observations when there are few of them: a confidence sequence that needs no large numbers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

GRID = np.arange(1001) / 1000
"""The candidate means that are bet against: the interval is as fine as this."""
GRID.setflags(write=False)

CUT = 0.5
"""The largest part of a capital that one observation may cost (c of the paper, which recommends 1/2 or 3/4)."""

_CHUNK = 256


@dataclass(frozen=True, slots=True, eq=False)
class BettingSequence:
    """The hedged capital of Waudby-Smith and Ramdas (2024, JRSS B 86(1), arXiv:2010.09686), over observations in [0, 1].

    Against each candidate m two gamblers start with 1 each and bet a predictable share of what they have, one on "the mean is
    above m", one on "it is below": each capital is a nonnegative supermartingale while the mean of the next observation, given
    those before it, is at most (at least) m. Whoever reaches 2/alpha excludes m for good, at once for all moments. The first
    capital falls in m and the second grows, so what is left is an interval, and a grid loses nothing but its own spacing: a
    candidate between two points is excluded when the point beyond it is.

    The order of observations matters, so two of these do not merge. Evidence from independent streams adds up in log e.

    Args:
        alpha: the level that bets are sized for; intervals hold at every level.
        grid: candidate means, ascending, within [0, 1].
        n: observations so far.
        total: their sum.
        deviations: the sum of their squared distances from the running mean, which bets are sized by.
        gains: log capitals [2, grid] of the bets on a mean above, and below.
        peaks: the highest that each of them ever was.

    >>> calm = BettingSequence().add([0.4, 0.6, 0.5, 0.45, 0.55] * 10)
    >>> calm.interval()
    (0.431, 0.569)
    >>> calm.log_e_at_most(0.35) > math.log(20) > calm.log_e_at_most(0.45)
    True
    """

    alpha: float = 0.05
    grid: np.ndarray = field(default_factory=lambda: GRID)
    n: int = 0
    total: float = 0.0
    deviations: float = 0.0
    gains: np.ndarray = field(default_factory=lambda: np.empty((2, 0)))
    peaks: np.ndarray = field(default_factory=lambda: np.empty((2, 0)))

    def __post_init__(self) -> None:
        if not 0.0 < self.alpha < 1.0:
            raise ValueError(f"alpha is {self.alpha}: it must lie between 0 and 1")
        if not len(self.grid) or self.grid[0] < 0.0 or self.grid[-1] > 1.0 or (np.diff(self.grid) <= 0.0).any():
            raise ValueError("the grid must ascend within [0, 1]")
        for name in ("gains", "peaks"):
            if not getattr(self, name).size:
                object.__setattr__(self, name, np.zeros((2, len(self.grid))))
            if getattr(self, name).shape != (2, len(self.grid)):
                raise ValueError(f"{name} must be [2, {len(self.grid)}], two for each candidate")

    def add(self, values: Sequence[float] | np.ndarray) -> "BettingSequence":
        """Take in observations, in their order.

        Raises:
            ValueError: one lies outside [0, 1].
        """
        given = np.asarray(values, dtype=np.float64)
        if not ((given >= 0.0) & (given <= 1.0)).all():
            raise ValueError("observations must lie in [0, 1]")
        grown = self
        for start in range(0, len(given), _CHUNK):
            grown = grown._played(given[start : start + _CHUNK])
        return grown

    def interval(self, alpha: float | None = None) -> tuple[float, float]:
        """The means that were never excluded, at level `alpha` (None: `self.alpha`).

        The lower end exceeds the upper one when none is left: chance does that with probability `alpha`, a mean that
        moved does it sooner or later.
        """
        needed = math.log(2.0 / (self.alpha if alpha is None else alpha))
        too_low, too_high = self.grid[self.peaks[0] >= needed], self.grid[self.peaks[1] >= needed]
        return float(too_low[-1]) if len(too_low) else 0.0, float(too_high[0]) if len(too_high) else 1.0

    def log_e_at_most(self, mean: float) -> float:
        """Log of the e-value against "the mean is at most `mean`"; of the next candidate above it, where it is none itself."""
        at = int(np.searchsorted(self.grid, mean - 1e-12, side="left"))
        return float(self.gains[0, at]) if at < len(self.grid) else 0.0

    def log_e_at_least(self, mean: float) -> float:
        """Log of the e-value against "the mean is at least `mean`"; of the next candidate below it, where it is none itself."""
        at = int(np.searchsorted(self.grid, mean + 1e-12, side="right")) - 1
        return float(self.gains[1, at]) if at >= 0 else 0.0

    def _played(self, values: np.ndarray) -> "BettingSequence":
        surprise = values[:, None] - self.grid
        stakes, deviations = self._stakes(values)
        above = np.minimum(stakes[:, None], CUT / np.maximum(self.grid, 1e-12))
        below = np.minimum(stakes[:, None], CUT / np.maximum(1.0 - self.grid, 1e-12))
        steps = np.stack([np.log1p(above * surprise), np.log1p(-below * surprise)], axis=1)
        course = self.gains + np.cumsum(steps, axis=0)
        return replace(
            self,
            n=self.n + len(values),
            total=self.total + float(values.sum()),
            deviations=deviations,
            gains=course[-1],
            peaks=np.maximum(self.peaks, course.max(axis=0)),
        )

    def _stakes(self, values: np.ndarray) -> tuple[np.ndarray, float]:
        """The predictable plug-in stake on each value, from those before it, and the deviations after all."""
        count = self.n + np.arange(1, len(values) + 1)
        means = (0.5 + self.total + np.cumsum(values)) / (count + 1)
        deviations = np.concatenate([[self.deviations], self.deviations + np.cumsum((values - means) ** 2)])
        variance = (0.25 + deviations[:-1]) / count
        stakes = np.sqrt(2.0 * math.log(2.0 / self.alpha) / (variance * count * np.log1p(count)))
        return stakes, float(deviations[-1])
