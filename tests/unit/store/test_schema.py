"""Features: what may be one, and that a value is the same number wherever it is encoded."""

import enum
import math
from array import array
from datetime import datetime
from typing import Annotated, Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, TypeAdapter, ValidationError, create_model, field_validator

from store import encoding as encoding_module
from store.encoding import Encoder, bucket_of
from store.errors import SchemaError
from store.schema import FLOAT32_MAX, Buckets, Schema, schema_of


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Everything(BaseModel):
    """One field of each kind, and one of each that may be missing."""

    number: float
    count: int
    flag: bool
    name: Annotated[str, Buckets(32)]
    choice: Literal["x", "y"]
    colour: Colour
    when: datetime
    vector: Annotated[list[float], Field(min_length=3, max_length=3)]
    maybe_number: float | None = None
    maybe_flag: bool | None = None
    maybe_name: str | None = None
    maybe_when: datetime | None = None
    maybe_vector: Annotated[list[float], Field(min_length=2, max_length=2)] | None = None


SCHEMA = schema_of(Everything)
ADAPTER = TypeAdapter[dict[str, Any]](SCHEMA.typed_dict())
FULL: dict[str, Any] = {
    "number": 1.5, "count": 2, "flag": True, "name": "n", "choice": "x", "colour": "red",
    "when": datetime(2013, 1, 1, 6, 30), "vector": [1.0, 2.0, 3.0],
}  # fmt: skip

floats = st.floats(width=32, allow_nan=False, allow_infinity=False)
# Redis and JSON hold any second of the years a datetime can name.
moments = st.datetimes(min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30)).map(
    lambda moment: moment.replace(microsecond=0, fold=0)
)
features = st.fixed_dictionaries(
    {
        "number": floats,
        "count": st.integers(-(2**53), 2**53),
        "flag": st.booleans(),
        "name": st.text(max_size=30),
        "choice": st.sampled_from(["x", "y"]),
        "colour": st.sampled_from(["red", "blue"]),
        "when": moments,
        "vector": st.lists(floats, min_size=3, max_size=3),
    },
    optional={
        "maybe_number": st.none() | floats,
        "maybe_flag": st.none() | st.booleans(),
        "maybe_name": st.none() | st.text(max_size=30),
        "maybe_when": st.none() | moments,
        "maybe_vector": st.none() | st.lists(floats, min_size=2, max_size=2),
    },
)


def _encoder() -> Encoder:
    return Encoder(SCHEMA)


def test_each_kind_takes_its_columns() -> None:
    kinds = {field.name: (field.kind, field.numbers, field.category_buckets) for field in SCHEMA.fields}
    assert kinds["number"] == kinds["count"] == kinds["maybe_number"] == ("number", 1, ())
    assert kinds["flag"] == ("boolean", 1, ())
    assert kinds["name"] == ("category", 0, (32,))
    assert kinds["choice"] == kinds["colour"] == kinds["maybe_name"] == ("category", 0, (1024,))
    assert kinds["when"] == ("timestamp", 2, (25, 8))
    assert kinds["vector"] == ("vector", 3, ())
    encoded = _encoder().encode([_encoder().row(FULL)])
    assert encoded.numbers.shape == (1, SCHEMA.numbers)
    assert encoded.categories.shape == (1, len(SCHEMA.buckets))
    assert (encoded.numbers.dtype, encoded.categories.dtype) == (np.float32, np.int64)


def test_values_land_in_their_columns() -> None:
    encoded = _encoder().encode([_encoder().row(FULL)])
    quarter = 6.5 / 24 * math.tau
    expected = [1.5, 2.0, 1.0, math.sin(quarter), math.cos(quarter), 1.0, 2.0, 3.0]
    np.testing.assert_allclose(encoded.numbers[0, : len(expected)], expected, rtol=1e-6)
    # 2013-01-01 was a Tuesday.
    assert encoded.categories[0, 3:5].tolist() == [1 + 6, 1 + 1]
    assert encoded.categories[0, 0] == bucket_of("name", "n", 32)


