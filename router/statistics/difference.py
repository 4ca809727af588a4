"""Differences between two arms, and their standard errors, from sums that can be merged."""

from collections.abc import Sequence
from dataclasses import dataclass

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
