"""Off-policy values: a finite problem counted to the end, simulations, and the cases that must be refused."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from router.statistics import (
    AsymptoticSequence,
    PolicyValue,
    Refused,
    WeightedSums,
    doubly_robust,
    inverse_propensity,
    self_normalised,
)

CONTEXTS = np.array([0.2, 0.5, 0.3])
LOGGED = np.array([[0.7, 0.2, 0.1], [0.25, 0.25, 0.5], [0.1, 0.6, 0.3]])
TARGET = np.array([[0.0, 0.5, 0.5], [0.0, 1.0, 0.0], [0.3, 0.3, 0.4]])
REWARD = np.array([[0.1, 0.9, 0.4], [0.5, 0.3, 0.6], [0.8, 0.2, 0.7]])
VALUE = float((CONTEXTS[:, None] * TARGET * REWARD).sum())

Estimator = Callable[[WeightedSums], PolicyValue | Refused]


def _value(given: PolicyValue | Refused) -> PolicyValue:
    assert isinstance(given, PolicyValue), given
    return given


def _sample(draw: np.random.Generator, n: int, model: np.ndarray = REWARD, propensities: np.ndarray = LOGGED) -> WeightedSums:
    """Units of the finite problem, with Bernoulli rewards; `model` predicts them, `propensities` are what is claimed."""
    x = draw.choice(3, n, p=CONTEXTS)
    a = (draw.random(n)[:, None] > np.cumsum(LOGGED, axis=1)[x]).sum(axis=1)
    r = (draw.random(n) < REWARD[x, a]).astype(float)
    return WeightedSums.of_policies(a, r, propensities[x], TARGET[x], model[x])


def _enumerated(model: np.ndarray = REWARD, propensities: np.ndarray = LOGGED) -> WeightedSums:
    """Every context, choice and reward as often as in 2,000 units that follow the probabilities exactly."""
    total = WeightedSums()
    for x in range(3):
        for a in range(3):
            units = 2_000 * CONTEXTS[x] * LOGGED[x, a]
            for r, chance in ((1.0, REWARD[x, a]), (0.0, 1 - REWARD[x, a])):
                n = round(units * chance)
                assert n == pytest.approx(units * chance)
                rows = np.full(n, x)
                total += WeightedSums.of_policies(np.full(n, a), np.full(n, r), propensities[rows], TARGET[rows], model[rows])
    return total


@pytest.mark.parametrize("estimator", [inverse_propensity, self_normalised, doubly_robust])
def test_a_finite_problem_counted_to_the_end_gives_its_very_value(estimator: Estimator) -> None:
    sums = _enumerated()
    found = _value(estimator(sums))
    assert found.value == pytest.approx(VALUE)
    assert sums.w / sums.n == pytest.approx(1.0)
    second = (CONTEXTS[:, None] * TARGET**2 / LOGGED).sum()
    assert found.effective_n == pytest.approx(2_000 / second)
    assert found.overlap == 1.0
    assert sums.largest == pytest.approx(5.0)


WRONG_MODEL = np.array([[0.9, 0.1, 0.1], [0.2, 0.8, 0.0], [0.0, 0.9, 0.1]])
WRONG_PROPENSITIES = np.array([[0.2, 0.3, 0.5], [0.4, 0.4, 0.2], [0.4, 0.3, 0.3]])


def test_doubly_robust_is_right_when_either_is() -> None:
    assert _value(doubly_robust(_enumerated(model=WRONG_MODEL))).value == pytest.approx(VALUE)
    assert _value(doubly_robust(_enumerated(propensities=WRONG_PROPENSITIES))).value == pytest.approx(VALUE)
    assert _value(inverse_propensity(_enumerated(propensities=WRONG_PROPENSITIES))).value != pytest.approx(VALUE, abs=0.02)
    both = _enumerated(model=WRONG_MODEL, propensities=WRONG_PROPENSITIES)
    assert _value(doubly_robust(both)).value != pytest.approx(VALUE, abs=0.02)


@pytest.mark.parametrize("estimator", [inverse_propensity, self_normalised, doubly_robust])
def test_estimates_scatter_around_the_value_as_their_errors_say(estimator: Estimator) -> None:
    draw = np.random.default_rng(1)
    found = [_value(estimator(_sample(draw, 500))) for _ in range(800)]
    values, errors = (np.array([getattr(one, name) for one in found]) for name in ("value", "standard_error"))
    assert values.mean() == pytest.approx(VALUE, abs=3 * values.std() / math.sqrt(800) + 1e-4)
    assert errors.mean() == pytest.approx(values.std(), rel=0.08)
    assert np.mean(np.abs(values - VALUE) <= 1.96 * errors) == pytest.approx(0.95, abs=0.025)


def test_a_good_model_and_normalising_take_noise_away() -> None:
    sums = _sample(np.random.default_rng(2), 4_000)
    plain, normalised, robust = (
        _value(one(sums)).standard_error for one in (inverse_propensity, self_normalised, doubly_robust)
    )
    assert robust < normalised < plain


def test_the_interval_holds_at_every_moment() -> None:
    sequence = AsymptoticSequence(0.05, 2_000)
    missed = 0
    for seed in range(150):
        draw, sums, out = np.random.default_rng(1_000 + seed), WeightedSums(), False
        for _ in range(30):
            sums += _sample(draw, 100)
            estimates = [one(sums) for one in (inverse_propensity, self_normalised, doubly_robust)]
            for low, high in (one.interval(sequence) for one in estimates if isinstance(one, PolicyValue)):
                out |= not low <= VALUE <= high
        missed += out
    assert missed / 150 <= 0.05


def test_sums_of_parts_add_up() -> None:
    draw = np.random.default_rng(3)
    r, p, pi, q, v = draw.random((5, 60))
    whole = WeightedSums.of(r, p, pi, predicted=q, expected=v)
    parts = [WeightedSums.of(r[cut], p[cut], pi[cut], predicted=q[cut], expected=v[cut]) for cut in (slice(17), slice(17, 60))]
    merged = parts[0] + parts[1]
    for name in WeightedSums.__slots__:
        assert getattr(merged, name) == pytest.approx(getattr(whole, name))


def test_always_arm_b_is_the_mean_of_arm_b_where_shares_are_equal() -> None:
    rewards, arm = np.arange(400.0), np.arange(400) % 2
    sums = WeightedSums.of(rewards, np.full(400, 0.5), arm)
    assert _value(self_normalised(sums)).value == rewards[arm == 1].mean() == _value(inverse_propensity(sums)).value
    assert sums.effective_n == 200


def test_the_logged_policy_itself_earned_what_it_earned() -> None:
    rewards = np.arange(300.0)
    sums = WeightedSums.of(rewards, np.ones(300), np.ones(300))  # nothing random, but nothing else asked
    for estimator in (inverse_propensity, self_normalised):
        found = _value(estimator(sums))
        assert found.value == rewards.mean()
        assert found.standard_error == pytest.approx(rewards.std(ddof=1) / math.sqrt(300), rel=0.01)
        assert found.overlap == 1.0


ONES, HALVES = np.ones(400), np.full(400, 0.5)


@pytest.mark.parametrize(
    ("sums", "words"),
    [
        (WeightedSums(), "fewer than two"),
        (WeightedSums.of(ONES, ONES, 0 * ONES), "No support: each of the 400"),
        (WeightedSums.of(ONES, HALVES, 0 * ONES), "No support: none of the 400"),
        (WeightedSums.of(ONES, np.array([0.5] * 390 + [0.0] * 10), ONES), "10 of 400 units have no propensity"),
        (WeightedSums.of(ONES, np.array([0.5] * 399 + [math.nan]), ONES), "1 of 400 units have no propensity"),
        (WeightedSums.of(ONES, np.repeat([0.5, 1.0], 200), np.repeat([1.0, 0.0], 200)), "Only 50.0% of 400"),
        (WeightedSums.of(ONES, np.repeat([0.5, 0.001], [300, 100]), ONES), "weigh as much as 101"),
    ],
)
def test_what_cannot_be_said_is_refused_with_the_reason(sums: WeightedSums, words: str) -> None:
    for estimator in (inverse_propensity, self_normalised, doubly_robust):
        found = estimator(sums, least_effective=150.0)
        assert isinstance(found, Refused)
        assert words in found.reason


def test_a_share_without_support_is_known_from_whole_distributions() -> None:
    logged, target = np.array([[0.5, 0.5, 0.0]] * 400), np.array([[0.4, 0.4, 0.2]] * 400)
    sums = WeightedSums.of_policies(np.arange(400) % 2, ONES, logged, target)
    assert sums.overlap == 0.0
    assert isinstance(inverse_propensity(sums), Refused)
    # What it would have been without the refusal: short by the very share that was never tried.
    assert _value(inverse_propensity(sums, least_overlap=0.0)).value == pytest.approx(0.8)


def test_doubly_robust_needs_predictions_for_all() -> None:
    some = WeightedSums.of(ONES, HALVES, ONES) + WeightedSums.of(ONES, HALVES, ONES, predicted=ONES, expected=ONES)
    assert isinstance(inverse_propensity(some), PolicyValue)
    found = doubly_robust(some)
    assert isinstance(found, Refused)
    assert found.reason == "400 of 800 units have no prediction of the reward model."


@pytest.mark.parametrize(
    ("rewards", "logged", "target"),
    [
        ([1.0], [0.5, 0.5], [1.0]),
        ([1.0], [1.5], [1.0]),
        ([1.0], [0.5], [-0.1]),
        ([math.nan], [0.5], [1.0]),
        ([1.0], [0.5], [math.nan]),
    ],
)
def test_nonsense_is_refused(rewards: list[float], logged: list[float], target: list[float]) -> None:
    with pytest.raises(ValueError, match=r"one reward|finite|between 0 and 1"):
        WeightedSums.of(rewards, logged, target)


def test_half_a_reward_model_and_half_a_policy_are_refused() -> None:
    with pytest.raises(ValueError, match="both or none"):
        WeightedSums.of(ONES, HALVES, ONES, predicted=ONES)
    with pytest.raises(ValueError, match="sum to 1"):
        WeightedSums.of_policies([0], [1.0], [[0.5, 0.5]], [[0.5, 0.0]])
