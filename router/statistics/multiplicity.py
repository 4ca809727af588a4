"""Many arms or metrics at once: how much evidence each needs."""

import math
from collections.abc import Sequence


def family_wise(log_e: Sequence[float], alpha: float) -> list[bool]:
    """Which hypotheses are rejected so that a single wrong one among them has probability `alpha`: e >= K/alpha.

    >>> family_wise([math.log(70), math.log(30)], alpha=0.05)
    [True, False]
    """
    needed = math.log(len(log_e) / alpha) if log_e else 0.0
    return [one >= needed for one in log_e]


def discoveries(log_e: Sequence[float], alpha: float) -> list[bool]:
    """Which hypotheses e-BH rejects (Wang, Ramdas 2022, arXiv:2009.02824): the expected share of wrong ones is at most
    `alpha`, however the e-values depend on each other. With k rejected, each has e >= K/(alpha * k).

    >>> discoveries([math.log(50), math.log(45), math.log(2)], alpha=0.05)
    [True, True, False]
    """
    ranked = sorted(log_e, reverse=True)
    count = max((k for k, one in enumerate(ranked, 1) if one >= math.log(len(ranked) / (alpha * k))), default=0)
    return [one >= ranked[count - 1] if count else False for one in log_e]
