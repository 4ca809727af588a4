"""Features: what a model is asked with, how it is checked, and the one place where a feature becomes a number.

A `Schema` is made from a pydantic class and is plain data from then on: it is kept in the store, so a replica checks and
encodes requests without importing its user's code. Serving and training encode with the same `Encoder`.

    kind       python                          numbers                          categories
    number     float, int                      1 (missing: NaN)                 -
    boolean    bool                            1 (0, 1; missing: NaN)           -
    category   str, Literal, Enum              -                                1 (missing: 0)
    timestamp  datetime                        2 (sine, cosine of the day)      2 (hour, weekday; missing: 0)
    vector     list[float] of a fixed length   its length (missing: NaN)        -
"""

import enum
import math
import types
import typing
import zlib
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, NotRequired, cast

import numpy as np
from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from typing_extensions import TypedDict

from store.errors import SchemaError

Kind = Literal["number", "boolean", "category", "timestamp", "vector"]
Value = float | str | bool | bytes | None
"""One feature as logged: a timestamp is its wall clock in seconds since 1970, a vector its float32 bytes."""
Row = list[Value]

FLOAT32_MAX = 3.4028234663852886e38
MAX_TEXT = 1000
HOUR_BUCKETS, WEEKDAY_BUCKETS = 25, 8
_CACHE_LIMIT = 65_536
_DAY = 86_400.0


@dataclass(frozen=True)
class Buckets:
    """Annotation of a category: how many rows its hashed embedding has (default 1024)."""

    count: int


class FeatureField(BaseModel):
    """One named feature. `buckets` counts the embedding rows of a category, 0 for the missing value included."""

    model_config = ConfigDict(frozen=True)

    name: str
    kind: Kind
    optional: bool = False
    length: int = 0
    buckets: int = 0
    choices: tuple[str, ...] = ()
    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None
    default: bool | float | str | None = None
    """What stands in for the field where a request leaves it out."""

    @property
    def numbers(self) -> int:
        """How many columns this field takes in the numbers matrix."""
        return {"number": 1, "boolean": 1, "category": 0, "timestamp": 2, "vector": self.length}[self.kind]

    @property
    def category_buckets(self) -> tuple[int, ...]:
        """The bucket counts of this field's columns in the categories matrix."""
        return {"category": (self.buckets,), "timestamp": (HOUR_BUCKETS, WEEKDAY_BUCKETS)}.get(self.kind, ())

    def annotation(self) -> Any:
        """The strict type that a request's value must have."""
        bounds = Field(ge=self.ge, gt=self.gt, le=self.le, lt=self.lt)
        number = Annotated[float, Field(ge=-FLOAT32_MAX, le=FLOAT32_MAX, allow_inf_nan=False)]
        kinds: dict[str, Any] = {
            "number": Annotated[number, bounds],
            "boolean": bool,
            "category": Literal[self.choices] if self.choices else Annotated[str, Field(max_length=MAX_TEXT)],
            "timestamp": datetime,
            "vector": Annotated[list[number], Field(min_length=self.length, max_length=self.length)],
        }
        return kinds[self.kind] | None if self.optional else kinds[self.kind]


class Schema(BaseModel):
    """All features of a model, in order."""

    model_config = ConfigDict(frozen=True)

    fields: tuple[FeatureField, ...]

    @property
    def numbers(self) -> int:
        return sum(field.numbers for field in self.fields)

    @property
    def buckets(self) -> tuple[int, ...]:
        """Embedding rows of every column of the categories matrix."""
        return tuple(count for field in self.fields for count in field.category_buckets)

    def typed_dict(self) -> Any:
        """A strict TypedDict of the features, for pydantic to validate requests with."""
        keys = {
            field.name: NotRequired[field.annotation()] if field.optional or field.default is not None else field.annotation()
            for field in self.fields
        }
        features = TypedDict("features", keys)  # pyright: ignore[reportArgumentType, reportGeneralTypeIssues, reportUnknownVariableType]
        features.__pydantic_config__ = ConfigDict(extra="forbid", strict=True)  # pyright: ignore[reportAttributeAccessIssue]
        return features


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
        self._plain = all(field.kind not in ("timestamp", "vector") for field in schema.fields)
        self._kinds: tuple[Kind, ...] = tuple(field.kind for field in schema.fields)
        self._columns = [(field, dict[str | None, int]({None: 0})) for field in schema.fields]

    def row(self, features: Mapping[str, Any]) -> Row:
        """Return the features as they are logged, in the schema's order."""
        if self._plain:
            return [features.get(name, default) for name, default in self._names]
        return [
            _logged(kind, features.get(name, default)) for (name, default), kind in zip(self._names, self._kinds, strict=True)
        ]

    def features(self, row: Row) -> dict[str, Any]:
        """Return a logged row as a request would carry it."""
        return {field.name: _requested(field.kind, value) for field, value in zip(self.schema.fields, row, strict=True)}

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
    for value in values:
        if value is not None and value not in cache:
            cache[value] = bucket_of(field.name, value, field.buckets)
    return [cache[value] for value in values]


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


