"""Distributions that may be watched: a band around the empirical distribution function, for quantiles of latency or score."""

import math

_CONSTANTS = {0.05: 8.12, 0.01: 9.28, 0.001: 10.94}


def dkw_radius(n: int, alpha: float = 0.05) -> float:
    """The radius of a band that holds the true distribution function at all moments at once, with probability 1 - alpha
    (Howard, Ramdas 2022, Bernoulli 28(3), theorem 2): 0.85 * sqrt((log log(e * n) + C)/n).

    The quantile p then lies between the empirical quantiles p - radius and p + radius.

    Raises:
        ValueError: C is tabulated for alpha = 0.05, 0.01 and 0.001.

    >>> round(dkw_radius(10_000), 4)
    0.0275
    """
    if alpha not in _CONSTANTS:
        raise ValueError(f"alpha is {alpha}: the constant is known for {', '.join(map(str, _CONSTANTS))}")
    if n < 1:
        return 1.0
    return min(1.0, 0.85 * math.sqrt((math.log(math.log(math.e * n)) + _CONSTANTS[alpha]) / n))
