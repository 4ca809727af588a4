"""What the features of learned outcomes were like, in bounded memory: from it expectations are inferred.

An expectation is inferred from half a million rows at most: when so many have been seen, they all get half of their weight, so
that what is expected follows a world that changes.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from math import sqrt
from typing import Any

import msgpack
import numpy as np

from store.expectations import WINDOW, Expectation, Kind
from store.records import Outcome
from store.schema import FeatureField, Schema, Value
from trainer.sketch import Sketch

ENOUGH = 1000
"""Rows that something is inferred from at least."""

HALVED_AT = 500_000
TAIL = 0.001
"""Share of rows on either side that says nothing of a range: where one in a thousand is wrong, the range is still right."""

SLACK = 0.5
"""How far a range goes beyond the rest, in parts of its width; of a normal distribution this is at six standard deviations."""

MOST_CATEGORIES = 100
"""A feature with more values is not expected to have known ones."""

UNSEEN = 0.01
"""Nor is one whose next value is new with more than this probability: by Good and Turing the share of values seen once."""

RARE = 1e-4
"""Share of rows below which a category is none that is expected."""

_TRACKED, _LONGEST = 256, 200
_Z = 4.0
"""Standard deviations, one-sided 3 in 100,000: a share's own uncertainty, and a window's."""


class Profile:
    """Counts and quantiles by feature; the same outcomes in the same order make the same one."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._of = [_made(field) for field in schema.fields]
        self.rows = 0.0

    def add(self, outcomes: Sequence[Outcome]) -> None:
        """Take in learned outcomes."""
        if not outcomes:
            return
        self.rows += len(outcomes)
        at = np.array([outcome.predicted_at for outcome in outcomes])
        for one, column in zip(self._of, zip(*(outcome.row for outcome in outcomes), strict=True), strict=True):
            one.add(column, at)
        if self.rows > HALVED_AT:
            self.rows /= 2
            for one in self._of:
                one.halve()

    def infer(self) -> tuple[Expectation, ...]:
        """Return what follows from the rows so far; nothing before there are ENOUGH."""
        if self.rows < ENOUGH:
            return ()
        return tuple(one for field, seen in zip(self._schema.fields, self._of, strict=True) for one in seen.infer(field))

    def packed(self) -> bytes:
        data = [self.rows, self._schema.model_dump_json(), [one.packed() for one in self._of]]
        return msgpack.packb(data, unicode_errors="surrogatepass")  # pyright: ignore[reportReturnType]

    @classmethod
    def unpacked(cls, schema: Schema, packed: bytes) -> "Profile":
        """Return what was packed; an empty one where the schema was another."""
        made = cls(schema)
        rows, of, parts = msgpack.unpackb(packed, unicode_errors="surrogatepass", strict_map_key=False)
        if of == schema.model_dump_json():
            made.rows = rows
            for one, part in zip(made._of, parts, strict=True):
                one.restore(part)
        return made


class _Missing:
    """What all features have in common: rows, and those without a value."""

    def __init__(self) -> None:
        self.rows = self.missing = 0.0

    def add(self, column: Sequence[Value], at: np.ndarray) -> None:
        self.rows += len(column)
        self.missing += column.count(None)

    def halve(self) -> None:
        self.rows, self.missing = self.rows / 2, self.missing / 2

    def infer(self, field: FeatureField) -> list[Expectation]:
        if not field.optional or not self.rows:
            return []
        bound = most_missing(self.missing, self.rows)
        return [Expectation(feature=field.name, kind="missing", most_missing=bound)] if bound < 1.0 else []

    def packed(self) -> list[Any]:
        return [self.rows, self.missing]

    def restore(self, data: list[Any]) -> None:
        self.rows, self.missing = data[:2]


class _Bounded(_Missing):
    """A feature that is a number, or is measured by one."""

    def __init__(self, kind: Kind) -> None:
        super().__init__()
        self._kind: Kind = kind
        self._sketch = Sketch()

    def add(self, column: Sequence[Value], at: np.ndarray) -> None:
        super().add(column, at)
        values = _measured(self._kind, column, at)
        if len(values) and not self._sketch.count:
            self._sketch = Sketch(float(np.median(values)))
        self._sketch.add(values)

    def halve(self) -> None:
        super().halve()
        self._sketch.halve()

    def infer(self, field: FeatureField) -> list[Expectation]:
        missing = super().infer(field)
        if self._sketch.count < ENOUGH / 2:
            return missing
        low, high = bounds(self._sketch)
        return [Expectation(feature=field.name, kind=self._kind, low=low, high=high), *missing]

    def packed(self) -> list[Any]:
        return [*super().packed(), self._sketch.packed()]

    def restore(self, data: list[Any]) -> None:
        super().restore(data)
        self._sketch = Sketch.unpacked(data[2])