def test_what_is_missing_is_nan_or_bucket_zero() -> None:
    encoded = _encoder().encode([_encoder().row(FULL)])
    assert np.isnan(encoded.numbers[0, 8:]).all()
    assert not np.isnan(encoded.numbers[0, :8]).any()
    assert encoded.categories[0, 5:].tolist() == [0, 0, 0]


def test_no_rows_have_the_right_shape() -> None:
    encoded = _encoder().encode([])
    assert (encoded.numbers.shape, encoded.categories.shape) == ((0, SCHEMA.numbers), (0, len(SCHEMA.buckets)))
    assert len(encoded) == 0


@given(features)
def test_any_valid_features_come_back_from_their_row(asked: dict[str, Any]) -> None:
    encoder = _encoder()
    row = encoder.row(ADAPTER.validate_python(asked))
    again = encoder.row(ADAPTER.validate_json(_json(encoder.features(row))))
    assert again == row
    assert [value for value in row if isinstance(value, float) and not math.isfinite(value)] == []


@given(st.lists(features, min_size=1, max_size=4))
def test_a_schema_that_travelled_encodes_the_same(asked: list[dict[str, Any]]) -> None:
    here, there = _encoder(), Encoder(Schema.model_validate_json(SCHEMA.model_dump_json()))
    rows = [here.row(ADAPTER.validate_python(one)) for one in asked]
    assert rows == [there.row(ADAPTER.validate_python(one)) for one in asked]
    a, b = here.encode(rows), there.encode(rows)
    np.testing.assert_array_equal(a.numbers, b.numbers)
    np.testing.assert_array_equal(a.categories, b.categories)
    assert (a.categories >= 0).all()
    assert (a.categories < np.array(SCHEMA.buckets)).all()


@given(st.text(), st.text(), st.integers(2, 10_000))
def test_a_category_never_hashes_to_the_missing_bucket(name: str, value: str, buckets: int) -> None:
    assert 1 <= bucket_of(name, value, buckets) < buckets


def test_buckets_are_the_same_in_every_process() -> None:
    # Weights on disk were learned under these numbers: a change of hash would silently shuffle them.
    assert [bucket_of("carrier", value, 64) for value in ("AA", "UA", "", "\ud800")] == [12, 33, 51, 59]


def test_the_cache_of_categories_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding_module, "_CACHE_LIMIT", 100)
    encoder = _encoder()
    names = [f"name {number}" for number in range(1000)]
    for start in range(0, len(names), 30):
        some = names[start : start + 30]
        encoded = encoder.encode([encoder.row(FULL | {"name": name}) for name in some])
        assert encoded.categories[:, 0].tolist() == [bucket_of("name", name, 32) for name in some]
    caches: list[dict[str | None, int]] = [cache for _, cache in encoder._columns]  # pyright: ignore[reportPrivateUsage]
    assert max(map(len, caches)) <= 100


def test_a_vector_is_logged_as_its_float32_bytes() -> None:
    row = _encoder().row(FULL | {"vector": [0.1, -0.0, FLOAT32_MAX]})
    packed = row[7]
    assert isinstance(packed, bytes)
    assert packed == array("f", [0.1, -0.0, FLOAT32_MAX]).tobytes()
    assert _encoder().encode([row]).numbers[0, 5:8].tolist() == array("f", packed).tolist()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("number", "1"), ("number", True), ("number", math.nan), ("number", math.inf), ("number", 1e39),
        ("number", -1e39), ("number", None), ("count", "2"), ("flag", 1), ("name", 3), ("name", "x" * 1001),
        ("choice", "z"), ("colour", "green"), ("when", "yesterday"), ("vector", [1.0, 2.0]),
        ("vector", [1.0, 2.0, 3.0, 4.0]), ("vector", [1.0, 2.0, math.nan]), ("vector", [1.0, 2.0, 1e39]),
        ("vector", [1.0, "2", 3.0]), ("maybe_vector", [1.0]), ("unheard of", 1.0),
    ],
)  # fmt: skip
def test_a_value_of_the_wrong_kind_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ValidationError) as caught:
        ADAPTER.validate_python(FULL | {name: value})
    assert {error["loc"][0] for error in caught.value.errors()} == {name}


