"""The features together: a two-sample test on mean embeddings by random Fourier features.

Each of the embedding's functions is a cosine of two columns at random, so that it sees what pairs of features do together and
their distributions apart do not. The mean of a window is compared with the reference's by Hotelling's T², which weighs
each function by how much it varies (Rahimi and Recht 2007; Jitkrittum et al. 2016, the ME test).
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import special

from store.drift import Drift
from trainer.drift.columns import Column
from trainer.drift.distributions import FILL, LAYOUT
from trainer.drift.reference import Part, Reference
from trainer.drift.season import Season
from trainer.drift.window import Alarm, Moved, Place, Window

FUNCTIONS = 32
RIDGE = 1e-4
SCALE = 0.8
"""Width of a function, in standard deviations of a column."""


class KernelTest:
    """Multivariate shift. `level`: false alarms accepted per outcome."""

    def __init__(self, columns: Sequence[Column], settings: Drift, level: float) -> None:
        self._inputs = [c for c, column in enumerate(columns) if column.kind == "covariate"]
        self._categories = np.array([columns[c].categories for c in self._inputs], bool)
        self._season, self._short = Season.of(settings.season), settings.short
        self._parts, self._effect = max(2, settings.long // settings.short), settings.effect
        self._levels = {last: math.log(level / 2 * settings.short * last) for last in (1, self._parts)}
        draw = np.random.default_rng(len(self._inputs))
        pairs = [draw.permutation(len(self._inputs))[:2] for _ in range(FUNCTIONS)] if self._inputs else []
        self._pairs = np.array([[one[0], one[-1]] for one in pairs], np.int64).reshape(-1, 2)
        self._waves = draw.normal(0.0, SCALE, (FUNCTIONS, 2))
        self._turns = draw.uniform(0.0, math.tau, FUNCTIONS)
        self._salts = draw.integers(1, 2**31, (FUNCTIONS, 2))
        self.reset()

    def reset(self) -> None:
        """Take what comes from now on as the reference."""
        self._reference = Reference(self._season, 1, FUNCTIONS + 1, 1, self._parts)
        self._spread = np.zeros((FUNCTIONS, FUNCTIONS))
        self._freedom = 0.0
        self._scales: np.ndarray | None = None
        self._raw: list[np.ndarray] = []
        self._seen = self._looks = 0
        self._since = math.inf

    def look(self, window: Window) -> list[Alarm]:
        if len(self._inputs) < 2:
            return []
        # In one layout, saved or not: sums depend on the order in which they are made.
        values = np.ascontiguousarray(window.values[:, self._inputs])
        if self._scales is None:
            self._raw.append(values)
            if len(self._raw) < LAYOUT:
                return []
            self._scales, self._raw = _scales(np.concatenate(self._raw)), []
            self._since = float(window.times[0])
        embedded = self._embedded(values, self._scales)
        compared = self._seen >= FILL and window.times[-1] - self._since >= self._season.learning_s
        self._reference.push(self._part(window, embedded), np.array([self._seen < FILL]))
        self._seen += 1
        self._looks += 1
        lasts = [1, self._parts] if self._looks % self._parts == 0 else [1]
        for last in lasts if compared else ():
            if alarm := self._alarm(window, last):
                self.reset()
                return [alarm]
        return []

    def _embedded(self, values: np.ndarray, scales: np.ndarray) -> np.ndarray:
        """Return float64 [rows, FUNCTIONS], each in [-1, 1]; a missing number is its column's mean."""
        standard = np.nan_to_num(np.clip((values - scales[0]) / scales[1], -5.0, 5.0))
        turns = np.broadcast_to(self._turns, (len(values), FUNCTIONS)).copy()
        for place in (0, 1):
            column = self._pairs[:, place]
            codes = np.where(self._categories[column], values[:, column], 0.0).astype(np.int64)
            angle = (codes * 40_503 + self._salts[:, place]) * 2_654_435_761 % 65_521 / 65_521 * math.tau
            turns += np.where(self._categories[column], angle, standard[:, column] * self._waves[:, place])
        return np.cos(turns)

    def _part(self, window: Window, embedded: np.ndarray) -> Part:
        """Sum by slot, and take in how the rows of a slot vary."""
        slots, cycles, groups = self._reference.group(window.times)
        sums = np.zeros((len(slots), 1, FUNCTIONS + 1))
        np.add.at(sums[:, 0], groups, np.column_stack([np.ones(len(embedded)), embedded]))
        apart = embedded - (sums[groups, 0, 1:] / sums[groups, 0, :1])
        self._spread = 0.999 * self._spread + np.einsum("ri,rj->ij", apart, apart)
        self._freedom = 0.999 * self._freedom + len(embedded) - len(slots)
        return Part(window.place, slots, cycles, sums.astype(np.float32), self._season.weights(window.times))

    def _difference(self, last: int) -> tuple[np.ndarray, float, float]:
        """Return how the newest windows' mean differs, how many rows they have, and of how many the reference is known."""
        sums, weights = self._reference.window(last)
        expected, known = self._reference.expected(weights)
        rows = float(sums[0, 0])
        return sums[0, 1:] / max(rows, 1.0) - expected[0, 1:], rows, float(known[0])

    def _alarm(self, window: Window, last: int) -> Alarm | None:
        difference, rows, known = self._difference(last)
        if rows < 0.99 * last * len(window) or known < len(window):
            return None
        spread = self._spread / max(self._freedom, 1.0)
        pooled = (spread + RIDGE * np.eye(FUNCTIONS)) * (1.0 / rows + 1.0 / known)
        statistic = float(difference @ np.linalg.solve(pooled, difference))
        log_p = math.log(max(float(special.chdtrc(FUNCTIONS, statistic)), 1e-300))
        # An estimate of the embeddings' distance without what chance puts between two samples.
        chance = float(np.trace(spread)) * (1.0 / rows + 1.0 / known)
        effect = math.sqrt(max(0.0, 2.0 / FUNCTIONS * (float(difference @ difference) - chance)))
        if log_p >= self._levels[last] or effect < self._effect:
            return None
        moved = Moved("features together", "kernel mean embedding", effect, math.exp(log_p))
        size = "short" if last == 1 else "long"
        return Alarm("multivariate", size, self._began(), window.end, (moved,), math.exp(self._levels[last]))

    def _began(self) -> Place:
        scores = []
        for last in range(1, len(self._reference.recent) + 1):
            difference, rows, known = self._difference(last)
            scores.append(float(difference @ difference) * rows if known else -1.0)
        return self._reference.recent[-1 - int(np.argmax(scores))].place

    def state(self) -> Any:
        fixed = [self._spread, self._freedom, self._scales, self._raw, self._seen, self._looks, self._since]
        return [*fixed, self._reference.state()]

    def restore(self, state: Any) -> None:
        self._spread, self._freedom, self._scales, self._raw, self._seen, self._looks, self._since, reference = state
        self._reference.restore(reference)


def _scales(values: np.ndarray) -> np.ndarray:
    """Return mean and standard deviation of each column, float64 [2, columns], by the values that are known."""
    known = np.isfinite(values)
    count = np.maximum(known.sum(axis=0), 1)
    filled = np.where(known, values, 0.0)
    mean = filled.sum(axis=0) / count
    spread = np.sqrt((np.where(known, values - mean, 0.0) ** 2).sum(axis=0) / count)
    return np.stack([mean, np.where(spread > 0.0, spread, 1.0)])
