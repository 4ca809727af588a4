"""Profiles of features, and what is expected after them; sketches under them."""

import tracemalloc
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from store.expectations import WINDOW, Expectation, Expectations
from store.records import Outcome, Served
from store.schema import Row, schema_of
from trainer.profile import ENOUGH, MOST_CATEGORIES, Profile, most_missing
from trainer.sketch import ACCURACY, Sketch


class Features(BaseModel):
    price: float | None = None
    country: str
    kind: Literal["a", "b"]
    shown_at: datetime
    picture: Annotated[list[float], Field(min_length=2, max_length=2)]
    new: bool


SCHEMA = schema_of(Features)
AT = 1_700_000_000.0


def _row(price: float | None = 1.0, country: str = "VN", age_s: float = 60.0, length: float = 1.0) -> Row:
    return [price, country, "a", AT - age_s, np.array([0.0, length], np.float32).tobytes(), True]


def _outcomes(rows: Sequence[Row]) -> list[Outcome]:
    served = Served("main", 1, 1.0)
    return [Outcome(str(n), "u", row, [0.5], served, 1.0, "label", True, AT, AT, AT) for n, row in enumerate(rows)]


def _profiled(rows: Sequence[Row], schema_rows: int = 500) -> Profile:
    profile = Profile(SCHEMA)
    for start in range(0, len(rows), schema_rows):
        profile.add(_outcomes(rows[start : start + schema_rows]))
    return profile


def _inferred(profile: Profile) -> dict[tuple[str, str], Expectation]:
    return {(one.feature, one.kind): one for one in profile.infer()}


def test_nothing_is_inferred_from_few_rows() -> None:
    assert not _profiled([_row()] * (ENOUGH - 1)).infer()
    assert _profiled([_row()] * ENOUGH).infer()


def test_what_is_inferred_is_about_the_models_features() -> None:
    draw = np.random.default_rng(1)
    rows = [
        _row(None if draw.random() < 0.1 else float(draw.normal(50, 5)), str(draw.choice(["VN", "JP", "DE"])),
             float(draw.uniform(0, 3600)), float(draw.uniform(1, 2)))
        for _ in range(3000)
    ]  # fmt: skip
    profile = _profiled(rows)
    Expectations(expectations=profile.infer()).check(SCHEMA)
    found = _inferred(profile)
    assert found.keys() == {
        ("price", "range"), ("price", "missing"), ("country", "categories"), ("shown_at", "age"), ("picture", "norm"),
    }  # fmt: skip
    assert found["country", "categories"].values == ("DE", "JP", "VN")
    for key, low, high in (
        (("price", "range"), 50 - 8 * 5, 50 + 8 * 5),
        (("shown_at", "age"), 0, 7200),
        (("picture", "norm"), 0, 3),
    ):
        one = found[key]
        assert one.low is not None
        assert one.high is not None
        assert low <= one.low < one.high <= high
    assert 0.1 < (found["price", "missing"].most_missing or 0.0) < 0.2


@settings(deadline=None, max_examples=25)
@given(
    st.integers(0, 10_000), st.sampled_from(["normal", "uniform", "lognormal", "exponential"]),
    st.floats(-1e6, 1e6), st.floats(1e-3, 1e4),
)  # fmt: skip
def test_a_range_holds_nearly_all_that_follows_and_not_what_is_far_off(seed: int, of: str, offset: float, scale: float) -> None:
    draw = getattr(np.random.default_rng(seed), of)
    values = offset + scale * draw(size=2000)
    one = _inferred(_profiled([_row(float(value)) for value in values]))["price", "range"]
    assert one.low is not None
    assert one.high is not None
    fresh = offset + scale * draw(size=20_000)
    assert np.mean((fresh < one.low) | (fresh > one.high)) < 0.005
    far = max(abs(fresh).max(), scale) * 100
    assert one.low > -far
    assert one.high < far


def test_one_wrong_value_in_a_thousand_widens_no_range() -> None:
    rows = [_row(float(value)) for value in np.random.default_rng(2).uniform(10, 20, 5000)]
    for place in (7, 1007, 2007, 3007):
        rows[place] = _row(3e38)
    one = _inferred(_profiled(rows))["price", "range"]
    assert one.high is not None
    assert one.high < 30


def test_what_was_never_negative_is_expected_not_to_be() -> None:
    values = np.random.default_rng(3).exponential(1.0, 2000)
    one = _inferred(_profiled([_row(float(value)) for value in values]))["price", "range"]
    assert one.low == 0.0


