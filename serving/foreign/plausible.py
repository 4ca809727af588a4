"""Rows that requests could carry, for a version's golden inputs."""

from collections.abc import Collection
from typing import Any

import numpy as np

from store.encoding import Encoded, Encoder
from store.schema import FeatureField, Schema, Value

ROWS = 16
_TENTH = 0.1
_YEAR_2000, _YEARS = 946_684_800.0, 1e9


def plausible_rows(schema: Schema, whole: Collection[str], seed: int = 0) -> Encoded:
    """Return encoded rows with ordinary values inside each feature's bounds, and missing ones where they may be.

    Args:
        whole: features that go into inputs of whole numbers: 0 and 1 are drawn for them, which are places in any table.
    """
    draw = np.random.default_rng(seed)
    columns = [_column(field, field.name in whole, draw) for field in schema.fields]
    return Encoder(schema).encode([list(row) for row in zip(*columns, strict=True)])


def _column(field: FeatureField, whole: bool, draw: np.random.Generator) -> list[Value]:
    values = [_value(field, whole, draw) for _ in range(ROWS)]
    if field.optional:
        missing = draw.random(ROWS) < _TENTH
        missing[int(draw.integers(ROWS))] = True
        return [None if gone else value for gone, value in zip(missing, values, strict=True)]
    return values


def _value(field: FeatureField, whole: bool, draw: np.random.Generator) -> Any:
    match field.kind:
        case "boolean":
            return bool(draw.integers(2))
        case "category":
            return str(draw.choice(field.choices)) if field.choices else f"text {draw.integers(100)}"
        case "timestamp":
            return _YEAR_2000 + float(draw.random()) * _YEARS
        case "vector":
            drawn = draw.integers(0, 2, field.length) if whole else draw.normal(size=field.length)
            return drawn.astype(np.float32).tobytes()
        case "number":
            return _inside(field, float(draw.integers(2)) if whole else float(draw.normal()), draw)


def _inside(field: FeatureField, value: float, draw: np.random.Generator) -> float:
    """Return a value within a field's bounds: the one given if it is, else one between the bounds."""
    low = max((bound for bound in (field.ge, field.gt) if bound is not None), default=-np.inf)
    high = min((bound for bound in (field.le, field.lt) if bound is not None), default=np.inf)
    if low < value < high:
        return value
    if np.isfinite(low) and np.isfinite(high):
        return low + (high - low) * float(draw.uniform(0.25, 0.75))
    return low + abs(value) + 0.5 if np.isfinite(low) else high - abs(value) - 0.5
