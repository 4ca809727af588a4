"""Bets on a bounded mean: the formula twice, coverage while watched, and narrower where the paper says so."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.statistics import BettingSequence


def _capitals(values: list[float], m: float, alpha: float = 0.05) -> list[tuple[float, float]]:
    """Both capitals against `m` after each value, as the paper writes them."""
    above, below, seen, course = 1.0, 1.0, list[float](), list[tuple[float, float]]()
    spread = 0.25
    for t, value in enumerate(values, 1):
        stake = math.sqrt(2 * math.log(2 / alpha) / (spread / t * t * math.log(t + 1)))
        above *= 1 + min(stake, 0.5 / m if m else math.inf) * (value - m)
        below *= 1 - min(stake, 0.5 / (1 - m) if m < 1 else math.inf) * (value - m)
        seen.append(value)
        spread += (value - (0.5 + sum(seen)) / (t + 1)) ** 2
        course.append((above, below))
    return course


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.integers(0, 1000))
@settings(max_examples=50, deadline=None)
def test_it_is_the_product_that_the_paper_writes(values: list[float], point: int) -> None:
    sequence, course = BettingSequence().add(values), _capitals(values, point / 1000)
    above, below = course[-1]
    assert sequence.log_e_at_most(point / 1000) == pytest.approx(math.log(above), abs=1e-8)
    assert sequence.log_e_at_least(point / 1000) == pytest.approx(math.log(below), abs=1e-8)
    assert sequence.peaks[0, point] == pytest.approx(math.log(max(1.0, *(one for one, _ in course))), abs=1e-8)


def test_the_interval_is_the_running_intersection_of_what_the_paper_keeps() -> None:
    values = (np.random.default_rng(1).random(60) ** 3).round(3).tolist()
    grid = np.arange(101) / 100
    kept = [m for m in grid.tolist() if all(max(both) / 2 < 20 for both in _capitals(values, m))]
    low, high = BettingSequence(grid=grid).add(values).interval()
    assert (low, high) == pytest.approx((min(kept) - 0.01, max(kept) + 0.01))


def test_one_by_one_or_at_once_is_the_same() -> None:
    values = np.random.default_rng(2).random(700)
    parts = BettingSequence()
    for part in np.split(values, [1, 2, 50, 300, 650]):
        parts = parts.add(part)
    whole = BettingSequence().add(values)
    assert parts.n == whole.n == 700
    assert parts.gains == pytest.approx(whole.gains, abs=1e-8)
    assert parts.interval() == whole.interval()


@pytest.mark.parametrize("kind", ["coin", "rare", "narrow", "edges"])
def test_watched_at_every_value_it_misses_the_mean_in_less_than_a_twentieth(kind: str) -> None:
    draw = np.random.default_rng(3)
    runs, n = 400, 400
    values = {
        "coin": lambda: draw.random((runs, n)) < 0.5,
        "rare": lambda: draw.random((runs, n)) < 0.02,
        "narrow": lambda: draw.beta(10, 30, (runs, n)),
        "edges": lambda: draw.beta(0.1, 0.3, (runs, n)),
    }[kind]()
    mean = {"coin": 0.5, "rare": 0.02}.get(kind, 0.25)
    missed = 0
    for run in values.astype(float):
        low, high = BettingSequence(grid=np.array([mean])).add(run).interval()
        missed += mean in (low, high)
    assert missed / runs <= 0.05


@pytest.mark.parametrize("mean", [0.1, 0.5])
def test_before_any_value_each_bet_has_expectation_one(mean: float) -> None:
    # All sequences of six tosses, weighted by their probability: a martingale at the true mean, less than one inside the null.
    tosses = [[float(n >> k & 1) for k in range(6)] for n in range(64)]
    sequences = [BettingSequence().add(one) for one in tosses]
    chances = [math.prod(mean if toss else 1 - mean for toss in one) for one in tosses]

    def expected(logs: list[float]) -> float:
        return sum(chance * math.exp(log) for chance, log in zip(chances, logs, strict=True))

    assert expected([one.log_e_at_most(mean) for one in sequences]) == pytest.approx(1.0)
    assert expected([one.log_e_at_least(mean) for one in sequences]) == pytest.approx(1.0)
    assert expected([one.log_e_at_most(mean + 0.2) for one in sequences]) < 1.0
    assert expected([one.log_e_at_least(mean - 0.05) for one in sequences]) < 1.0


def test_it_adapts_to_a_small_variance() -> None:
    draw = np.random.default_rng(4)
    coin = BettingSequence().add((draw.random(500) < 0.25).astype(float)).interval()
    narrow = BettingSequence().add(draw.beta(10, 30, 500)).interval()
    once = math.sqrt(math.log(2 / 0.05) / (2 * 500))  # Hoeffding's half-width, for a single look
    assert narrow[0] <= 0.25 <= narrow[1]
    assert coin[0] <= 0.25 <= coin[1]
    assert narrow[1] - narrow[0] < 0.6 * 2 * once
    assert coin[1] - coin[0] < 1.7 * 2 * once


def test_a_higher_level_is_a_wider_interval_and_none_widens_with_time() -> None:
    draw = np.random.default_rng(5)
    sequence, before = BettingSequence(), (0.0, 1.0)
    for part in draw.beta(2, 5, (20, 15)):
        sequence = sequence.add(part)
        now, wide = sequence.interval(), sequence.interval(0.001)
        assert wide[0] <= now[0] <= now[1] <= wide[1]
        assert before[0] <= now[0]
        assert now[1] <= before[1]
        before = now


def test_a_candidate_between_two_points_is_judged_by_the_cautious_one() -> None:
    sequence = BettingSequence().add([0.9, 0.8, 0.85] * 5)
    assert sequence.log_e_at_most(0.5004) == sequence.log_e_at_most(0.501) < sequence.log_e_at_most(0.5)
    assert sequence.log_e_at_least(0.9504) == sequence.log_e_at_least(0.95) < sequence.log_e_at_least(0.951)


def test_a_mean_that_moves_leaves_nothing() -> None:
    low, high = BettingSequence().add([0.1, 0.12] * 100 + [0.9, 0.88] * 300).interval()
    assert low > high


def test_its_state_is_plain() -> None:
    sequence = BettingSequence().add([0.2, 0.4])
    restored = BettingSequence(n=2, total=sequence.total, deviations=sequence.deviations,
                               gains=np.array(sequence.gains.tolist()), peaks=np.array(sequence.peaks.tolist()))  # fmt: skip
    assert (restored.add([0.3]).gains == sequence.add([0.3]).gains).all()
    assert BettingSequence().interval() == BettingSequence().add([]).interval() == (0.0, 1.0)


@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan])
def test_values_out_of_bounds_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        BettingSequence().add([0.5, value])


@pytest.mark.parametrize(
    "wrong",
    [
        {"alpha": 0.0},
        {"grid": np.array([0.5, 0.2])},
        {"grid": np.array([0.5, 1.2])},
        {"grid": np.array([])},
        {"gains": np.ones(3)},
    ],
)
def test_nonsense_is_refused(wrong: dict[str, np.ndarray]) -> None:
    with pytest.raises(ValueError, match=r"alpha|grid|gains"):
        BettingSequence(**wrong)  # pyright: ignore[reportArgumentType]
