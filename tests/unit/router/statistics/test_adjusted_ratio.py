"""Ratios adjusted by what units were before: right, narrower, and plain CUPED where it must be."""

import numpy as np
import pytest

from router.statistics import Moments, adjusted_difference, adjusted_ratio_difference, ratio_difference


def test_with_one_outcome_each_the_adjusted_ratio_is_plain_cuped() -> None:
    draw = np.random.default_rng(5)
    arms: list[Moments] = []
    for effect in (0.0, 0.3):
        before = draw.normal(size=400)
        outcome = 0.8 * before + effect + draw.normal(size=400)
        ones = np.ones(400)
        arms.append(Moments.of(np.column_stack([outcome, ones, before, ones])))
    plain = adjusted_difference(arms[0], arms[1], outcome=0, before=2)
    ratio = adjusted_ratio_difference(arms[0], arms[1], 0, 1, 2, 3)
    assert plain is not None
    assert ratio is not None
    assert (ratio.estimate, ratio.standard_error) == (pytest.approx(plain.estimate), pytest.approx(plain.standard_error))


def test_an_adjusted_ratio_is_right_and_narrower_where_the_past_says_something() -> None:
    """400 simulated experiments: users differ in their rate, and had sessions before; some had none."""
    estimates: list[tuple[float, float, float]] = []
    draw = np.random.default_rng(6)
    for _ in range(400):
        arms: list[Moments] = []
        for lift in (0.0, 0.05):
            rate = draw.beta(2, 6, 500)
            sessions, earlier = 1 + draw.poisson(8, 500), draw.poisson(20, 500)
            clicks = draw.binomial(sessions, np.clip(rate + lift, 0, 1))
            past = draw.binomial(earlier, rate)
            arms.append(Moments.of(np.column_stack([clicks, sessions, past, earlier]).astype(float)))
        adjusted, plain = adjusted_ratio_difference(arms[0], arms[1], 0, 1, 2, 3), ratio_difference(arms[0], arms[1])
        assert adjusted is not None
        assert plain is not None
        estimates.append((adjusted.estimate, adjusted.standard_error, plain.standard_error))
    found, error, plain_error = np.array(estimates).T
    assert abs(found.mean() - 0.05) < 4 * found.std() / 20
    assert found.std() == pytest.approx(error.mean(), rel=0.12)
    assert error.mean() < 0.9 * plain_error.mean()


def test_without_a_past_the_adjusted_ratio_is_the_ratio() -> None:
    draw = np.random.default_rng(7)
    rows = [np.column_stack([draw.poisson(2, 50), 1 + draw.poisson(2, 50), np.zeros((50, 2))]).astype(float) for _ in range(2)]
    one, other = (Moments.of(row) for row in rows)
    assert adjusted_ratio_difference(one, other, 0, 1, 2, 3) == ratio_difference(one, other)
