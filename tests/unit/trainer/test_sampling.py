"""Whichever rows a step takes, the expectation of its gradient is that of all rows."""

import numpy as np
import pytest

from store.learning import Importance, Sampling, Stratified, Uniform, Weighted
from trainer.sampling import Candidates, choose

ROWS = 60
WAYS: list[Sampling] = [
    Uniform(share=0.2),
    Uniform(share=1.0),
    Stratified(share=0.2),
    Stratified(share=0.02),
    Weighted(share=0.2),
    Importance(share=0.2),
    Importance(share=0.2, floor=1.0),
]


def _candidates(seed: int = 0) -> tuple[Candidates, np.ndarray]:
    """Rows of unequal weights, rare strata and a few large gradients; and what is to be averaged, [rows, 3]."""
    draw = np.random.default_rng(seed)
    weights = draw.gamma(1.0, size=ROWS)
    weights /= weights.mean()
    strata = np.where(np.arange(ROWS) < 3, 7, np.where(np.arange(ROWS) < 20, 2, 0))
    values = draw.standard_t(3, size=(ROWS, 3)) + strata[:, None]
    likely = np.where(strata == 7, 10.0, 1.0)
    return Candidates(weights, likely, strata, lambda: np.abs(values).sum(axis=1) * weights), values


@pytest.mark.parametrize("sampling", WAYS, ids=lambda way: f"{way.kind} {way.share}")
def test_the_mean_over_what_is_taken_is_unbiased(sampling: Sampling) -> None:
    candidates, values = _candidates()
    whole = (candidates.weights[:, None] * values).mean(axis=0)
    draw = np.random.default_rng(1)
    means: list[np.ndarray] = []
    for _ in range(4000):
        choice = choose(sampling, candidates, draw)
        weights = candidates.weights[choice.rows] * choice.factors
        means.append((weights[:, None] * values[choice.rows]).mean(axis=0))
    error = np.std(means, axis=0) / np.sqrt(len(means))
    assert bool((np.abs(np.mean(means, axis=0) - whole) < 4 * error + 1e-12).all())


@pytest.mark.parametrize("sampling", WAYS, ids=lambda way: f"{way.kind} {way.share}")
def test_the_same_draw_takes_the_same_rows(sampling: Sampling) -> None:
    first, second = (choose(sampling, _candidates()[0], np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(first.rows, second.rows)
    np.testing.assert_array_equal(first.factors, second.factors)


def _spread(sampling: Sampling) -> float:
    candidates, values = _candidates()
    draw = np.random.default_rng(2)
    means: list[float] = []
    for _ in range(1000):
        choice = choose(sampling, candidates, draw)
        means.append(float((candidates.weights[choice.rows] * choice.factors * values[choice.rows, 0]).mean()))
    return float(np.std(means))


def test_a_good_way_to_draw_makes_the_gradient_less_noisy() -> None:
    even = _spread(Importance(share=0.2, floor=1.0))
    assert _spread(Importance(share=0.2)) < even
    assert _spread(Stratified(share=0.2)) < _spread(Uniform(share=0.2))


def test_every_stratum_is_in_every_step() -> None:
    candidates, _ = _candidates()
    for seed in range(20):
        choice = choose(Stratified(share=0.05), candidates, np.random.default_rng(seed))
        assert set(candidates.strata[choice.rows]) == {0, 2, 7}
        assert len(set(choice.rows)) == len(choice.rows)


def test_labels_are_drawn_as_often_as_declared() -> None:
    candidates, _ = _candidates()
    even = Candidates(np.ones(ROWS), candidates.likely, candidates.strata, candidates.measure)
    taken = np.concatenate(
        [choose(Weighted(share=0.5, labels={"1": 10.0}), even, np.random.default_rng(seed)).rows for seed in range(200)]
    )
    assert np.mean(candidates.strata[taken] == 7) == pytest.approx(30 / (30 + 57), abs=0.02)


@pytest.mark.parametrize("sampling", WAYS, ids=lambda way: f"{way.kind} {way.share}")
@pytest.mark.parametrize("measured", [0.0, float("nan"), float("inf")])
def test_rows_without_a_gradient_and_one_row_alone_are_taken_too(sampling: Sampling, measured: float) -> None:
    alone = Candidates(np.ones(1), np.ones(1), np.zeros(1, np.int64), lambda: np.full(1, measured))
    choice = choose(sampling, alone, np.random.default_rng(0))
    assert set(choice.rows) == {0}
    np.testing.assert_allclose(choice.factors, 1.0)
