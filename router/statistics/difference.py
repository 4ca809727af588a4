"""Differences between two arms, and their standard errors, from sums that can be merged."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class Difference:
    """An estimate of treatment minus baseline; `n` counts the units of both arms."""

    estimate: float
    standard_error: float
    n: int


@dataclass(frozen=True, slots=True)
class Moments:
    """Sums over units, each a small vector of measures: `sums` [k], `products` [k, k] (sums of pairwise products).

    A unit enters once. Moments of disjoint units add up.

    >>> a, b = Moments.of([[1.0], [3.0]]), Moments.of([[5.0]])
    >>> (a + b).n, (a + b).mean.tolist(), (a + b).covariance.tolist()
    (3, [3.0], [[4.0]])
    """

    n: int
    sums: np.ndarray
    products: np.ndarray

    @staticmethod
    def empty(measures: int) -> "Moments":
        return Moments(0, np.zeros(measures), np.zeros((measures, measures)))

    @staticmethod
    def of(units: Sequence[Sequence[float]] | np.ndarray) -> "Moments":
        """Moments of units [n, k]."""
        rows = np.asarray(units, dtype=np.float64)
        return Moments(len(rows), rows.sum(axis=0), rows.T @ rows)

    def pack(self) -> list[Any]:
        """Plain numbers, for msgpack or JSON; `unpacked` takes them back."""
        return [self.n, self.sums.tolist(), self.products.tolist()]

    @staticmethod
    def unpacked(packed: Sequence[Any]) -> "Moments":
        n, sums, products = packed
        return Moments(n, np.array(sums, dtype=np.float64), np.array(products, dtype=np.float64))

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(self.n + other.n, self.sums + other.sums, self.products + other.products)

    @property
    def mean(self) -> np.ndarray:
        return self.sums / self.n

    @property
    def covariance(self) -> np.ndarray:
        """Sample covariance [k, k], with n - 1; never negative on its diagonal, whatever rounding does."""
        centred = (self.products - np.outer(self.sums, self.sums) / self.n) / (self.n - 1)
        np.fill_diagonal(centred, np.maximum(np.diagonal(centred), 0.0))
        return centred


def mean_difference(baseline: Moments, treatment: Moments, measure: int = 0) -> Difference | None:
    """The difference of two means (Welch); None with fewer than two units in an arm.

    >>> mean_difference(Moments.of([[0.0], [2.0]]), Moments.of([[3.0], [5.0]]))
    Difference(estimate=3.0, standard_error=1.4142135623730951, n=4)
    """
    if min(baseline.n, treatment.n) < 2:
        return None
    estimate = treatment.mean[measure] - baseline.mean[measure]
    variance = sum(arm.covariance[measure, measure] / arm.n for arm in (baseline, treatment))
    return Difference(float(estimate), float(np.sqrt(variance)), baseline.n + treatment.n)


def adjusted_difference(baseline: Moments, treatment: Moments, outcome: int = 0, before: int = 1) -> Difference | None:
    """CUPED (Deng, Xu, Kohavi, Walker 2013): the difference of outcome - theta * (before - its mean).

    `before` is measured before the experiment; theta = Cov(outcome, before)/Var(before) is pooled within the arms, so that the
    effect itself does not enter it. Without variance in `before` this is the plain difference.
    """
    if min(baseline.n, treatment.n) < 2:
        return None
    arms = (baseline, treatment)
    pooled = sum(((arm.n - 1) * arm.covariance for arm in arms), np.zeros_like(baseline.products))
    theta = pooled[outcome, before] / pooled[before, before] if pooled[before, before] > 0.0 else 0.0
    means = [arm.mean[outcome] - theta * arm.mean[before] for arm in arms]
    variance = 0.0
    for arm in arms:
        covariance = arm.covariance
        residual = (
            covariance[outcome, outcome] - 2 * theta * covariance[outcome, before] + theta**2 * covariance[before, before]
        )
        variance += max(0.0, float(residual)) / arm.n
    return Difference(float(means[1] - means[0]), float(np.sqrt(variance)), baseline.n + treatment.n)


def adjusted_ratio_difference(
    baseline: Moments, treatment: Moments, numerator: int, denominator: int, before: int, before_denominator: int
) -> Difference | None:
    """The difference of two ratios, each unit's part of it adjusted by the same ratio from before the experiment: the delta
    method's linearised metric with CUPED (Deng, Knoblich, Lu 2018, section 4). Without variance before it is
    `ratio_difference`. Units without a past count as average ones.
    """
    plain = ratio_difference(baseline, treatment, numerator, denominator)
    past = baseline + treatment
    if plain is None or not past.sums[before_denominator] > 0.0:
        return plain
    arms = (baseline, treatment)
    past_ratio = past.sums[before] / past.sums[before_denominator]
    directions: list[tuple[np.ndarray, np.ndarray]] = []
    for arm in arms:
        now, then = np.zeros(len(arm.sums)), np.zeros(len(arm.sums))
        now[numerator], now[denominator] = 1.0, -arm.sums[numerator] / arm.sums[denominator]
        then[before], then[before_denominator] = 1.0, -past_ratio
        directions.append((now / arm.mean[denominator], then / past.mean[before_denominator]))
    shared = sum((arm.n - 1) * float(now @ arm.covariance @ then) for arm, (now, then) in zip(arms, directions, strict=True))
    spread = sum((arm.n - 1) * float(then @ arm.covariance @ then) for arm, (_, then) in zip(arms, directions, strict=True))
    if not spread > 0.0:
        return plain
    theta = shared / spread
    estimate, variance = plain.estimate, 0.0
    for sign, arm, (now, then) in zip((-1.0, 1.0), arms, directions, strict=True):
        estimate -= sign * theta * float(then @ arm.mean)
        adjusted = now - theta * then
        variance += max(0.0, float(adjusted @ arm.covariance @ adjusted)) / arm.n
    return Difference(estimate, float(np.sqrt(variance)), plain.n)


def ratio_difference(baseline: Moments, treatment: Moments, numerator: int = 0, denominator: int = 1) -> Difference | None:
    """The difference of two ratios of means, such as clicks per view, where the unit is the user (the delta method:
    Deng, Knoblich, Lu 2018, arXiv:1803.06336): each arm is linearised as (N - R * D)/mean D around its own ratio R.
    """
    if min(baseline.n, treatment.n) < 2 or not min(baseline.sums[denominator], treatment.sums[denominator]) > 0.0:
        return None
    ratios: list[float] = []
    variance = 0.0
    for arm in (baseline, treatment):
        ratio = float(arm.sums[numerator] / arm.sums[denominator])
        covariance = arm.covariance
        linear = (
            covariance[numerator, numerator]
            - 2 * ratio * covariance[numerator, denominator]
            + ratio**2 * covariance[denominator, denominator]
        )
        variance += max(0.0, float(linear)) / (arm.n * arm.mean[denominator] ** 2)
        ratios.append(ratio)
    return Difference(ratios[1] - ratios[0], float(np.sqrt(variance)), baseline.n + treatment.n)
