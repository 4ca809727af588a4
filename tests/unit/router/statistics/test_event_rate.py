"""The e-process for one arm's rate: exact expectations at and inside its null, watched, and quick without any event."""

import math

import numpy as np
import pytest
from scipy import stats

from router.statistics import EventRate

ALARM = math.log(20.0)


def _expected(process: EventRate, rate: float, units: int = 60) -> float:
    chances: list[float] = stats.binom.pmf(np.arange(units + 1), units, rate).tolist()
    return sum(chance * math.exp(process.add(events, units).log_e) for events, chance in enumerate(chances))


@pytest.mark.parametrize("claim", ["below", "above"])
@pytest.mark.parametrize("limit", [0.001, 0.05, 0.5, 0.99])
def test_at_the_limit_its_expectation_is_one(limit: float, claim: str) -> None:
    assert _expected(EventRate(limit, claim), limit) == pytest.approx(1.0, rel=1e-9)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("rate", [0.06, 0.1, 0.5, 1.0])
def test_inside_the_null_its_expectation_is_below_one(rate: float) -> None:
    assert _expected(EventRate(0.05), rate) < 1.0
    assert _expected(EventRate(0.95, "above"), 1.0 - rate) < 1.0


@pytest.mark.parametrize("claim", ["below", "above"])
def test_it_is_the_average_of_likelihood_ratios(claim: str) -> None:
    process = EventRate(0.02, claim).add(7, 400)  # pyright: ignore[reportArgumentType]
    odds = 0.02 / 0.98 * (np.array(process.grid) if claim == "above" else 1 / np.array(process.grid))
    rates = odds / (1 + odds)
    expected = np.mean(stats.binom.pmf(7, 400, rates)) / stats.binom.pmf(7, 400, 0.02)
    assert process.log_e == pytest.approx(math.log(expected))


def test_a_limit_that_is_kept_exactly_is_seldom_called_broken_or_kept() -> None:
    draw = np.random.default_rng(1)
    runs, units = 500, 2_000
    wrong = {"below": 0, "above": 0}
    for _ in range(runs):
        events = np.flatnonzero(draw.random(units) < 0.02).tolist()
        # "Above" grows with events alone, "below" between them: its peaks are just before each event, and at the end.
        wrong["above"] += any(EventRate(0.02, "above", k + 1, at + 1).log_e >= ALARM for k, at in enumerate(events))
        wrong["below"] += any(EventRate(0.02, "below", k, at).log_e >= ALARM for k, at in enumerate([*events, units]))
    assert max(wrong.values()) / runs <= 0.05


def test_a_rate_that_drifts_inside_the_null_is_not_called_below() -> None:
    draw = np.random.default_rng(2)
    units = 4_000
    rates = 0.02 + 0.01 * (1 + np.sin(np.arange(units) / 200))
    wrong = 0
    for _ in range(200):
        looks = enumerate([*np.flatnonzero(draw.random(units) < rates).tolist(), units])
        wrong += any(EventRate(0.02, "below", k, at).log_e >= ALARM for k, at in looks)
    assert wrong / 200 <= 0.05


def test_without_any_event_a_few_hundred_units_show_less_than_one_in_a_hundred() -> None:
    needed = next(units for units in range(2_000) if EventRate(0.01, units=units).log_e >= ALARM)
    assert 300 <= needed <= 450  # 299 if all were bet on "never"


def test_counts_of_parts_add_up() -> None:
    assert EventRate(0.1).add(1, 20).add(3, 15).add() == EventRate(0.1).add(4, 35)
    assert EventRate(0.1).log_e == pytest.approx(0.0)
    assert EventRate(1e-6).add(0, 10**8).log_e < math.inf


@pytest.mark.parametrize(
    "wrong",
    [{"limit": 0.0}, {"limit": 1.0}, {"limit": 0.1, "events": 2, "units": 1}, {"limit": 0.1, "events": -1},
     {"limit": 0.1, "grid": (1.0, 2.0)}, {"limit": 0.1, "claim": "beside"}],
)  # fmt: skip
def test_nonsense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"limit|event|grid|claim"):
        EventRate(**wrong)  # pyright: ignore[reportArgumentType]
