"""Early stopping: trials are compared at every rung."""

from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.schedulers import TrialScheduler

from tuning import search
from tuning.plan import REDUCTION, SearchPlan


@pytest.mark.parametrize("rung", [1, 2, 3])
def test_at_every_rung_what_is_not_among_the_best_third_is_stopped(rung: int) -> None:
    scheduler: Any = search._scheduler(SearchPlan(model="m", source=""))  # pyright: ignore[reportPrivateUsage]
    scheduler.set_search_properties(search.METRIC, "min")
    decided: list[str] = []
    for number in range(9):  # each is worse than those before
        trial = SimpleNamespace(trial_id=str(number))
        scheduler.on_trial_add(None, trial)
        result = {"training_iteration": rung, "budget": REDUCTION ** (rung - 1), search.METRIC: float(number)}
        decided.append(scheduler.on_trial_result(None, trial, result))
    assert decided[0] == TrialScheduler.CONTINUE
    assert set(decided[2:]) == {TrialScheduler.STOP}
