"""Expectations as data: what makes sense, what fits a model, and who changes them."""

from datetime import datetime
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, Field, ValidationError

from store.errors import SchemaError
from store.expectations import Expectation, Expectations
from store.schema import schema_of


class Features(BaseModel):
    price: float
    country: str | None = None
    shown_at: datetime
    picture: Annotated[list[float], Field(min_length=2, max_length=2)]


SCHEMA = schema_of(Features)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"kind": "range"}, "needs 'low', 'high' or both"),
        ({"kind": "range", "low": 2, "high": 1}, "'low' is above 'high'"),
        ({"kind": "range", "low": float("nan")}, "finite"),
        ({"kind": "range", "low": 0, "values": ["a"]}, "nothing else"),
        ({"kind": "categories"}, "needs 'values'"),
        ({"kind": "categories", "values": ["a"], "high": 1}, "nothing else"),
        ({"kind": "missing"}, "needs 'most_missing'"),
        ({"kind": "missing", "most_missing": 1.1}, "less than or equal to 1"),
        ({"kind": "missing", "most_missing": 0.1, "action": "refuse"}, "share is that of a window"),
        ({"kind": "mean", "low": 1}, "kind"),
        ({"kind": "range", "low": 1, "slack": 1}, "slack"),
    ],
)
def test_what_makes_no_sense_is_refused_in_words(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        Expectation.model_validate({"feature": "price"} | given)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ([{"feature": "cost", "kind": "range", "low": 0}], "no feature 'cost' among price, country"),
        ([{"feature": "country", "kind": "range", "low": 0}], "'country' is a category, and 'range' is for a number"),
        ([{"feature": "price", "kind": "age", "low": 0}], "'age' is for a timestamp"),
        ([{"feature": "price", "kind": "categories", "values": ["a"]}], "'categories' is for a category"),
        ([{"feature": "price", "kind": "missing", "most_missing": 0}], "can never be missing"),
        ([{"feature": "price", "kind": "range", "low": 0}] * 2, "two of kind 'range' for 'price'"),
    ],
)
def test_what_is_not_about_the_models_features_is_refused(given: list[dict[str, Any]], says: str) -> None:
    with pytest.raises(SchemaError, match=says):
        Expectations.model_validate({"expectations": given}).check(SCHEMA)


def test_each_kind_has_its_features() -> None:
    given = [
        {"feature": "price", "kind": "range", "low": 0},
        {"feature": "country", "kind": "categories", "values": ["VN"]},
        {"feature": "country", "kind": "missing", "most_missing": 0.1},
        {"feature": "shown_at", "kind": "age", "high": 60},
        {"feature": "picture", "kind": "norm", "low": 0.9, "high": 1.1},
    ]
    every = Expectations.model_validate({"expectations": given})
    every.check(SCHEMA)
    assert [one.words() for one in every.expectations] == [
        "at least 0", "one of 'VN'", "missing in at most 10% of rows", "at most 60 s before the prediction",
        "a norm from 0.9 to 1.1",
    ]  # fmt: skip


def test_words_are_short_and_harm_no_terminal() -> None:
    values = ("\x1b[31mred", *(f"value {number}" * 10 for number in range(50)))
    words = Expectation(feature="country", kind="categories", values=values).words()
    assert words.isprintable()
    assert len(words) < 500
    assert words.endswith("or one of 43 more")
