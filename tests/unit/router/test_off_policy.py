"""What an arm would have earned on all of it, told from a share of the traffic, agrees with what it does earn."""

import numpy as np
import pytest
from pydantic import BaseModel

from router import revise
from router.off_policy import OffPolicy
from router.planner import Planner
from router.testing import two_versions
from store.policy import Experiment, Policy
from store.records import Outcome, Served
from store.spec import ModelSpec


class Features(BaseModel):
    x: float


RECORD = ModelSpec(name="m", features=Features).record


def _outcomes(shares: dict[str, float], units: int, seed: int = 0) -> list[Outcome]:
    """Conversions: 0.2 + 0.1 x with the champion, 0.3 + 0.2 x with the candidate; x is 0 or 1, half each."""
    draw = np.random.default_rng(seed)
    planner = Planner(revise(Policy(), two_versions(Experiment(name="e", kind="ab", shares=shares))))
    outcomes: list[Outcome] = []
    for number in range(units):
        plan = planner.plan(f"u{number}")
        x = float(draw.integers(2))
        rate = 0.3 + 0.2 * x if plan.variant == "candidate" else 0.2 + 0.1 * x
        served = Served(plan.variant, 1, plan.propensity, plan.experiments)
        label = int(draw.random() < rate)
        outcomes.append(Outcome(str(number), f"u{number}", [x], [0.5], served, label, "label", True, 0.0, 0.0, 0.0))
    return outcomes


@pytest.mark.parametrize("seed", range(3))
def test_all_three_estimates_tell_the_truth(seed: int) -> None:
    study = OffPolicy(RECORD, "candidate", "label")
    study.add(_outcomes({"champion": 0.8, "candidate": 0.2}, 20_000, seed))
    found = study.estimates()
    for name in ("ips", "snips", "doubly_robust"):
        assert found[name]["value"] == pytest.approx(0.4, abs=4 * found[name]["standard_error"])
        assert found[name]["interval"][0] < 0.4 < found[name]["interval"][1]
    assert found["doubly_robust"]["standard_error"] <= found["ips"]["standard_error"]
    assert found["effective_units"] == pytest.approx(4000, rel=0.1)


def test_without_support_there_is_no_answer() -> None:
    study = OffPolicy(RECORD, "candidate", "label")
    study.add(_outcomes({"champion": 1.0, "candidate": 0.0}, 500))
    assert "No support" in study.estimates()["ips"]["refused"]
    empty = OffPolicy(RECORD, "candidate", "label")
    assert empty.estimates()["snips"]["refused"]


def test_what_was_no_random_choice_and_what_moved_is_left_out() -> None:
    study = OffPolicy(RECORD, "candidate", "label")
    forced = Served("candidate", 1, 0.0)
    moved = [Served("champion", 1, 0.5), Served("candidate", 1, 0.5)]
    events = [
        Outcome("1", "tester", [0.0], [0.5], forced, 1, "label", True, 0.0, 0.0, 0.0),
        *(Outcome("2", "u", [0.0], [0.5], served, 1, "label", True, 0.0, 0.0, 0.0) for served in moved),
        Outcome("3", "v", [0.0], [0.5], moved[0], 1, "label", False, 0.0, 0.0, 0.0),
    ]
    study.add(events)
    assert (study.estimates()["units"], study.skipped) == (1, 2)