def test_a_field_that_is_not_optional_must_be_there() -> None:
    for name in FULL:
        with pytest.raises(ValidationError, match=name):
            ADAPTER.validate_python({key: value for key, value in FULL.items() if key != name})


def test_bounds_hold_on_replicas_too() -> None:
    class Bounded(BaseModel):
        low: Annotated[float, Field(ge=0, lt=1)]
        high: Annotated[int, Field(gt=0, le=10)]
        maybe: Annotated[float, Field(ge=0)] | None = None

    travelled = Schema.model_validate_json(schema_of(Bounded).model_dump_json())
    adapter = TypeAdapter[Any](travelled.typed_dict())
    assert adapter.validate_python({"low": 0, "high": 10})
    for low, high, maybe in ((-0.1, 1, 0), (1, 1, 0), (0, 0, 0), (0, 11, 0), (0, 1, -1)):
        with pytest.raises(ValidationError):
            adapter.validate_python({"low": low, "high": high, "maybe": maybe})


@pytest.mark.parametrize(
    "annotation",
    [
        bytes, dict[str, float], list[float], list[str], float | str, Literal[1, 2], object, tuple[float, float],
        Annotated[list[float], Field(min_length=1, max_length=2)], Annotated[list[float], Field(min_length=2)],
        Annotated[list[float], Field(min_length=0, max_length=0)], Annotated[str, Buckets(1)], Annotated[str, Buckets(0)],
    ],
)  # fmt: skip
def test_a_type_that_no_kind_covers_is_refused_by_name(annotation: Any) -> None:
    bad = type("Bad", (BaseModel,), {"__annotations__": {"fine": float, "odd": annotation}})
    with pytest.raises(SchemaError, match=r"Bad\.odd"):
        schema_of(bad)


def test_a_class_without_fields_is_refused() -> None:
    with pytest.raises(SchemaError, match="no fields"):
        schema_of(type("Empty", (BaseModel,), {}))


def test_validators_are_refused_as_they_cannot_travel() -> None:
    class Picky(BaseModel):
        x: float

        @field_validator("x")
        @classmethod
        def positive(cls, x: float) -> float:
            return abs(x)

    with pytest.raises(SchemaError, match="validators"):
        schema_of(Picky)


def _json(asked: dict[str, Any]) -> bytes:
    return TypeAdapter(dict[str, Any]).dump_json(asked)


class Defaults(BaseModel):
    price: float = 3
    flag: bool = True
    size: Literal["s", "m"] = "m"
    maybe: float | None = 2.5
    tags: str = Field(default_factory=lambda: "none")


def test_a_default_stands_in_for_what_is_left_out() -> None:
    schema = Schema.model_validate_json(schema_of(Defaults).model_dump_json())
    encoder, adapter = Encoder(schema), TypeAdapter(schema.typed_dict())
    assert encoder.row(adapter.validate_python({})) == [3, True, "m", 2.5, "none"]
    given = {"price": 1.0, "flag": False, "size": "s", "maybe": None, "tags": "a"}
    assert encoder.row(adapter.validate_python(given)) == [1.0, False, "s", None, "a"]


@pytest.mark.parametrize(
    ("annotation", "default"),
    [
        (float, "3"),
        (float, math.inf),
        (Literal["a"], "b"),
        (Annotated[float, Field(le=1)], 2.0),
        (datetime, datetime(2026, 1, 1)),
    ],
)
def test_a_default_that_no_request_could_send_is_refused_by_name(annotation: Any, default: Any) -> None:
    with pytest.raises(SchemaError, match=r"Bad\.field: "):
        schema_of(create_model("Bad", field=(annotation, default)))
