"""Covariate, label and prediction shift: every column's distribution, on a short and a long window at once.

A column is first read to lay out its bins, then fills its reference, then is compared. After an alarm the columns that
moved begin anew, with what comes from then on: one change is one alarm.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from store.drift import Drift, Kind
from trainer.drift import bins
from trainer.drift.chi_square import chi_square
from trainer.drift.columns import Column
from trainer.drift.ks import ks
from trainer.drift.reference import Part, Reference
from trainer.drift.season import Season
from trainer.drift.sliced import Sliced
from trainer.drift.window import Alarm, Moved, Place, Window

LAYOUT = 2
"""Windows that a column's bins are laid out by."""
FILL = 8
"""Windows that a reference has before it is compared with."""
LAX = math.log(1e-3)
"""Once there is an alarm, columns that are this unlikely have moved with the others."""
BEYOND = -690.0
"""Logarithm of the least p-value that is told."""


class Distributions:
    """Kolmogorov and Smirnov's test for numbers, Pearson's for categories. `level`: false alarms accepted per outcome.

    `said` gives the category that a column's code stands for.
    """

    def __init__(
        self, columns: Sequence[Column], settings: Drift, sliced: Sliced, level: float, said: Callable[[int, int], str]
    ) -> None:
        self._columns, self._settings, self._sliced = columns, settings, sliced
        self._said, self._season = said, Season.of(settings.season)
        self._parts = max(2, settings.long // settings.short)
        self._judged = [c for c, column in enumerate(columns) if column.kind in settings.watch]
        self._reference = Reference(self._season, len(columns), bins.WIDTH, bins.BINS, self._parts)
        self._by: list[np.ndarray | None] = [None] * len(columns)
        # The learner's own answers are judged once it has learned a little.
        self._wait = np.array([FILL if column.kind == "prediction" else 0 for column in columns])
        self._seen = np.zeros(len(columns), np.int64)
        self._since = np.full(len(columns), math.inf)
        self._raw: list[list[Any]] = []
        self._looks = 0
        each = level / 2.0 / max(1, len(self._judged))
        self._levels = {last: math.log(each * settings.short * last) for last in (1, self._parts)}

    def look(self, window: Window) -> list[Alarm]:
        self._lay_out(window)
        compared = (self._seen >= FILL) & (window.times[-1] - self._since >= self._season.learning_s)
        self._reference.push(self._counted(window), self._seen < FILL)
        self._seen += [by is not None for by in self._by]
        self._looks += 1
        lasts = [1, self._parts] if self._looks % self._parts == 0 else [1]
        alarms = [alarm for last in lasts for alarm in self._alarms(window, last, compared)]
        self._sliced.add(window, self._by)
        return alarms

    def progress(self) -> dict[str, int]:
        """Return how many columns are compared, and how many there are."""
        return {"compared": sum(bool(self._seen[c] >= FILL) for c in self._judged), "columns": len(self._judged)}

    def reset(self, columns: Sequence[int]) -> None:
        """Take what comes from now on as the reference of these columns."""
        chosen = np.array(columns, np.int64)
        self._reference.reset(chosen)
        self._seen[chosen], self._since[chosen] = 0, math.inf
        for column in columns:
            self._by[column] = None
        self._sliced.reset(chosen)

    def _lay_out(self, window: Window) -> None:
        """Learn the bins of columns that have none, and put what they were learned from into the reference."""
        missing = [c for c, by in enumerate(self._by) if by is None]
        self._wait[missing] -= 1
        gathering = [c for c in missing if self._wait[c] < 0]
        if not gathering:
            self._raw = []
            return
        self._raw = [*self._raw, [window.times, window.values]][-LAYOUT:]
        values = np.concatenate([values for _, values in self._raw])
        for column in [c for c in gathering if self._wait[c] <= -LAYOUT]:
            self._by[column] = bins.learned(values[:, column], self._columns[column].categories)
            self._wait[column] = 0
            self._since[column] = float(window.times[0])

    def _counted(self, window: Window) -> Part:
        slots, cycles, groups = self._reference.group(window.times)
        counts = bins.counted(groups, len(slots), window.values, self._placed(window.values))
        return Part(window.place, slots, cycles, counts, self._season.weights(window.times))

    def _placed(self, values: np.ndarray) -> np.ndarray:
        found = np.full(values.shape, -1, np.int64)
        for number, (column, by) in enumerate(zip(self._columns, self._by, strict=True)):
            if by is not None:
                found[:, number] = bins.placed(values[:, number], by, column.categories)
        return found

    def _alarms(self, window: Window, last: int, compared: np.ndarray) -> list[Alarm]:
        """Compare the newest `last` windows with the reference, an alarm for each kind."""
        sums, weights = self._reference.window(last)
        rows = sums[:, : bins.BINS].sum(axis=1)
        expected, known = self._reference.expected(weights)
        whole = compared & (rows >= 0.99 * last * len(window)) & (known >= len(window))
        found = {c: self._test(c, sums[c], expected[c], rows[c], known[c]) for c in self._judged if whole[c]}
        small = self._settings.effect
        alarming = {c for c, (effect, log_p) in found.items() if log_p < self._levels[last] and effect >= small}
        alarms: list[Alarm] = []
        kinds: list[Kind] = [kind for c in sorted(alarming) if (kind := self._columns[c].kind) != "loss"]
        for kind in dict.fromkeys(kinds):
            moved = [c for c, (_, log_p) in found.items() if c in alarming or log_p < LAX]
            moved = sorted((c for c in moved if self._columns[c].kind == kind), key=lambda c: -found[c][0])
            since = self._began(next(c for c in moved if c in alarming))
            told = tuple(self._moved(c, found[c], sums[c], expected[c], window) for c in moved)
            size = "short" if last == 1 else "long"
            alarms.append(Alarm(kind, size, since, window.end, told, math.exp(self._levels[last])))
            self.reset(moved)
        return alarms

    def _test(self, column: int, sums: np.ndarray, expected: np.ndarray, rows: float, known: float) -> tuple[float, float]:
        test = chi_square if self._columns[column].categories else ks
        return test(sums[: bins.BINS] / rows, expected[: bins.BINS], rows, known)

    def _began(self, column: int) -> Place:
        """Return the window from which on the column is least like its reference: the likeliest change, to one window."""
        best, place = -1.0, self._reference.recent[-1].place
        for last in range(1, len(self._reference.recent) + 1):
            sums, weights = self._reference.window(last)
            rows = float(sums[column, : bins.BINS].sum())
            expected, known = self._reference.expected(weights)
            if rows and known[column]:
                effect, _ = self._test(column, sums[column], expected[column], rows, float(known[column]))
                if effect**2 * rows > best:
                    best, place = effect**2 * rows, self._reference.recent[-last].place
        return place

    def _moved(self, column: int, found: tuple[float, float], sums: np.ndarray, expected: np.ndarray, window: Window) -> Moved:
        one, by = self._columns[column], self._by[column]
        slices = self._sliced.moved(column, window, by) if by is not None else ()
        p = math.exp(max(found[1], BEYOND))
        if not one.categories:
            after, before = _mean(sums), _mean(expected)
            return Moved(one.name, "ks", found[0], p, before, after, "", slices)
        shares, usual = sums[: bins.BINS] / sums[: bins.BINS].sum(), expected[: bins.BINS]
        most = int(np.abs(shares - usual).argmax())
        code = self._named(column, most)
        return Moved(one.name, "chi-square", found[0], p, float(usual[most]), float(shares[most]), code, slices)

    def _named(self, column: int, most: int) -> str:
        """Return what a bin of categories stands for."""
        by = self._by[column]
        if by is not None and most < len(by):
            return self._said(column, int(by[most]))
        return "missing" if most == bins.MISSING else "others"

    def state(self) -> Any:
        raw = [list(one) for one in self._raw]
        return [self._by, self._wait, self._seen, self._since, raw, self._looks, self._reference.state()]

    def restore(self, state: Any) -> None:
        self._by, self._wait, self._seen, self._since, self._raw, self._looks, reference = state
        self._reference.restore(reference)


def _mean(sums: np.ndarray) -> float | None:
    """None, too, where values were so large that their sum is no number."""
    known, total = float(sums[: bins.MISSING].sum()), float(sums[bins.SUM])
    return total / known if known and math.isfinite(total) else None
