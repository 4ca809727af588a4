"""The rate of an event in one arm, against a fixed limit: for when there are too few events, or none, to compare arms by."""

from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

GRID = tuple(np.geomspace(1.1, 100.0, 24).tolist())
"""How many times smaller (or larger) the odds of an event are than at the limit, in the alternatives that are bet on."""


@dataclass(frozen=True, slots=True)
class EventRate:
    """E-process for "an event is rarer than `limit`" (`claim="below"`, against p >= limit), or more frequent ("above", against
    p <= limit).

    A relative risk says nothing while there are no events; a tolerance does: so many units without one are evidence by
    themselves. The bet on odds R times those of the limit multiplies, per unit, by R/D with an event and 1/D without one,
    D = 1 + limit * (R - 1): the likelihood ratio of two Bernoulli rates. At a true rate p its expectation is
    (1 + p * (R - 1))/(1 + limit * (R - 1)), at most 1 when (p - limit) * (R - 1) <= 0: for R < 1 under every p >= limit, for
    R > 1 under every p <= limit. So each bet is a nonnegative supermartingale under the whole null, even where the rate
    drifts inside it, and so is their average: Ville's inequality holds. It takes each unit's rate given the units before
    it, so a unit counts once, with one event at the most. Only counts enter: those of parts add up.

    >>> import math
    >>> EventRate(0.01).add(events=0, units=1000).log_e > math.log(1 / 0.05)
    True
    >>> EventRate(0.01).add(events=10, units=1000).log_e < 0
    True
    >>> EventRate(0.01, "above").add(events=30, units=1000).log_e > math.log(1 / 0.05)
    True
    """

    limit: float
    claim: Literal["below", "above"] = "below"
    events: int = 0
    units: int = 0
    grid: tuple[float, ...] = field(default=GRID)

    def __post_init__(self) -> None:
        if not 0.0 < self.limit < 1.0:
            raise ValueError(f"limit is {self.limit}: it must lie between 0 and 1")
        if self.claim not in ("below", "above"):
            raise ValueError(f"claim is {self.claim!r}: it must be 'below' or 'above'")
        if not 0 <= self.events <= self.units:
            raise ValueError(f"{self.events} events in {self.units} units: a unit has one event at the most")
        if min(self.grid, default=0.0) <= 1.0:
            raise ValueError("the grid must be multiples above 1")

    def add(self, events: int = 0, units: int = 0) -> "EventRate":
        """Take in units whose window is closed, and how many of them had an event."""
        return replace(self, events=self.events + events, units=self.units + units)

    @property
    def log_e(self) -> float:
        odds = np.array(self.grid) if self.claim == "above" else 1.0 / np.array(self.grid)
        logs = self.events * np.log(odds) - self.units * np.log1p(self.limit * (odds - 1.0))
        top = logs.max()
        return float(top + np.log(np.exp(logs - top).mean()))