class _Categories(_Missing):
    """Counts of the values that are frequent; what there is no room for is counted together."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: dict[str, float] = {}
        self.rest = 0.0

    def add(self, column: Sequence[Value], at: np.ndarray) -> None:
        super().add(column, at)
        for value, count in Counter(column).items():
            if isinstance(value, str) and len(value) <= _LONGEST and _is_text(value):
                self.counts[value] = self.counts.get(value, 0.0) + count
            elif value is not None:
                self.rest += count
        if len(self.counts) > _TRACKED:
            kept = sorted(self.counts.items(), key=lambda one: (-one[1], one[0]))[: _TRACKED // 2]
            self.rest += sum(self.counts.values()) - sum(count for _, count in kept)
            self.counts = dict(kept)

    def halve(self) -> None:
        super().halve()
        self.rest /= 2
        for value in self.counts:
            self.counts[value] /= 2

    def infer(self, field: FeatureField) -> list[Expectation]:
        missing = super().infer(field)
        seen = self.rows - self.missing
        values = sorted(value for value, count in self.counts.items() if count >= RARE * seen)
        new = self.rest + sum(count for count in self.counts.values() if count <= 1)
        # With choices of its own the schema refuses all others.
        if field.choices or seen < ENOUGH / 2 or len(values) > MOST_CATEGORIES or new > UNSEEN * seen:
            return missing
        return [Expectation(feature=field.name, kind="categories", values=tuple(values)), *missing]

    def packed(self) -> list[Any]:
        return [*super().packed(), self.rest, list(self.counts.items())]

    def restore(self, data: list[Any]) -> None:
        super().restore(data)
        self.rest, counts = data[2:]
        self.counts = dict(counts)


def bounds(sketch: Sketch) -> tuple[float, float]:
    """Return the range that is expected of numbers: what lies between the TAIL quantiles, and SLACK on either side. What was
    never below zero, or never above it, is expected not to be."""
    low, high = sketch.quantile(TAIL), sketch.quantile(1 - TAIL)
    slack = SLACK * (high - low)
    low, high = low - slack, high + slack
    return (max(low, 0.0) if sketch.low >= 0 else low), (min(high, 0.0) if sketch.high <= 0 else high)


def most_missing(missing: float, rows: float, z: float = _Z) -> float:
    """Return the share of missing values that a window is expected not to exceed: Wilson's upper bound of the share, and the
    deviation of a window of WINDOW rows with such a share."""
    share, square = missing / rows, z * z
    centre, spread = share + square / (2 * rows), z * sqrt(share * (1 - share) / rows + square / (4 * rows * rows))
    upper = min(1.0, (centre + spread) / (1 + square / rows))
    return min(1.0, round(upper + z * sqrt(upper * (1 - upper) / WINDOW), 4))


def _made(field: FeatureField) -> _Missing:
    match field.kind:
        case "number":
            return _Bounded("range")
        case "vector":
            return _Bounded("norm")
        case "timestamp":
            return _Bounded("age")
        case "category":
            return _Categories()
        case "boolean":
            return _Missing()


def _measured(kind: Kind, column: Sequence[Value], at: np.ndarray) -> np.ndarray:
    """Return what the expectation of a kind bounds, of the values that are not missing."""
    if kind == "norm":
        return np.array([np.linalg.norm(np.frombuffer(value, np.float32).astype(np.float64)) for value in _bytes(column)])
    values = np.array(column, dtype=np.float64)  # None becomes NaN
    values = at - values if kind == "age" else values
    return values[np.isfinite(values)]


def _is_text(value: str) -> bool:
    """Whether it can be written down: half a surrogate pair cannot."""
    try:
        return bool(value.encode()) or not value
    except UnicodeEncodeError:
        return False


def _bytes(column: Iterable[Value]) -> Iterable[bytes]:
    return (value for value in column if isinstance(value, bytes))
