"""The one place where a feature becomes a number: the same for serving and training."""

import math
import zlib
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from struct import Struct
from typing import Any, cast

import numpy as np

from store.schema import FeatureField, Kind, Row, Schema, Value

_CACHE_LIMIT = 65_536
_DAY = 86_400.0


@dataclass(frozen=True, slots=True)
class Encoded:
    """Network inputs: numbers float32 [rows, schema.numbers], NaN: missing; categories int64 [rows, len(schema.buckets)]."""

    numbers: np.ndarray
    categories: np.ndarray

    def __len__(self) -> int:
        return len(self.numbers)

    def take(self, rows: Sequence[int]) -> "Encoded":
        return Encoded(self.numbers[rows], self.categories[rows])


class Encoder:
    """Turns validated features into logged rows, and rows into network inputs. Not thread-safe: it caches hashes."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self._names = tuple((field.name, field.default) for field in schema.fields)
        self._logged = tuple(_as_logged(field) for field in schema.fields)
        self._plain = not any(self._logged)
        self._columns = [(field, dict[str | None, int]({None: 0})) for field in schema.fields]

    def row(self, features: Mapping[str, Any]) -> Row:
        """Return the features as they are logged, in the schema's order; streamed ones are None until they are filled in."""
        if self._plain:
            return [features.get(name, default) for name, default in self._names]
        row: Row = []
        for (name, default), convert in zip(self._names, self._logged, strict=True):
            value = features.get(name, default)
            row.append(value if convert is None or value is None else convert(value))
        return row

    def features(self, row: Row) -> dict[str, Any]:
        """Return a logged row as a request would carry it: without what the platform works out itself."""
        return {field.name: _requested(field.kind, value) for field, value in zip(self.schema.asked, row, strict=False)}

    def encode(self, rows: Sequence[Row]) -> Encoded:
        """Return the network inputs of logged rows, worked out column by column."""
        blocks: list[np.ndarray] = []
        scalars: list[Sequence[Any]] = []  # columns of numbers that are not in a block yet
        codes: list[Sequence[int]] = []
        columns: Iterable[Sequence[Any]] = zip(*rows, strict=True) if rows else [()] * len(self._columns)
        for (field, cache), values in zip(self._columns, columns, strict=True):
            if field.kind == "category":
                codes.append(_codes(field, cache, values))
            elif field.kind == "timestamp":
                sines, cosines, hours, weekdays = zip(*map(_clock, values), strict=True) if rows else ((), (), (), ())
                scalars += [sines, cosines]
                codes += [hours, weekdays]
            elif field.kind == "vector":
                blocks += [_matrix(scalars, np.float32, len(rows))] if scalars else []
                scalars = []
                blocks.append(_vectors(values, field.length))
            else:
                scalars.append(values)
        if scalars or not blocks:
            blocks.append(_matrix(scalars, np.float32, len(rows)))
        numbers = blocks[0] if len(blocks) == 1 else np.concatenate(blocks, axis=1)
        return Encoded(numbers, _matrix(codes, np.int64, len(rows)))


def _codes(field: FeatureField, cache: dict[str | None, int], values: Sequence[str | None]) -> list[int]:
    """Return the embedding rows of one column of categories; hashing is remembered."""
    try:
        return [cache[value] for value in values]
    except KeyError:
        pass
    if len(cache) + len(values) > _CACHE_LIMIT:  # a hostile client must not grow this without bound
        cache.clear()
        cache[None] = 0
    codes: list[int] = []
    for value in values:  # another thread may clear the cache meanwhile
        code = 0 if value is None else cache.get(value)
        if code is None:
            code = cache[value] = bucket_of(field.name, str(value), field.buckets)
        codes.append(code)
    return codes


def _matrix(columns: Sequence[Sequence[Any]], dtype: type[np.generic], rows: int) -> np.ndarray:
    """Return columns as a matrix [rows, columns]; None becomes NaN."""
    if not columns:
        return np.zeros((rows, 0), dtype)
    return np.ascontiguousarray(np.array(columns, dtype=dtype).T)


def _vectors(values: Sequence[bytes | None], length: int) -> np.ndarray:
    if None in values:
        missing = np.full(length, np.nan, dtype=np.float32).tobytes()
        values = [missing if value is None else value for value in values]
    return np.frombuffer(bytearray().join(cast(Sequence[bytes], values)), dtype=np.float32).reshape(len(values), length)


def bucket_of(name: str, value: str, buckets: int) -> int:
    """Return the embedding row of a category: 1 to buckets - 1, the same in every process; 0 is the missing value."""
    return 1 + zlib.crc32(f"{name}={value}".encode("utf-8", "surrogatepass")) % (buckets - 1)


def _as_logged(field: FeatureField) -> Callable[[Any], Value] | None:
    """Return what turns a validated value of a feature into the one that is logged; None where they are the same."""
    if field.kind == "timestamp":
        # The wall clock is what carries a daily rhythm, so an offset is dropped and not applied.
        return lambda value: value.replace(tzinfo=UTC).timestamp()
    if field.kind == "vector":
        pack = Struct(f"{field.length}f").pack
        return lambda value: pack(*value)
    return None


def _requested(kind: Kind, value: Any) -> Any:
    if value is None:
        return None
    if kind == "timestamp":
        return datetime.fromtimestamp(value, UTC).replace(tzinfo=None).isoformat()
    if kind == "vector":
        return array("f", value).tolist()
    return value


def _clock(value: float | None) -> tuple[float, float, int, int]:
    """Return sine and cosine of the time of day, and the embedding rows of hour and weekday."""
    if value is None:
        return math.nan, math.nan, 0, 0
    second = value % _DAY
    # No place in the year: from less than a year of data a model could only extrapolate it.
    day = second / _DAY * math.tau
    # 1970-01-01 was a Thursday, day 3 of a week that starts on Monday.
    return math.sin(day), math.cos(day), 1 + int(second // 3600), 1 + int(value // _DAY + 3) % 7
