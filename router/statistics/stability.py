"""Whether two versions, or two days, give the same distribution and the same order; histograms that merge."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

PSI_ALARM = 0.1
"""The customary threshold of the population stability index: below it, a shift is not worth a look however certain it is."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts of values between fixed edges: quantiles of latency or score as sums that merge.

    Bin i holds edges[i - 1] < value <= edges[i]; the first takes all up to the first edge, the last all above the last. So the
    share above an edge is exact, and a quantile is right to within its bin. Lists are taken for tuples, as decoders give them.

    Args:
        edges: ascending.
        counts: one more than edges; none: empty.

    >>> latency_s = Histogram.logarithmic(0.001, 10.0, per_decade=20).add(np.arange(1, 1001) / 1000)
    >>> round(latency_s.quantile(0.5), 2), latency_s.above(0.1)
    (0.5, 0.9)
    >>> (latency_s + latency_s).n
    2000
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "edges", tuple(self.edges))
        object.__setattr__(self, "counts", tuple(self.counts) or (0,) * (len(self.edges) + 1))
        if not self.edges or not all(one < other for one, other in pairwise(self.edges)):
            raise ValueError("edges must be at least one, and ascend")
        if len(self.counts) != len(self.edges) + 1 or min(self.counts) < 0:
            raise ValueError(f"{len(self.edges)} edges need {len(self.edges) + 1} counts, none below 0")

    @staticmethod
    def regular(low: float, high: float, bins: int) -> "Histogram":
        """An empty one with `bins` bins of equal width between `low` and `high`, for scores."""
        return Histogram(tuple(np.linspace(low, high, bins + 1).tolist()))

    @staticmethod
    def logarithmic(low: float, high: float, per_decade: int = 20) -> "Histogram":
        """An empty one with bins of equal ratio from `low` to `high`, for latencies: 20 per decade are 12 % wide each."""
        bins = math.ceil(per_decade * math.log10(high / low) - 1e-9)
        return Histogram(tuple(np.geomspace(low, high, bins + 1).tolist()))

    def add(self, values: Sequence[float] | np.ndarray) -> "Histogram":
        """Take in values; infinite ones too.

        Raises:
            ValueError: one is not a number.
        """
        given = np.asarray(values, dtype=np.float64)
        if np.isnan(given).any():
            raise ValueError("a value is not a number")
        found = np.bincount(np.searchsorted(self.edges, given, side="left"), minlength=len(self.counts))
        return replace(self, counts=tuple((np.array(self.counts) + found).tolist()))

    def __add__(self, other: "Histogram") -> "Histogram":
        if self.edges != other.edges:
            raise ValueError("only histograms of the same edges add up")
        return replace(self, counts=tuple(one + more for one, more in zip(self.counts, other.counts, strict=True)))

    @property
    def n(self) -> int:
        return sum(self.counts)

    def quantile(self, p: float) -> float | None:
        """The value that a share `p` stays at or below, interpolated within its bin; never beyond the edges. None while empty.

        For one that may be watched, take `p` less and more `dkw_radius(n)`.
        """
        if not 0.0 <= p <= 1.0:
            raise ValueError(f"p is {p}: it must lie between 0 and 1")
        if not self.n:
            return None
        edges = (self.edges[0], *self.edges, self.edges[-1])
        wanted = max(p * self.n, 1e-9)
        reached = np.cumsum(self.counts)
        at = int(np.searchsorted(reached, wanted, side="left"))
        into = 1.0 - (int(reached[at]) - wanted) / self.counts[at]
        return float(edges[at] + into * (edges[at + 1] - edges[at]))

    def above(self, x: float) -> float | None:
        """The share of values above `x`: exact at an edge, interpolated between two, at most this much beyond them.
        None while empty.
        """
        if not self.n:
            return None
        at = int(np.searchsorted(self.edges, x, side="left"))
        edges = (-math.inf, *self.edges, math.inf)
        width = edges[at + 1] - edges[at]
        inside = (edges[at + 1] - x) / width if math.isfinite(width) else float(x != edges[at + 1])
        return (sum(self.counts[at + 1 :]) + inside * self.counts[at]) / self.n


@dataclass(frozen=True, slots=True)
class PopulationStability:
    """The population stability index of two samples, and what it must exceed to alarm."""

    index: float
    threshold: float

    @property
    def alarm(self) -> bool:
        return self.index > self.threshold


def population_stability(
    reference: Sequence[int] | np.ndarray, current: Sequence[int] | np.ndarray, alpha: float = 0.01
) -> PopulationStability | None:
    """Compare two samples by their counts in the same bins: the sum of (p - q) log(p/q); None while either is empty.

    Without a shift it is (1/n + 1/m) times a chi-square with one degree less than bins (Yurdakul 2018), so small samples exceed
    the customary 0.1 by chance alone: it alarms above the larger of 0.1 and its own 1 - `alpha` quantile. Half a unit is added
    to each bin, so that an empty one has a logarithm; bins that both leave empty do not count. It is for one look, not for
    watching.

    >>> small = population_stability([5, 10, 15], [12, 9, 9])
    >>> large = population_stability([500, 1000, 1500], [1200, 900, 900])
    >>> small.alarm, large.alarm, round(large.index, 2)
    (False, True, 0.31)
    """
    from scipy import stats  # noqa: PLC0415 - slow to import, and the router must start fast

    counts = np.array([reference, current], dtype=np.float64)
    counts = counts[:, counts.sum(axis=0) > 0.0]
    totals = counts.sum(axis=1)
    if not totals.all():
        return None
    shares = (counts + 0.5) / (counts + 0.5).sum(axis=1, keepdims=True)
    index = float(((shares[1] - shares[0]) * np.log(shares[1] / shares[0])).sum())
    bins = counts.shape[1]
    chance = float(stats.chi2.ppf(1.0 - alpha, bins - 1) * (1.0 / totals).sum()) if bins > 1 else 0.0
    return PopulationStability(index, max(PSI_ALARM, chance))


def rank_correlation(one: Sequence[float] | np.ndarray, other: Sequence[float] | np.ndarray) -> float | None:
    """Spearman's rank correlation of two scores of the same items; equal scores share their mean rank. None where either has
    only one score.

    >>> rank_correlation([0.1, 0.2, 0.9], [1.0, 7.0, 7.5])
    1.0
    """
    ranks = np.stack([_ranks(np.asarray(one)), _ranks(np.asarray(other))])
    centred = ranks - ranks.mean(axis=1, keepdims=True)
    spread = math.sqrt(float((centred[0] @ centred[0]) * (centred[1] @ centred[1])))
    return float(centred[0] @ centred[1]) / spread if spread > 0.0 else None


def _ranks(scores: np.ndarray) -> np.ndarray:
    _, place, times = np.unique(scores, return_inverse=True, return_counts=True)
    return (np.cumsum(times) - (times - 1) / 2.0)[place]


def top_k_overlap(one: Sequence[float] | np.ndarray, other: Sequence[float] | np.ndarray, k: int) -> float:
    """The share of the `k` items that score highest by one that do so by the other, too; of equal scores, the first item
    counts as higher by both, so scores that are all the same agree.

    >>> top_k_overlap([9, 8, 7, 1], [9, 1, 8, 7], k=2)
    0.5
    """
    if not 0 < k <= len(one) or len(one) != len(other):
        raise ValueError(f"k is {k}, for {len(one)} and {len(other)} items")
    highest = [np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable")[:k] for scores in (one, other)]
    return len(np.intersect1d(highest[0], highest[1])) / k
