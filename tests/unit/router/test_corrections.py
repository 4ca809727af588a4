"""A label that changes within its window counts once, as what it became."""

import numpy as np
import pytest

from router import revise
from router.accounts import ArmsAccount
from router.off_policy import OffPolicy
from router.report import forecast
from router.rollout import find
from router.testing import BINARY, two_versions
from store.policy import Experiment, Policy
from store.records import Outcome, Served

AB = Experiment(name="trial", kind="ab", shares={"champion": 0.5, "candidate": 0.5})


def _streams(count: int = 4000) -> tuple[list[Outcome], list[Outcome]]:
    """The same outcomes twice: right at once, and with a fifth of them wrong first and put right later, in any order."""
    draw = np.random.default_rng(0)
    right: list[Outcome] = []
    wrong: list[Outcome] = []
    for number in range(count):
        variant = ("champion", "candidate")[number % 2]
        served = Served(variant, 1 + number % 2, 0.5, ("trial",), 0.0, 1)
        label, output = int(draw.random() < 0.3), [float(draw.uniform(0.1, 0.9))]
        at = number / 1000.0
        one = Outcome(str(number), f"u{number // 2 % 500}{variant}", [], output, served, label, "label", True, at, at, at)
        right.append(one)
        if draw.random() < 0.2:
            wrong.append(one._replace(label=1 - label))
            wrong.append(one._replace(kind="correction", replaces=1 - label))
        else:
            wrong.append(one)
    late = [one for one in wrong if one.replaces is not None]
    return right, [one for one in wrong if one.replaces is None] + late


def _sums(outcomes: list[Outcome]) -> list[np.ndarray]:
    policy = revise(Policy(), two_versions(AB))
    account = ArmsAccount(find(policy, "trial"), BINARY)
    account.begin(find(policy, "trial"), 1)
    for one in outcomes:
        account.outcome(one)
    account.close(1e9)
    return [moments.sums for moments in account.moments]


def test_an_experiment_counts_what_labels_became() -> None:
    expected, found = map(_sums, _streams())
    for arm, sums in enumerate(expected):
        assert sums[1] > 0
        assert found[arm] == pytest.approx(sums)


@pytest.mark.parametrize("metric", ["loss", "label"])
def test_off_policy_estimates_go_by_what_labels_became(metric: str) -> None:
    values: list[float] = []
    for outcomes in _streams():
        study = OffPolicy(BINARY, "candidate", "loss" if metric == "loss" else "label")
        study.add(outcomes)
        values.append(study.estimates()["ips"]["value"])
    assert values[1] == pytest.approx(values[0])


def test_a_forecast_goes_by_what_labels_became() -> None:
    expected, found = (forecast(AB, BINARY, outcomes) for outcomes in _streams())
    assert found["value"] == pytest.approx(expected["value"])
    assert found["deviation"] == pytest.approx(expected["deviation"])
