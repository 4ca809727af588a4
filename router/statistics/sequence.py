"""Means and differences: the asymptotic confidence sequence, and the e-value that belongs to it."""

import math
from dataclasses import dataclass

from router.statistics.difference import Difference


@dataclass(frozen=True, slots=True)
class AsymptoticSequence:
    """The normal-mixture confidence sequence of Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas (2024, arXiv:2103.06476).

    It is Howard, Ramdas, McAuliffe and Sekhon's mixture (2021) with r = 1/rho^2; mSPRT (Johari et al. 2022) is the same family.
    Two-sided: a decision needs the sign of the difference as well.

    Args:
        alpha: the chance, over all moments together, that the interval ever misses the truth.
        n_opt: the number of units, of all arms together, at which the interval is to be tightest.

    >>> sequence = AsymptoticSequence(alpha=0.05, n_opt=10_000)
    >>> edge = Difference(sequence.half_width(10_000, 0.01), 0.01, 10_000)
    >>> round(sequence.log_e(edge), 6) == round(math.log(1 / 0.05), 6)  # at the interval's own edge
    True
    """

    alpha: float
    n_opt: int

    def __post_init__(self) -> None:
        if not 0.0 < self.alpha < 1.0:
            raise ValueError(f"alpha is {self.alpha}: it must lie between 0 and 1")
        if self.n_opt < 1:
            raise ValueError(f"n_opt is {self.n_opt}: it must be at least 1")

    @property
    def rho_squared(self) -> float:
        """The mixture's variance, for the tightest interval at `n_opt` (their equation 11)."""
        twice = -2.0 * math.log(self.alpha)
        return (twice + math.log(twice + 1.0)) / self.n_opt

    def half_width(self, n: int, standard_error: float) -> float:
        """Half the interval's width, in the metric's unit, after `n` units of all arms; infinite without any."""
        if n < 1:
            return math.inf
        mixed = n * self.rho_squared + 1.0
        scale = standard_error * math.sqrt(n)
        return scale * math.sqrt(2.0 * mixed / (n * n * self.rho_squared) * (0.5 * math.log(mixed) - math.log(self.alpha)))

    def interval(self, difference: Difference) -> tuple[float, float]:
        # Without any spread so far nothing is known of it: that is not certainty.
        error = difference.standard_error
        half = self.half_width(difference.n, error) if error > 0.0 else math.inf
        return difference.estimate - half, difference.estimate + half

    def log_e(self, difference: Difference, null: float = 0.0) -> float:
        """Log of the e-value against "the difference is `null`"."""
        if difference.n < 1 or not difference.standard_error > 0.0:
            return 0.0
        mixed = difference.n * self.rho_squared + 1.0
        squared = difference.n * ((difference.estimate - null) / difference.standard_error) ** 2
        return self.rho_squared * squared / (2.0 * mixed) - 0.5 * math.log(mixed)