def test_what_was_always_the_same_is_expected_to_stay_so() -> None:
    found = _inferred(_profiled([_row(7.0)] * 2000))["price", "range"]
    assert (found.low, found.high) == (7.0, 7.0)


@pytest.mark.parametrize("several", ["more than are few", "new ones all the time"])
def test_where_categories_are_many_or_still_new_none_are_known(several: str) -> None:
    draw = np.random.default_rng(4)
    often = [f"c{number}" for number in draw.integers(0, MOST_CATEGORIES + 20, 5000)]
    new = [f"new {number}" if number % 50 == 0 else "old" for number in range(5000)]
    rows = [_row(country=value) for value in (often if several == "more than are few" else new)]
    assert ("country", "categories") not in _inferred(_profiled(rows))


def test_a_category_too_rare_to_be_meant_is_not_expected() -> None:
    rows = [_row(country="VN" if number % 2 else "JP") for number in range(30_000)]
    rows[15_000] = _row(country="typo")
    assert _inferred(_profiled(rows))["country", "categories"].values == ("JP", "VN")


def test_hostile_values_take_no_memory_and_break_nothing() -> None:
    profile = Profile(SCHEMA)
    hostile = [-3.4e38, 3.4e38, 1e-300, 0.0, -0.0, 5e-324]

    def batch(number: int) -> list[Outcome]:
        rows = [
            _row(
                hostile[one % len(hostile)] * (1 + one),
                f"{number}-{one}-" + "x" * 900,
                age_s=(-1e11, 1e11)[one % 2],
                length=1e38,
            )
            for one in range(500)
        ]
        rows[0][1] = "\ud800"
        return _outcomes(rows)

    for number in range(5):
        profile.add(batch(number))
    tracemalloc.start()
    before = tracemalloc.take_snapshot()
    for number in range(5, 40):
        profile.add(batch(number))
    grown = sum(one.size_diff for one in tracemalloc.take_snapshot().compare_to(before, "filename"))
    tracemalloc.stop()
    assert grown < 500_000
    assert len(profile.packed()) < 200_000
    assert Expectations(expectations=profile.infer()).model_dump_json()


@given(st.integers(0, 1000), st.integers(1, 1000))
def test_a_window_like_what_was_seen_has_no_more_missing_than_expected(missing: int, more: int) -> None:
    rows = missing + more + 1000
    bound, share = most_missing(missing, rows), missing / rows
    assert share <= bound <= 1.0
    draw = np.random.default_rng(5).binomial(WINDOW, share, size=2000) / WINDOW
    assert np.mean(draw > bound) < 0.002


def test_a_profile_is_packed_and_goes_on_bit_for_bit() -> None:
    draw = np.random.default_rng(6)
    batches = [[_row(float(draw.normal()), str(draw.integers(0, 5))) for _ in range(500)] for _ in range(6)]
    whole, first = Profile(SCHEMA), Profile(SCHEMA)
    for batch in batches:
        whole.add(_outcomes(batch))
    for batch in batches[:3]:
        first.add(_outcomes(batch))
    second = Profile.unpacked(SCHEMA, first.packed())
    for batch in batches[3:]:
        second.add(_outcomes(batch))
    assert second.packed() == whole.packed()
    assert second.infer() == whole.infer()


def test_old_rows_weigh_less_than_new_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.profile.HALVED_AT", 2000)
    profile = _profiled([_row(1.0)] * 2000 + [_row(5.0)] * 40_000)
    one = _inferred(profile)["price", "range"]
    assert one.low is not None
    assert one.low > 4.0


@settings(deadline=None)
@given(
    st.lists(st.floats(-1e30, 1e30).filter(lambda value: value == 0 or abs(value) > 1e-11), min_size=1, max_size=300),
    st.floats(0, 1),
)
def test_a_sketch_gives_quantiles_within_its_accuracy(values: list[float], share: float) -> None:
    sketch = Sketch()
    for start in range(0, len(values), 7):
        sketch.add(np.array(values[start : start + 7]))
    exact = float(np.quantile(values, share, method="inverted_cdf"))
    assert sketch.quantile(share) == pytest.approx(exact, rel=ACCURACY * 1.01)
    again = Sketch.unpacked(sketch.packed())
    assert again.quantile(share) == sketch.quantile(share)


def test_a_sketch_of_nothing_has_no_quantiles() -> None:
    with pytest.raises(ValueError, match="nothing"):
        Sketch().quantile(0.5)
