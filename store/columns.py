"""Features as columns, an array for all rows of a request: checked as strictly as a request's JSON, and made into rows."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from math import isnan
from typing import Any

import numpy as np
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import to_json

from store.errors import SchemaError
from store.schema import FLOAT32_MAX, MAX_TEXT, FeatureField, Kind, Row, Schema, Value

_MOMENTS = TypeAdapter(list[datetime], config=ConfigDict(strict=True))


def rows_of(schema: Schema, columns: Mapping[str, np.ndarray]) -> list[Row]:
    """Return rows as they are logged.

    Args:
        columns: by the field's name, [rows] or [rows, 1], a vector [rows, length]. Numbers and vectors are of a numeric type,
            booleans bool, categories and timestamps (ISO 8601) objects: str or None. NaN is a missing number.

    Raises:
        SchemaError: a column is unknown, missing, of another shape or type, or holds what its field does not allow.
    """
    known = {field.name for field in schema.asked}
    if unknown := next((name for name in columns if name not in known), None):
        raise SchemaError(f"{unknown[:80]}: no feature of this name; there are {', '.join(sorted(known))}")
    if not columns:
        raise SchemaError(f"no features; expected {', '.join(field.name for field in schema.asked)}")
    if scalar := next((name for name, column in columns.items() if not column.ndim), None):
        raise SchemaError(f"{scalar}: its shape is [], expected one value for each row")
    count = len(next(iter(columns.values())))
    made = [_column(field, columns.get(field.name), count) for field in schema.fields]
    return [list(values) for values in zip(*made, strict=True)]


def _column(field: FeatureField, column: np.ndarray | None, count: int) -> list[Value]:
    if column is None:
        if field.default is None and not field.optional:
            raise SchemaError(f"{field.name}: it is missing")
        return [field.default] * count
    width = field.length if field.kind == "vector" else 1
    if column.shape != (count, width) and (column.ndim != 1 or len(column) != count or width != 1):
        expected = f"[{count}, {width}]" if field.kind == "vector" else f"[{count}] or [{count}, 1]"
        raise SchemaError(f"{field.name}: its shape is {list(column.shape)}, expected {expected}")
    return _READERS[field.kind](field, column if field.kind == "vector" else column.reshape(count))


def _numbers(field: FeatureField, column: np.ndarray) -> list[Value]:
    values = _finite(field, column)
    for bound, holds, says in (
        (field.ge, np.greater_equal, ">="),
        (field.gt, np.greater, ">"),
        (field.le, np.less_equal, "<="),
        (field.lt, np.less, "<"),
    ):
        if bound is not None and not (holds(values, bound) | np.isnan(values)).all():
            raise SchemaError(f"{field.name}: it must be {says} {bound:g}")
    return [None if isnan(value) else value for value in values.tolist()] if field.optional else values.tolist()


def _vectors(field: FeatureField, column: np.ndarray) -> list[Value]:
    values = _finite(field, column)
    if np.isnan(values).any():
        raise SchemaError(f"{field.name}: it holds what is no finite number")
    single = np.ascontiguousarray(values, dtype=np.float32)
    return [row.tobytes() for row in single]


def _finite(field: FeatureField, column: np.ndarray) -> np.ndarray:
    """Return float64 numbers; NaN stands only where the field may be missing."""
    if column.dtype.kind not in "fiu":
        raise SchemaError(f"{field.name}: it must be of a numeric type, not {column.dtype.name}")
    values = column.astype(np.float64)
    missing = np.isnan(values)
    if (missing.any() and not field.optional) or not (missing | (np.abs(values) <= FLOAT32_MAX)).all():
        raise SchemaError(f"{field.name}: it holds what is no finite number")
    return values


def _booleans(field: FeatureField, column: np.ndarray) -> list[Value]:
    if column.dtype != np.bool_:
        raise SchemaError(f"{field.name}: it must be of type bool, not {column.dtype.name}")
    return column.tolist()


def _categories(field: FeatureField, column: np.ndarray) -> list[Value]:
    values = _texts(field, column)
    choices = set(field.choices)
    for value in values:
        if value is not None and choices and value not in choices:
            raise SchemaError(f"{field.name}: '{value[:80]}' is not one of {', '.join(field.choices)[:300]}")
    return [*values]


def _timestamps(field: FeatureField, column: np.ndarray) -> list[Value]:
    values = _texts(field, column)
    try:
        # As JSON, by whose rules requests are read: a date without a time is none.
        moments = iter(_MOMENTS.validate_json(to_json([value for value in values if value is not None])))
    except ValidationError as error:
        raise SchemaError(f"{field.name}: {error.errors(include_input=False)[0]['msg']}") from None
    # As in requests' JSON: the wall clock counts, an offset is dropped.
    return [None if value is None else next(moments).replace(tzinfo=UTC).timestamp() for value in values]


def _texts(field: FeatureField, column: np.ndarray) -> list[str | None]:
    if column.dtype != np.object_:
        raise SchemaError(f"{field.name}: it must be text, not {column.dtype.name}")
    values: list[Any] = column.tolist()
    for value in values:
        if value is None and not field.optional:
            raise SchemaError(f"{field.name}: it is missing")
        if value is not None and len(value) > MAX_TEXT:
            raise SchemaError(f"{field.name}: it is longer than {MAX_TEXT:,} characters")
    return values


_READERS: dict[Kind, Callable[[FeatureField, np.ndarray], list[Value]]] = {
    "number": _numbers,
    "vector": _vectors,
    "boolean": _booleans,
    "category": _categories,
    "timestamp": _timestamps,
}
