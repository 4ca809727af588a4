"""What a watch counts, shows and refuses, in requests of one row and of many."""

import threading
from datetime import datetime
from typing import Annotated, Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, Counter
from pydantic import BaseModel, Field

from serving.errors import Invalid
from serving.watch import MOST_REPORTED, Watch
from store.expectations import WINDOW, Expectations
from store.schema import Row, schema_of

AT = 1_700_000_000.0


class Features(BaseModel):
    price: float | None = None
    country: str | None = None
    shown_at: datetime | None = None
    picture: Annotated[list[float], Field(min_length=2, max_length=2)]


RANGE = {"feature": "price", "kind": "range", "low": 0, "high": 10}
COUNTRY = {"feature": "country", "kind": "categories", "values": ["VN", "JP"]}
AGE = {"feature": "shown_at", "kind": "age", "low": 0, "high": 60}
NORM = {"feature": "picture", "kind": "norm", "high": 2}
MISSING = {"feature": "price", "kind": "missing", "most_missing": 0.1}
ALL = [RANGE, COUNTRY, AGE, NORM, MISSING]


def _row(price: float | None = 5.0, country: str | None = "VN", age_s: float | None = 30.0, length: float = 1.0) -> Row:
    shown_at = None if age_s is None else AT - age_s
    return [price, country, shown_at, np.array([0.0, length], np.float32).tobytes()]


class Watched:
    def __init__(self, *expectations: dict[str, Any], **action: str) -> None:
        registry = CollectorRegistry()
        counter = Counter("violations", "", ["model", "feature", "expectation"], registry=registry)
        given = Expectations.model_validate({"expectations": [one | action for one in expectations], "revision": 3})
        self.registry = registry
        self.watch = Watch("m", schema_of(Features), given, counter)

    def counted(self) -> dict[tuple[str, str], float]:
        return {
            (sample.labels["feature"], sample.labels["expectation"]): sample.value
            for family in self.registry.collect()
            for sample in family.samples
            if sample.name == "violations_total"
        }


@pytest.mark.parametrize("rows", [1, 3, 500])
def test_what_is_as_expected_is_not_counted(rows: int) -> None:
    watched = Watched(*ALL)
    for row in (_row(), _row(0.0, "JP", 0.0), _row(10.0, None, 60.0, 2.0), _row(5.0, "VN", None)):
        watched.watch.look([row] * rows, AT)
    assert watched.counted() == {}
    assert watched.watch.told() == []


@pytest.mark.parametrize("among", [1, 3, 500])
@pytest.mark.parametrize(
    ("row", "key", "example"),
    [
        (_row(10.5), ("price", "range"), "10.5"),
        (_row(-3.4e38), ("price", "range"), "-3.4e+38"),
        (_row(country="vn"), ("country", "categories"), "'vn'"),
        (_row(country="\x1b[2J" + "y" * 990), ("country", "categories"), repr("\x1b[2J" + "y" * 36) + "…"),
        (_row(country="\ud800"), ("country", "categories"), r"'\ud800'"),
        (_row(age_s=61.0), ("shown_at", "age"), f"{AT - 61:.6g}"),
        (_row(age_s=-1e9), ("shown_at", "age"), "2.7e+09"),
        (_row(length=2.5), ("picture", "norm"), "a vector of norm 2.5"),
        (_row(length=3e38), ("picture", "norm"), "a vector of norm 3e+38"),
    ],
)
def test_what_is_not_expected_is_counted_and_shown(row: Row, key: tuple[str, str], example: str, among: int) -> None:
    watched = Watched(*ALL)
    rows = [_row()] * (among - 1)
    watched.watch.look([*rows, row], [AT] * among)
    watched.watch.look([row, *rows], AT)
    assert watched.counted() == {key: 2.0}
    [told] = watched.watch.told()
    assert (told["feature"], told["kind"], told["violations"], told["example"]) == (*key, 2, example)
    assert told["example"].encode()
    assert told["last_seen"] > AT


@pytest.mark.parametrize("among", [1, 500])
@pytest.mark.parametrize(
    ("row", "expectation", "says"),
    [
        (_row(11.0), RANGE, "'price' is 11; expected from 0 to 10"),
        (_row(country="x"), COUNTRY, "'country' is 'x'; expected one of 'VN', 'JP'"),
        (_row(None), MISSING | {"most_missing": 0}, "'price' is missing; expected never missing"),
    ],
)
def test_what_refuses_says_feature_value_and_what_is_expected(
    row: Row, expectation: dict[str, Any], says: str, among: int
) -> None:
    watched = Watched(expectation, action="refuse")
    watched.watch.look([_row()] * among, AT)
    with pytest.raises(Invalid) as refusal:
        watched.watch.look([*[_row()] * (among - 1), row], AT)
    assert str(refusal.value) == f"row {among - 1}: {says}"
    assert list(watched.counted().values()) == [1.0]


@pytest.mark.parametrize("rows", [1, 50])
def test_missing_values_are_a_matter_of_windows(rows: int) -> None:
    watched = Watched(*ALL)

    def window(missing: int) -> None:
        column = [None] * missing + [5.0] * (WINDOW - missing)
        for start in range(0, WINDOW, rows):
            watched.watch.look([_row(price) for price in column[start : start + rows]], AT)

    window(WINDOW // 10)
    assert watched.counted() == {}
    window(WINDOW // 10 + 1)
    assert watched.counted() == {("price", "missing"): 1.0}
    [told] = watched.watch.told()
    assert told["example"] == "10.1% missing"


def test_unseen_categories_by_the_thousand_take_no_room() -> None:
    watched = Watched(*ALL)
    for start in range(0, 5000, 100):
        watched.watch.look([_row(country=f"new {number}") for number in range(start, start + 100)], AT)
    assert watched.counted() == {("country", "categories"): 5000.0}
    [told] = watched.watch.told()
    assert told["violations"] == 5000


def test_of_many_violated_expectations_the_worst_are_told() -> None:
    names = [f"f{number}" for number in range(MOST_REPORTED + 30)]
    many = type("Many", (BaseModel,), {"__annotations__": dict.fromkeys(names, float)})
    given = {"expectations": [{"feature": name, "kind": "range", "high": 0} for name in names], "revision": 1}
    counter = Counter("violations", "", ["model", "feature", "expectation"], registry=CollectorRegistry())
    watch = Watch("m", schema_of(many), Expectations.model_validate(given), counter)
    for count in range(1, len(names) + 1):
        watch.look([[*[0.0] * (len(names) - count), *[1.0] * count]], AT)
    told = watch.told()
    assert len(told) == MOST_REPORTED
    assert [one["feature"] for one in told[:2]] == [names[-1], names[-2]]


def test_rows_that_come_in_several_threads_are_all_counted() -> None:
    watched = Watched(*ALL)
    threads = [
        threading.Thread(target=lambda: [watched.watch.look([_row(11.0), _row(None)], AT) for _ in range(1000)])
        for _ in range(4)
    ]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert watched.counted() == {("price", "range"): 4000.0, ("price", "missing"): 8.0}
