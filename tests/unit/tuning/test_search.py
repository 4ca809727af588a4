"""Early stopping: trials are compared at every rung."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.schedulers import TrialScheduler

from tests.unit.tuning.simulated import replay, spec
from tuning import search
from tuning.errors import TuningError
from tuning.plan import REDUCTION, SearchPlan
from tuning.trial import REPLAY, Rung


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


class FakeTuner:
    """Of three trials one comes to its first rung, one cannot begin, one's process dies."""

    fine = True

    def __init__(self, *_: Any, run_config: Any, **__: Any) -> None:
        self._watch = run_config.callbacks[0]

    def fit(self) -> list[Any]:
        rungs = [Rung(batches=1, loss=0.5, judged=1).model_dump()]
        trial = SimpleNamespace(trial_id="a")
        if self.fine:
            self._watch.on_trial_result(1, [trial], trial, {"key": "k", "settings": {}, "rungs": rungs})
        config = {"_plan": {}, "learning.learning_rate": 0.25}
        return [
            SimpleNamespace(error=None, config=config),
            SimpleNamespace(error=RuntimeError("Traceback: …\n  at work\nValueError: no model learns so\n"), config=config),
            SimpleNamespace(error=OSError(), config=config),
        ]


@pytest.mark.parametrize("fine", [True, False])
def test_trials_that_failed_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fine: bool) -> None:
    monkeypatch.setattr(search.tune, "Tuner", FakeTuner)
    monkeypatch.setattr(FakeTuner, "fine", fine)
    replay(9).save(tmp_path / REPLAY)
    plan = SearchPlan(model="m", source="", trials=3)
    if fine:
        found = search.search(plan, spec.searched, tmp_path)
        assert [one.trial for one in found.tried] == [1]
        assert found.failed == (
            "trial 2: ValueError: no model learns so (learning_rate=0.25)",
            "trial 3: OSError (learning_rate=0.25)",
        )
    else:
        with pytest.raises(TuningError, match="all failed, such as trial 2: ValueError: no model learns so"):
            search.search(plan, spec.searched, tmp_path)