def _logged(kind: Kind, value: Any) -> Value:
    if value is None:
        return None
    if kind == "timestamp":
        # The wall clock is what carries a daily rhythm, so an offset is dropped and not applied.
        return value.replace(tzinfo=UTC).timestamp()
    if kind == "vector":
        return array("f", value).tobytes()
    return value


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


def schema_of(features: type[BaseModel]) -> Schema:
    """Return the schema of a pydantic class.

    Raises:
        SchemaError: a field has a type that no kind covers, or the class has validators, which cannot travel to replicas.
    """
    decorators = features.__pydantic_decorators__
    if decorators.field_validators or decorators.model_validators or decorators.validators:
        raise SchemaError(
            f"{features.__name__} has validators: replicas check requests by the schema alone. "
            "Use types and the bounds of pydantic.Field (ge, gt, le, lt) instead."
        )
    fields = tuple(
        _with_default(features.__name__, _field(features.__name__, name, info), info)
        for name, info in features.model_fields.items()
    )
    if not fields:
        raise SchemaError(f"{features.__name__} has no fields: a model needs at least one feature")
    return Schema(fields=fields)


def _field(owner: str, name: str, info: FieldInfo) -> FeatureField:
    annotation, optional, inner = _without_none(info.annotation)
    marks = {type(mark): mark for mark in (*info.metadata, *inner)}
    bounds = {
        key: float(getattr(marks[kind], key)) for kind, key in ((Ge, "ge"), (Gt, "gt"), (Le, "le"), (Lt, "lt")) if kind in marks
    }
    if annotation is bool:
        return FeatureField(name=name, kind="boolean", optional=optional)
    if annotation in (int, float):
        return FeatureField(name=name, kind="number", optional=optional).model_copy(update=bounds)
    if annotation is datetime:
        return FeatureField(name=name, kind="timestamp", optional=optional)
    if typing.get_origin(annotation) is list and typing.get_args(annotation) in ((float,), (int,)):
        return FeatureField(name=name, kind="vector", optional=optional, length=_length(owner, name, marks))
    choices = _choices(annotation)
    if annotation is str or choices:
        buckets = typing.cast(Buckets, marks.get(Buckets, Buckets(1024))).count
        if buckets < 2:
            raise SchemaError(f"{owner}.{name}: Buckets({buckets}) is too few, 2 is the least")
        return FeatureField(name=name, kind="category", optional=optional, buckets=buckets, choices=choices)
    raise SchemaError(
        f"{owner}.{name}: no feature kind for {info.annotation!r}. Use float, int, bool, str, Literal, Enum of strings, "
        "datetime, or list[float] with Field(min_length=n, max_length=n); add '| None' where it may be missing."
    )


def _with_default(owner: str, field: FeatureField, info: FieldInfo) -> FeatureField:
    """Let a default of the class travel with the schema: replicas know nothing else of the class."""
    given = None if info.is_required() else info.get_default(call_default_factory=True, validated_data={})
    if given is None:
        return field
    default = given.value if isinstance(given, enum.Enum) else given
    try:
        TypeAdapter(field.annotation()).validate_python(default, strict=True)
    except ValidationError as error:
        raise SchemaError(f"{owner}.{field.name}: the default {default!r} is not valid: {error.errors()[0]['msg']}") from None
    if field.kind in ("timestamp", "vector"):
        raise SchemaError(f"{owner}.{field.name}: a {field.kind} has no default but None; write '| None = None'")
    return field.model_copy(update={"default": float(default) if field.kind == "number" else default})


def _without_none(annotation: Any) -> tuple[Any, bool, Sequence[Any]]:
    """Return the type in `T | None`, whether there was a None, and the marks of an Annotated T."""
    parts = typing.get_args(annotation)
    if typing.get_origin(annotation) not in (typing.Union, types.UnionType) or types.NoneType not in parts:
        return annotation, False, ()
    rest = [part for part in parts if part is not types.NoneType]
    if len(rest) > 1 or typing.get_origin(rest[0]) is not Annotated:
        return (rest[0] if len(rest) == 1 else annotation), len(rest) == 1, ()
    inner, *marks = typing.get_args(rest[0])
    return inner, True, [part for mark in marks for part in (mark.metadata if isinstance(mark, FieldInfo) else (mark,))]


def _length(owner: str, name: str, marks: Mapping[type, Any]) -> int:
    low, high = marks.get(MinLen), marks.get(MaxLen)
    if low is None or high is None or low.min_length != high.max_length or high.max_length < 1:
        raise SchemaError(f"{owner}.{name}: a vector has a fixed length: Field(min_length=n, max_length=n)")
    return int(high.max_length)


def _choices(annotation: Any) -> tuple[str, ...]:
    if typing.get_origin(annotation) is Literal:
        values = typing.get_args(annotation)
    elif isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        values = tuple(member.value for member in annotation)
    else:
        return ()
    return tuple(values) if all(isinstance(value, str) for value in values) else ()
