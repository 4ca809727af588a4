"""Features: what a model is asked with, and how it is checked.

A `Schema` is made from a pydantic class and is plain data from then on: it is kept in the store, so a replica checks and
encodes requests without importing its user's code. Serving and training encode with the same `Encoder` (store/encoding.py).

    kind       python                          numbers                          categories
    number     float, int                      1 (missing: NaN)                 -
    boolean    bool                            1 (0, 1; missing: NaN)           -
    category   str, Literal, Enum              -                                1 (missing: 0)
    timestamp  datetime                        2 (sine, cosine of the day)      2 (hour, weekday; missing: 0)
    vector     list[float] of a fixed length   its length (missing: NaN)        -
"""

import enum
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal, NotRequired

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
    streamed: bool = False
    """Whether the platform works it out itself (store/streaming.py): no request may send it."""

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
    """All features of a model, in order of the columns that they become."""

    model_config = ConfigDict(frozen=True)

    fields: tuple[FeatureField, ...]

    @property
    def numbers(self) -> int:
        return sum(field.numbers for field in self.fields)

    @property
    def asked(self) -> tuple[FeatureField, ...]:
        """The fields that requests send: all but the streamed ones, which come last."""
        return tuple(field for field in self.fields if not field.streamed)

    @property
    def buckets(self) -> tuple[int, ...]:
        """Embedding rows of every column of the categories matrix."""
        return tuple(count for field in self.fields for count in field.category_buckets)

    def typed_dict(self) -> Any:
        """A strict TypedDict of the features, for pydantic to validate requests with."""
        keys = {
            field.name: NotRequired[field.annotation()] if field.optional or field.default is not None else field.annotation()
            for field in self.asked
        }
        features = TypedDict("features", keys)  # pyright: ignore[reportArgumentType, reportGeneralTypeIssues, reportUnknownVariableType]
        features.__pydantic_config__ = ConfigDict(extra="forbid", strict=True)  # pyright: ignore[reportAttributeAccessIssue]
        return features


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
