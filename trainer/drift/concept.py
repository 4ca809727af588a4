"""Concept drift: the loss of rows before they are learned rises. ADWIN and Page-Hinkley's test, on means of a few rows.

With a season each loss is compared with the mean of its slot, once two cycles are known. What the detectors know
follows from the means that they were fed, and those are the state: fed again, they are as they were, bit for bit.
"""

import math
from typing import Any

import numpy as np

from store.drift import Drift
from trainer.drift.columns import LOSS
from trainer.drift.mean import CLIP, MeanDetector, changed
from trainer.drift.season import Season
from trainer.drift.window import Alarm, Moved, Place, Window

GRAIN = 32
"""Rows of a mean."""
WARM = 64
"""Means that the others are standardised by."""
CAUTION = 1.25
"""What is put on their standard deviation: it is itself known to a tenth, and means of so few losses are skewed."""
FED = 4096
"""Means that are remembered at most; then half of them are, and the detectors begin with those."""
FORGET = 0.9


class Concept:
    """`level`: false alarms accepted per outcome, of both detectors together."""

    def __init__(self, settings: Drift, loss: int, level: float) -> None:
        self._season, self._loss, self._level = Season.of(settings.season), loss, level / 2.0 * GRAIN
        self._profile = np.zeros((self._season.slots, 3))
        self._cycles = np.full(self._season.slots, -1, np.int64)
        self._begun = math.inf
        self._seasoned = self._season.slots == 1
        self._clear()

    def _clear(self) -> None:
        self._means: list[float] = []
        self._places: list[list[Any]] = []
        self._fed: list[float] = []
        self._scale: list[float] = []
        self._unfed = WARM
        self._begin()

    def _begin(self) -> None:
        from trainer.drift.adwin import AdaptiveWindow  # noqa: PLC0415 - river takes seconds to import
        from trainer.drift.page_hinkley import Cumulated  # noqa: PLC0415

        self._detectors: list[MeanDetector] = [AdaptiveWindow(self._level), Cumulated(self._level)]

    def look(self, window: Window) -> list[Alarm]:
        self._begun = min(self._begun, float(window.times[0]))
        if not self._seasoned and window.times[-1] - self._begun >= self._season.learning_s:
            self._seasoned = True
            self._clear()
        losses = window.values[:, self._loss]
        losses = np.where(np.isfinite(losses), losses, np.nan)
        alarms: list[Alarm] = []
        for start in range(0, len(window) - GRAIN + 1, GRAIN):
            rows = slice(start, start + GRAIN)
            mean, fed = self._mean(losses[rows], window.times[rows])
            if math.isnan(fed):
                continue
            place = [window.place.outcome + start, float(window.times[start]), window.place.log_position]
            alarms += self._take(mean, fed, place, window)
        self._learn(losses, window.times)
        return alarms

    def _mean(self, losses: np.ndarray, times: np.ndarray) -> tuple[float, float]:
        """Return the mean loss, and what of it is not the season's."""
        known = ~np.isnan(losses)
        if not known.any():
            return math.nan, math.nan
        mean = float(losses[known].mean())
        if self._season.slots == 1 or not self._seasoned:
            return mean, mean
        first, second, share = self._season.between(times)
        rows, sums, squares = self._profile.T
        usual = sums / np.maximum(rows, 1e-9)
        spread = np.sqrt(np.maximum(squares / np.maximum(rows, 1e-9) - usual**2, 1e-12))
        # Where one of the two slots is unknown, the other one stands for it.
        share = np.where(rows[second] > 0, np.where(rows[first] > 0, share, 1.0), 0.0)
        known &= (rows[first] > 0) | (rows[second] > 0)
        if not known.any():
            return mean, math.nan
        apart = losses - (1.0 - share) * usual[first] - share * usual[second]
        return mean, float((apart / ((1.0 - share) * spread[first] + share * spread[second]))[known].mean())

    def _take(self, mean: float, fed: float, place: list[Any], window: Window) -> list[Alarm]:
        self._means.append(mean)
        self._places.append(place)
        self._fed.append(fed)
        if not self._scale:
            if len(self._fed) == WARM:
                spread = float(np.std(self._fed)) * CAUTION
                self._scale = [float(np.mean(self._fed)), spread if spread > 1e-12 else math.inf]
            return []
        rose = [(one, one.rose(self._standard(fed))) for one in self._detectors]
        names = [one.name for one, said in rose if said]
        alarm = self._alarm(names, window) if names else None
        if alarm is not None or any(said is None or said for _, said in rose):
            self._clear()
        elif len(self._fed) >= FED:
            del self._fed[: FED // 2], self._means[: FED // 2], self._places[: FED // 2]
            self._unfed = 0
            self._feed_again()
        return [alarm] if alarm is not None else []

    def _standard(self, fed: float) -> float:
        if math.isinf(self._scale[1]):  # so far nothing varied: then what does is far away
            return 0.0 if abs(fed - self._scale[0]) <= 1e-9 else math.copysign(CLIP, fed - self._scale[0])
        return max(-CLIP, min(CLIP, (fed - self._scale[0]) / self._scale[1]))

    def _feed_again(self) -> None:
        self._begin()
        for fed in self._fed[self._unfed :]:
            for detector in self._detectors:
                detector.rose(self._standard(fed))

    def _alarm(self, names: list[str], window: Window) -> Alarm | None:
        """Return what is to be told, or None where the loss has fallen."""
        at = changed(np.array(self._fed))
        gap = float(np.mean(self._fed[at:]) - np.mean(self._fed[:at]))
        if gap <= 0.0:
            return None
        scale = self._scale[1] / CAUTION * math.sqrt(GRAIN)
        effect = gap / scale if math.isfinite(scale) else math.inf
        before, after = float(np.mean(self._means[:at])), float(np.mean(self._means[at:]))
        moved = Moved(LOSS, " and ".join(names), min(effect, 1e6), None, before, after)
        return Alarm("concept", "adaptive", Place(*self._places[at]), window.end, (moved,))

    def _learn(self, losses: np.ndarray, times: np.ndarray) -> None:
        """Take the losses into their slots' means."""
        if self._season.slots == 1:
            return
        known = ~np.isnan(losses)
        slots, cycles, losses = self._season.slot(times)[known], self._season.cycle(times)[known], losses[known]
        newest = self._cycles.copy()
        np.maximum.at(newest, slots, cycles)
        self._profile[newest > self._cycles] *= FORGET
        self._cycles = newest
        for power in range(3):
            self._profile[:, power] += np.bincount(slots, losses**power, self._season.slots)

    def state(self) -> Any:
        series = [np.array(self._means), self._places, np.array(self._fed), self._scale, self._unfed]
        return [self._profile, self._cycles, self._begun, self._seasoned, *series]

    def restore(self, state: Any) -> None:
        self._profile, self._cycles, self._begun, self._seasoned, *series = state
        means, self._places, fed, self._scale, self._unfed = series
        self._means, self._fed = means.tolist(), fed.tolist()
        self._feed_again()
