"""Sample ratio, multiplicity and bands: an oracle, a simulation, and the figure of the paper's own kind."""

import math

import numpy as np
import pytest
from scipy import stats

from router.statistics import SampleRatio, discoveries, dkw_radius, family_wise
from router.statistics.sample_ratio import ALARM_LOG_E, STRENGTH


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.9, 0.1), (0.2, 0.3, 0.5)])
def test_it_is_the_ratio_of_two_known_likelihoods(shares: tuple[float, ...]) -> None:
    draw = np.random.default_rng(1)
    counts = draw.multinomial(5_000, shares)
    alternative = stats.dirichlet_multinomial.logpmf(counts, STRENGTH * np.array(shares), 5_000)
    expected = alternative - stats.multinomial.logpmf(counts, 5_000, shares)
    assert SampleRatio(shares).add(counts.tolist()).log_e == pytest.approx(expected, abs=1e-6)


def _alarm(seed: int, shares: tuple[float, float], served: float, units: int) -> int:
    second = np.cumsum(np.random.default_rng(seed).random(units) < served)
    for n in range(100, units + 1, 100):
        if SampleRatio(shares).add((n - int(second[n - 1]), int(second[n - 1]))).log_e >= ALARM_LOG_E:
            return n
    return 0


def test_the_right_ratio_alarms_nobody() -> None:
    assert sum(_alarm(seed, (0.9, 0.1), 0.1, 20_000) > 0 for seed in range(300)) <= 1


def test_one_in_a_hundred_in_the_wrong_arm_is_found() -> None:
    stops = [_alarm(500 + seed, (0.9, 0.1), 0.11, 60_000) for seed in range(60)]
    assert all(stops)
    assert 8_000 <= np.median(stops) <= 25_000


def test_stages_multiply() -> None:
    first = SampleRatio((0.9, 0.1)).add((900, 120))
    second = SampleRatio((0.5, 0.5)).add((50, 60))
    assert first.stage((0.5, 0.5)).add((50, 60)).log_e == pytest.approx(first.log_e + second.log_e)


@pytest.mark.parametrize("wrong", [(), (0.5, 0.6), (1.0, 0.0), (-0.5, 1.5)])
def test_shares_that_are_none_are_refused(wrong: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="shares"):
        SampleRatio(wrong)


def test_of_many_arms_without_a_difference_one_is_seldom_found() -> None:
    draw = np.random.default_rng(2)
    # Log e-values of mean 1: lognormal, the heaviest evidence that pure chance makes in one look.
    log_e = draw.normal(-2.0, 2.0, (4_000, 10))
    wrong = [any(family_wise(one.tolist(), 0.05)) for one in log_e]
    assert np.mean(wrong) <= 0.05
    found = [discoveries(one.tolist(), 0.05) for one in log_e]
    assert np.mean([any(one) for one in found]) <= 0.05
    assert all(
        not f or d
        for row in log_e
        for f, d in zip(family_wise(row.tolist(), 0.05), discoveries(row.tolist(), 0.05), strict=True)
    )


def test_nothing_in_nothing_out() -> None:
    assert family_wise([], 0.05) == discoveries([], 0.05) == []


def _distance(values: np.ndarray) -> float:
    """The largest distance of an empirical distribution function from the uniform one."""
    steps = np.arange(len(values) + 1) / len(values)
    ordered = np.sort(values)
    return float(max((steps[1:] - ordered).max(), (ordered - steps[:-1]).max()))


def test_the_band_holds_at_every_moment() -> None:
    draw = np.random.default_rng(5)
    looks = np.unique(np.geomspace(10, 5_000, 60).astype(int))
    missed = 0
    for _ in range(200):
        values = draw.random(5_000)
        missed += any(_distance(values[:n]) > dkw_radius(n) for n in looks.tolist())
    assert missed / 200 <= 0.05


def test_the_band_narrows_and_knows_its_constants() -> None:
    radii = [dkw_radius(n) for n in (0, 1, 10, 100, 10_000, 10**6)]
    assert radii == sorted(radii, reverse=True)
    assert dkw_radius(100, 0.001) > dkw_radius(100, 0.01) > dkw_radius(100)
    assert dkw_radius(10**4) == pytest.approx(0.85 * math.sqrt((math.log(math.log(math.e * 10**4)) + 8.12) / 10**4))
    with pytest.raises(ValueError, match="constant"):
        dkw_radius(100, 0.1)
