"""Features that come as columns: the same rows as from JSON, and the same refusals."""

from datetime import datetime
from typing import Annotated, Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, TypeAdapter, ValidationError
from pydantic_core import to_json

from store.columns import rows_of
from store.encoding import Encoder
from store.errors import SchemaError
from store.schema import FLOAT32_MAX, schema_of


class Features(BaseModel):
    x: float
    limited: Annotated[float | None, Field(ge=0, lt=1)] = None
    flag: bool
    name: str
    colour: Literal["red", "blue"] = "red"
    at: datetime | None = None
    v: Annotated[list[float], Field(min_length=2, max_length=2)]


SCHEMA = schema_of(Features)
ENCODER = Encoder(SCHEMA)
JSON: TypeAdapter[list[dict[str, Any]]] = TypeAdapter(list[SCHEMA.typed_dict()])  # pyright: ignore[reportInvalidTypeForm]
GOOD: dict[str, Any] = {"x": 1.5, "limited": 0.5, "flag": True, "name": "n", "colour": "blue", "at": None, "v": [1.0, 2.0]}


def _columns(rows: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    kinds = {"x": "f8", "limited": "f8", "flag": "?", "name": "O", "colour": "O", "at": "O", "v": "f8"}
    return {
        name: np.array([row[name] for row in rows], dtype=kind).reshape(len(rows), *((2,) if name == "v" else ()))
        for name, kind in kinds.items()
    }


FINITE = st.floats(-FLOAT32_MAX, FLOAT32_MAX, width=32)
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "x": FINITE,
            "limited": st.none() | st.floats(0, 0.99),
            "flag": st.booleans(),
            "name": st.text(max_size=5),
            "colour": st.sampled_from(["red", "blue"]),
            "at": st.none() | st.datetimes(datetime(1970, 1, 2), datetime(2100, 1, 1)).map(datetime.isoformat),
            "v": st.lists(FINITE, min_size=2, max_size=2),
        }
    ),
    min_size=1,
    max_size=4,
)


@given(ROWS)
def test_columns_give_the_rows_that_json_gives(rows: list[dict[str, Any]]) -> None:
    expected = [ENCODER.row(row) for row in JSON.validate_python(rows, strict=False)]
    assert rows_of(SCHEMA, _columns(rows)) == expected


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"x": np.array([np.nan])}, "x: it holds what is no finite number"),
        ({"x": np.array([np.inf])}, "x: it holds what is no finite number"),
        ({"x": np.array([1e39])}, "x: it holds what is no finite number"),
        ({"x": np.array([True])}, "x: it must be of a numeric type, not bool"),
        ({"x": np.array(["1"], dtype=object)}, "x: it must be of a numeric type"),
        ({"x": np.array([[1.0, 2.0]])}, r"x: its shape is \[1, 2\], expected \[1\] or \[1, 1\]"),
        ({"x": np.array(1.0)}, "x: its shape is"),
        ({"limited": np.array([1.0])}, "limited: it must be < 1"),
        ({"limited": np.array([-0.1])}, "limited: it must be >= 0"),
        ({"limited": np.array([-np.inf])}, "limited: it holds what is no finite number"),
        ({"flag": np.array([1.0])}, "flag: it must be of type bool"),
        ({"name": np.array([None])}, "name: it is missing"),
        ({"name": np.array([1.0])}, "name: it must be text"),
        ({"name": np.array(["n" * 1001], dtype=object)}, "name: it is longer than 1,000 characters"),
        ({"colour": np.array(["green"], dtype=object)}, "colour: 'green' is not one of red, blue"),
        ({"at": np.array(["yesterday"], dtype=object)}, "at: "),
        ({"at": np.array(["2026-01-01"], dtype=object)}, "at: "),
        ({"v": np.array([[1.0]])}, r"v: its shape is \[1, 1\], expected \[1, 2\]"),
        ({"v": np.array([1.0, 2.0])}, r"v: its shape is \[2\], expected \[1, 2\]"),
        ({"v": np.array([[1.0, np.nan]])}, "v: it holds what is no finite number"),
        ({"y": np.array([1.0])}, "y: no feature of this name"),
        ({"name": None}, "name: it is missing"),
    ],
)
def test_what_its_field_does_not_allow_is_refused(change: dict[str, Any], says: str) -> None:
    columns = {name: column for name, column in (_columns([GOOD]) | change).items() if column is not None}
    with pytest.raises(SchemaError, match=says):
        rows_of(SCHEMA, columns)
    if all(column.ndim for column in columns.values()):
        with pytest.raises(ValidationError):
            JSON.validate_json(to_json([{name: column.tolist()[0] for name, column in columns.items()}]), strict=True)


def test_what_may_be_left_out_is_its_default_or_missing() -> None:
    columns = _columns([GOOD, GOOD])
    for name in ("limited", "colour", "at"):
        del columns[name]
    [row, _] = rows_of(SCHEMA, columns)
    assert row == ENCODER.row({"x": 1.5, "flag": True, "name": "n", "v": [1.0, 2.0]})
    with pytest.raises(SchemaError, match="no features"):
        rows_of(SCHEMA, {})


def test_whole_numbers_and_columns_of_one_are_numbers() -> None:
    columns = _columns([GOOD]) | {"x": np.array([[7]], dtype=np.uint8)}
    assert rows_of(SCHEMA, columns)[0][0] == 7.0
