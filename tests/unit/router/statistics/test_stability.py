"""Histograms, stability and order: against numpy and scipy, and the alarm against what chance makes."""

import json
import math

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from router.statistics import Histogram, population_stability, rank_correlation, top_k_overlap

LISTS = st.lists(st.floats(-2, 2), min_size=1, max_size=50)


@given(LISTS, LISTS)
def test_histograms_of_parts_add_up(one: list[float], other: list[float]) -> None:
    empty = Histogram.regular(-1.0, 1.0, 16)
    assert empty.add(one) + empty.add(other) == empty.add(one + other)
    assert empty.add(one).n == len(one)


@given(LISTS, st.sampled_from(Histogram.regular(-1.0, 1.0, 16).edges))
def test_the_share_above_an_edge_is_exact(values: list[float], edge: float) -> None:
    histogram = Histogram.regular(-1.0, 1.0, 16).add(values)
    assert histogram.above(edge) == pytest.approx(np.mean(np.array(values) > edge))


@given(LISTS, st.floats(0, 1))
def test_a_quantile_is_right_to_within_its_bin(values: list[float], p: float) -> None:
    histogram = Histogram.regular(-2.0, 2.0, 32).add(values)
    found = histogram.quantile(p)
    assert found is not None
    assert found == pytest.approx(float(np.quantile(values, p, method="inverted_cdf")), abs=4 / 32 + 1e-9)


def test_quantiles_of_latencies_are_close() -> None:
    latency_s = np.random.default_rng(1).lognormal(-4.0, 1.0, 50_000)
    histogram = Histogram.logarithmic(1e-4, 100.0).add(latency_s)
    for p in (0.01, 0.5, 0.9, 0.99, 0.999):
        assert histogram.quantile(p) == pytest.approx(np.quantile(latency_s, p), rel=0.03)
        assert histogram.above(float(np.quantile(latency_s, p))) == pytest.approx(1 - p, abs=0.005)


def test_beyond_the_edges_it_says_no_more_than_it_knows() -> None:
    histogram = Histogram((0.0, 1.0)).add([-5.0, 0.5, 7.0, math.inf])
    assert (histogram.quantile(0.0), histogram.quantile(1.0)) == (0.0, 1.0)
    assert (histogram.above(-9.0), histogram.above(9.0), histogram.above(0.75)) == (1.0, 0.5, 0.5 + 0.25 / 4)
    assert histogram.above(0.0) == 0.75


def test_an_empty_one_says_nothing() -> None:
    empty = Histogram.logarithmic(0.001, 1.0)
    assert empty.quantile(0.5) is None
    assert empty.above(0.1) is None
    assert Histogram((0.0, 1.0, 2.0)).add([1.5]).quantile(0.0) == pytest.approx(1.0)


def test_its_state_travels() -> None:
    histogram = Histogram.logarithmic(0.001, 10.0).add([0.01, 0.2])
    state = {"edges": histogram.edges, "counts": histogram.counts}
    assert Histogram(**json.loads(json.dumps(state))) == histogram
    assert Histogram(**msgpack.unpackb(msgpack.packb(state))) == histogram


def test_logarithmic_edges_end_where_they_were_told_to() -> None:
    edges = Histogram.logarithmic(0.001, 10.0, per_decade=10).edges
    assert len(edges) == 41
    assert (edges[0], edges[-1]) == (0.001, 10.0)
    assert np.allclose(np.diff(np.log10(edges)), 0.1)


def test_what_is_no_histogram_is_refused() -> None:
    for edges, counts in (((), ()), ((1.0, 1.0), ()), ((math.nan, 1.0), ()), ((1.0,), (1, 2, 3)), ((1.0,), (1, -2))):
        with pytest.raises(ValueError, match="edges"):
            Histogram(edges, counts)
    with pytest.raises(ValueError, match="number"):
        Histogram((1.0,)).add([math.nan])
    with pytest.raises(ValueError, match="same edges"):
        _ = Histogram((1.0,)) + Histogram((2.0,))
    with pytest.raises(ValueError, match="p is"):
        Histogram((1.0,)).quantile(1.1)


def test_the_index_is_the_sum_that_everyone_writes() -> None:
    one, other = np.array([1000, 2000, 7000]), np.array([20_000, 30_000, 50_000])
    p, q = one / one.sum(), other / other.sum()
    found = population_stability(one, other)
    assert found is not None
    assert found.index == pytest.approx(float(((p - q) * np.log(p / q)).sum()), rel=1e-2)
    assert found.alarm


@pytest.mark.parametrize(("n", "m"), [(150, 150), (100, 5_000), (400, 60)])
def test_by_chance_alone_it_alarms_as_seldom_as_it_says(n: int, m: int) -> None:
    draw, shares = np.random.default_rng(2), np.full(10, 0.1)
    found = [population_stability(draw.multinomial(n, shares), draw.multinomial(m, shares), 0.05) for _ in range(1_000)]
    assert all(one and one.threshold == pytest.approx((1 / n + 1 / m) * stats.chi2.ppf(0.95, 9)) for one in found)
    assert 0.02 <= np.mean([one.alarm for one in found if one]) <= 0.07
    # The customary threshold alone would have cried wolf:
    assert np.mean([one.index > 0.1 for one in found if one]) > 0.2


def test_large_samples_alarm_only_above_the_customary_threshold() -> None:
    found = population_stability([10_000, 10_000], [10_500, 9_500])
    assert found is not None
    assert (found.threshold, found.alarm) == (0.1, False)


def test_empty_bins_and_empty_samples() -> None:
    one = population_stability([0, 50, 50, 0], [0, 0, 100, 0])
    assert one is not None
    assert math.isfinite(one.index)
    assert one == population_stability([50, 50], [0, 100])
    assert population_stability([0, 0], [1, 1]) is None
    alone = population_stability([5, 0], [7, 0])
    assert alone is not None
    assert (alone.index, alone.threshold) == (0.0, 0.1)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=3, max_size=40))
def test_the_rank_correlation_is_spearmans(pairs: list[tuple[int, int]]) -> None:
    one, other = zip(*pairs, strict=True)
    found = rank_correlation(one, other)
    if len(set(one)) == 1 or len(set(other)) == 1:
        assert found is None
    else:
        assert found == pytest.approx(stats.spearmanr(one, other)[0])


def test_the_highest_of_both() -> None:
    scores = [0.9, 0.1, 0.8, 0.3]
    assert top_k_overlap(scores, scores, 3) == 1.0
    assert top_k_overlap(scores, [-one for one in scores], 2) == 0.0
    assert top_k_overlap([1.0] * 4, scores, 2) == 0.5
    for k in (0, 5):
        with pytest.raises(ValueError, match="k is"):
            top_k_overlap(scores, scores, k)
