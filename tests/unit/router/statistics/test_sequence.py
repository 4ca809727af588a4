"""Differences and their confidence sequence, watched at every look."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.statistics import (
    AsymptoticSequence,
    Difference,
    Moments,
    adjusted_difference,
    mean_difference,
    ratio_difference,
)

SEQUENCE = AsymptoticSequence(alpha=0.05, n_opt=10_000)
BURN_IN = 20
"""Conversions in each arm before anything is decided."""


def _decided(seed: int, baseline: float, treatment: float, per_arm: int, every: int = 100) -> int:
    """Watch two conversion rates every 100 units per arm; return the units per arm at the decision, or 0."""
    draw = np.random.default_rng(seed)
    looks = np.arange(every, per_arm + 1, every)
    sums = [np.cumsum(draw.random(per_arm) < rate)[looks - 1] for rate in (baseline, treatment)]
    for n, a, b in zip(looks.tolist(), *sums, strict=True):
        if min(a, b) < BURN_IN:
            continue
        first, second = (Moments(n, np.array([float(one)]), np.array([[float(one)]])) for one in (a, b))
        difference = mean_difference(first, second)
        assert difference is not None
        if SEQUENCE.log_e(difference) >= math.log(1 / SEQUENCE.alpha):
            return n
    return 0


@pytest.mark.simulation
def test_two_equal_arms_are_told_apart_in_less_than_a_twentieth() -> None:
    runs = 200
    assert sum(_decided(seed, 0.05, 0.05, 20_000) > 0 for seed in range(runs)) / runs <= 0.05


def test_a_lift_of_a_fifth_is_found() -> None:
    stops = [_decided(10_000 + seed, 0.05, 0.06, 20_000) for seed in range(100)]
    found = [stop for stop in stops if stop]
    assert len(found) / len(stops) >= 0.9
    assert 4_000 <= np.median(found) <= 10_000


@given(
    estimate=st.floats(-1, 1), error=st.floats(1e-4, 1), n=st.integers(2, 10**7), n_opt=st.integers(1, 10**7),
    alpha=st.sampled_from([0.001, 0.01, 0.05, 0.2]),
)  # fmt: skip
def test_the_interval_leaves_out_what_the_e_value_rejects(
    estimate: float, error: float, n: int, n_opt: int, alpha: float
) -> None:
    sequence = AsymptoticSequence(alpha, n_opt)
    difference = Difference(estimate, error, n)
    low, high = sequence.interval(difference)
    for edge in (low, high):
        assert sequence.log_e(difference, null=edge) == pytest.approx(-math.log(alpha), rel=1e-6)
    assert (low <= 0.0 <= high) == (sequence.log_e(difference) <= -math.log(alpha) + 1e-9)


def test_it_is_tightest_for_its_number_of_units() -> None:
    # A fixed-horizon interval is 1.96 standard errors; watching for ever costs about half as much again at the best n.
    assert 2.5 < SEQUENCE.half_width(10_000, 1.0) < 3.2
    for n in (1_000, 100_000):
        assert SEQUENCE.half_width(n, 1.0) > SEQUENCE.half_width(10_000, 1.0)


def test_without_data_nothing_is_said() -> None:
    assert SEQUENCE.half_width(0, 1.0) == math.inf
    assert SEQUENCE.log_e(Difference(1.0, 0.0, 10)) == 0.0
    assert mean_difference(Moments.empty(1), Moments.of([[1.0], [2.0]])) is None
    assert ratio_difference(Moments.of([[0.0, 0.0], [0.0, 0.0]]), Moments.of([[1.0, 1.0], [1.0, 2.0]])) is None


@pytest.mark.parametrize("wrong", [(0.0, 10), (1.0, 10), (0.05, 0)])
def test_nonsense_is_refused(wrong: tuple[float, int]) -> None:
    with pytest.raises(ValueError, match="it must"):
        AsymptoticSequence(*wrong)


@given(st.lists(st.tuples(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3)), min_size=4, max_size=30), st.integers(1, 3))
def test_moments_of_parts_add_up(rows: list[tuple[float, float]], cut: int) -> None:
    merged, whole = Moments.of(rows[:cut]) + Moments.of(rows[cut:]), np.array(rows)
    assert merged.n == len(rows)
    assert merged.mean == pytest.approx(whole.mean(axis=0), abs=1e-6)
    assert merged.covariance == pytest.approx(np.cov(whole.T), rel=1e-6, abs=1e-3)


def test_cuped_agrees_with_the_regression_that_it_is() -> None:
    draw = np.random.default_rng(3)
    before = draw.normal(10, 3, 4_000)
    arm = np.repeat([0, 1], 2_000)
    after = 0.9 * before + 0.2 * arm + draw.normal(0, 1, 4_000)
    arms = [Moments.of(np.stack([after, before], axis=1)[arm == one]) for one in (0, 1)]
    adjusted, plain = adjusted_difference(arms[0], arms[1]), mean_difference(arms[0], arms[1])
    assert adjusted is not None
    assert plain is not None
    design = np.stack([np.ones(4_000), arm, before], axis=1)
    [_, effect, _], *_ = np.linalg.lstsq(design, after)
    assert adjusted.estimate == pytest.approx(effect, abs=1e-4)
    residual = after - design @ np.linalg.lstsq(design, after)[0]
    error = np.sqrt(residual.var(ddof=3) * np.linalg.inv(design.T @ design)[1, 1])
    assert adjusted.standard_error == pytest.approx(error, rel=0.01)
    assert adjusted.standard_error < 0.4 * plain.standard_error


def test_a_ratio_has_the_spread_that_its_standard_error_says() -> None:
    draw = np.random.default_rng(4)

    def arm(rate: float) -> Moments:
        views = draw.poisson(draw.gamma(2.0, 3.0, 500)) + 1.0
        return Moments.of(np.stack([draw.binomial(views.astype(int), rate), views], axis=1))

    found = [ratio_difference(arm(0.1), arm(0.12)) for _ in range(400)]
    estimates = np.array([one.estimate for one in found if one])
    errors = np.array([one.standard_error for one in found if one])
    assert len(estimates) == 400
    assert estimates.mean() == pytest.approx(0.02, abs=3 * errors.mean() / 20)
    assert errors.mean() == pytest.approx(estimates.std(), rel=0.1)
