"""Watches the rows of a model's requests for what its expectations do not allow: counts it, and refuses it where asked to."""

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from time import time
from typing import Any, cast

import numpy as np
from prometheus_client import Counter

from serving.errors import Invalid
from store.expectations import WINDOW, Expectation, Expectations
from store.schema import Row, Schema, Value

_FEW_ROWS = 64
"""Up to so many rows are looked at one by one, which is faster then than arrays are."""

_SHOWN = 40
MOST_REPORTED = 50
"""Violated expectations of a model that a replica tells of."""


@dataclass(slots=True)
class Violated:
    """How often an expectation was violated since this replica knows it, with an example, and when last, in seconds since 1970.
    Of `missing` the windows are counted."""

    count: int = 0
    example: str = ""
    at: float = 0.0


class Watch:
    """The expectations of one revision, ready to look at rows as they are logged. Safe to use in several threads.

    Args:
        counter: with the labels model, feature and expectation.
    """

    def __init__(self, model: str, schema: Schema, expectations: Expectations, counter: Counter) -> None:
        self.revision = expectations.revision
        self._model, self._counter = model, counter
        self._all = expectations.expectations
        self._violated: dict[int, Violated] = {}
        self._lock = threading.Lock()
        self._places = [[field.name for field in schema.fields].index(one.feature) for one in self._all]
        self._ranges = self._bounds("range")
        self._norms = self._bounds("norm")
        self._ages = self._bounds("age")
        self._known = [
            (index, place, frozenset[Value]((*one.values, None)))
            for index, place, one in self._each()
            if one.kind == "categories"
        ]
        self._optional = [(index, place) for index, place, one in self._each() if one.kind == "missing"]
        self._required = [(index, place) for index, place in self._optional if self._all[index].action == "refuse"]
        self._window_rows = 0
        self._missing = [0] * len(self._optional)

    def look(self, rows: Sequence[Row], at: float | Sequence[float]) -> None:
        """Count what these rows violate.

        Args:
            at: when they are asked for, by the model's clock, for all or for each.

        Raises:
            Invalid: an expectation refuses one of them; the text names feature and value, and what is expected.
        """
        found = self._in_few(rows, at) if len(rows) <= _FEW_ROWS else self._in_many(rows, at)
        if self._optional:
            self._count_missing(rows)
        if found:
            self._note(rows, found)

    def told(self) -> list[dict[str, Any]]:
        """Return what was violated, most often first."""
        with self._lock:
            most = sorted(self._violated.items(), key=lambda one: -one[1].count)[:MOST_REPORTED]
        return [
            {
                "feature": self._all[index].feature, "kind": self._all[index].kind, "violations": one.count,
                "example": one.example, "last_seen": one.at,
            }
            for index, one in most
        ]  # fmt: skip

    def _each(self) -> list[tuple[int, int, Expectation]]:
        return [(index, self._places[index], one) for index, one in enumerate(self._all)]

    def _bounds(self, kind: str) -> list[tuple[int, int, float, float]]:
        open_low, open_high = float("-inf"), float("inf")
        return [
            (index, place, open_low if one.low is None else one.low, open_high if one.high is None else one.high)
            for index, place, one in self._each()
            if one.kind == kind
        ]

    def _in_few(self, rows: Sequence[Row], at: float | Sequence[float]) -> list[tuple[int, list[int]]]:
        found: list[tuple[int, list[int]]] = []
        for number, row in enumerate(rows):
            for index, place, low, high in self._ranges:
                value = row[place]
                if value is not None and not low <= value <= high:  # pyright: ignore[reportOperatorIssue]
                    found.append((index, [number]))
            for index, place, known in self._known:
                if row[place] not in known:
                    found.append((index, [number]))
        return found + self._in_others(rows, at) if self._norms or self._ages or self._required else found

    def _in_many(self, rows: Sequence[Row], at: float | Sequence[float]) -> list[tuple[int, list[int]]]:
        columns = list(zip(*rows, strict=True))
        found: list[tuple[int, list[int]]] = []
        for index, place, low, high in self._ranges:
            found += _outside(index, np.array(columns[place], dtype=np.float64), low, high)
        for index, place, known in self._known:
            if not known.issuperset(columns[place]):
                found.append((index, [number for number, value in enumerate(columns[place]) if value not in known]))
        return found + self._in_others(rows, at)

    def _in_others(self, rows: Sequence[Row], at: float | Sequence[float]) -> list[tuple[int, list[int]]]:
        """Look at what is the same work however many rows there are."""
        found: list[tuple[int, list[int]]] = []
        for index, place, low, high in self._norms:
            norms = [_norm(row[place]) for row in rows]
            if numbers := [number for number, norm in enumerate(norms) if norm < low or norm > high]:
                found.append((index, numbers))
        for index, place, low, high in self._ages:
            found += _outside(index, np.asarray(at) - np.array([row[place] for row in rows], dtype=np.float64), low, high)
        for index, place in self._required:
            if numbers := [number for number, row in enumerate(rows) if row[place] is None]:
                found.append((index, numbers))
        return found

    def _count_missing(self, rows: Sequence[Row]) -> None:
        with self._lock:
            self._window_rows += len(rows)
            for number, (_, place) in enumerate(self._optional):
                self._missing[number] += sum(row[place] is None for row in rows)
            if self._window_rows < WINDOW:
                return
            shares = [missing / self._window_rows for missing in self._missing]
            self._window_rows, self._missing = 0, [0] * len(self._optional)
        for (index, _), share in zip(self._optional, shares, strict=True):
            expected = self._all[index]
            if share > (expected.most_missing or 0.0) and expected.action == "count":
                self._add(index, 1, f"{share * 100:.3g}% missing")

    def _note(self, rows: Sequence[Row], found: list[tuple[int, list[int]]]) -> None:
        refusing = ""
        for index, numbers in found:
            expected, example = self._all[index], _shown(rows[numbers[-1]][self._places[index]])
            self._add(index, len(numbers), example)
            if expected.action == "refuse" and not refusing:
                shown = _shown(rows[numbers[0]][self._places[index]])
                refusing = f"row {numbers[0]}: '{expected.feature}' is {shown}; expected {expected.words()}"
        if refusing:
            raise Invalid(refusing)

    def _add(self, index: int, count: int, example: str) -> None:
        expected = self._all[index]
        self._counter.labels(self._model, expected.feature, expected.kind).inc(count)
        with self._lock:
            violated = self._violated.setdefault(index, Violated())
            violated.count += count
            violated.example, violated.at = example, time()


def _outside(index: int, values: np.ndarray, low: float, high: float) -> list[tuple[int, list[int]]]:
    """Return which numbers, float64 [rows], are outside their bounds; NaN, which is missing, is not."""
    numbers = np.flatnonzero((values < low) | (values > high))
    return [(index, numbers.tolist())] if len(numbers) else []


def _norm(value: Value) -> float:
    if value is None:
        return float("nan")
    numbers = np.frombuffer(cast(bytes, value), np.float32).astype(np.float64)
    return math.sqrt(float(numbers.dot(numbers)))  # squares of float32 fit into float64


def _shown(value: Value) -> str:
    """Return a value as operators may see it: short, on one line, without what a terminal would obey.

    >>> _shown("red\\x1b[31m"), _shown(0.1 + 0.2), _shown(None)
    ("'red\\\\x1b[31m'", '0.3', 'missing')
    """
    match value:
        case None:
            return "missing"
        case bytes():
            return f"a vector of norm {_norm(value):.6g}"
        case str():
            return repr(value[:_SHOWN]) + ("…" if len(value) > _SHOWN else "")
        case _:
            return f"{value:.6g}"
