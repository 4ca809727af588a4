"""Schedules of the learning rate: functions of how many steps were taken, which is in the checkpoint."""

import math

from store.learning import Constant, Cosine, InverseSquareRoot, Rate, StepDecay, WarmUp


def share_of_rate(rate: Rate, steps: int) -> float:
    """Return by what the learning rate is multiplied in the step after `steps` steps.

    >>> [share_of_rate(WarmUp(steps=4), steps) for steps in range(5)]
    [0.25, 0.5, 0.75, 1.0, 1.0]
    """
    match rate:
        case Constant():
            return 1.0
        case WarmUp(steps=over):
            return min(1.0, (steps + 1) / over)
        case Cosine():
            if steps < rate.warm_up:
                return (steps + 1) / rate.warm_up
            done = min(1.0, (steps - rate.warm_up) / rate.steps)
            return rate.floor + (1.0 - rate.floor) * (1.0 + math.cos(math.pi * done)) / 2.0
        case InverseSquareRoot(warm_up=over):
            return min((steps + 1) / over, math.sqrt(over / (steps + 1)))
        case StepDecay():
            return max(rate.floor, rate.factor ** (steps // rate.every))
