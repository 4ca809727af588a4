"""Schedules of the learning rate, by hand."""

import pytest

from store.learning import Constant, Cosine, InverseSquareRoot, Rate, StepDecay, WarmUp
from trainer.rates import share_of_rate


@pytest.mark.parametrize(
    ("rate", "shares"),
    [
        (Constant(), {0: 1.0, 10**9: 1.0}),
        (WarmUp(steps=4), {0: 0.25, 2: 0.75, 3: 1.0, 4: 1.0, 10**9: 1.0}),
        (Cosine(steps=100, floor=0.0), {0: 1.0, 50: 0.5, 100: 0.0, 10**9: 0.0}),
        (Cosine(steps=100, warm_up=10, floor=0.2), {0: 0.1, 9: 1.0, 10: 1.0, 60: 0.6, 110: 0.2, 111: 0.2}),
        (InverseSquareRoot(warm_up=100), {0: 0.01, 99: 1.0, 399: 0.5, 9_999: 0.1}),
        (StepDecay(every=10, factor=0.5, floor=0.2), {0: 1.0, 9: 1.0, 10: 0.5, 20: 0.25, 30: 0.2, 10**9: 0.2}),
    ],
    ids=lambda given: given.kind if isinstance(given, Constant | WarmUp | Cosine | InverseSquareRoot | StepDecay) else "",
)
def test_a_schedule_follows_its_formula(rate: Rate, shares: dict[int, float]) -> None:
    assert {steps: share_of_rate(rate, steps) for steps in shares} == pytest.approx(shares)
