"""Page and Hinkley's test: the sum of how far values lie above their mean (Page 1954)."""

import math

from river.drift import PageHinkley

SLACK = 0.5
"""What a mean may lie above the others, in its standard deviations; finds best what rises twice as far."""


class Cumulated:
    """River's Page-Hinkley test, upwards, over standardised means. `level`: false alarms accepted per mean."""

    name = "page-hinkley"

    def __init__(self, level: float) -> None:
        self._test = PageHinkley(min_instances=1, delta=SLACK, threshold=threshold(level), mode="up")

    def rose(self, mean: float) -> bool | None:
        """Take in a standardised mean; return whether the means have risen."""
        self._test.update(mean)
        return self._test.drift_detected


def threshold(level: float) -> float:
    """Return the threshold with which normal values give `level` false alarms each (Siegmund 1985, of the CUSUM).

    The mean time between false alarms is (exp(b) - b - 1) / (2 k²) with b = 2 k (h + 1.166), for a slack of k and a threshold
    of h.
    """
    between = 2.0 * SLACK**2 / level
    b = math.log(between + 1.0)
    for _ in range(50):
        b = math.log(between + b + 1.0)
    return max(1.0, b / (2.0 * SLACK) - 1.166)
