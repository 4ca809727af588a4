"""`tidemill tune` begins a search or takes one up, says what came of it, and what is wrong."""

import json
from pathlib import Path
from typing import Any

import pytest

from deploy import tuning
from deploy.tuning import Tuning
from store.search import Way
from tests.unit.deploy.conftest import FakePlatform
from tuning.alone import alone
from tuning.plan import SearchPlan
from tuning.result import Heldout, Placed, Result, Tried
from tuning.trial import Rung


def _tried(number: int, loss: float) -> Tried:
    rungs = (Rung(batches=20, loss=loss, judged=1),)
    return Tried(trial=number, key=str(number), settings={"learning.learning_rate": 0.25}, rungs=rungs)


class Searches:
    """What the command had carried out, and how that ends."""

    def __init__(self) -> None:
        self.plans: list[SearchPlan] = []
        self.carried_out: list[Path] = []
        self.winner, self.interrupted = 0.4, False
        self.failed: tuple[str, ...] = ()

    def begun(self, settings: Any, url: str, plan: SearchPlan, since: Any, until: Any) -> Path:
        self.plans.append(plan)
        return settings.home / "new"

    def tune(self, settings: Any, url: str, folder: Path, progress: Any) -> Tuning:
        self.carried_out.append(folder)
        progress(_tried(1, 0.5))
        if self.interrupted:
            raise KeyboardInterrupt
        result = Result(
            plan=SearchPlan(model="m", source=""), outcomes=300, batches=30, rungs=(20,), since=0.0, until=86_400.0,
            production=_tried(0, 0.45), leaderboard=(Placed(tried=_tried(1, 0.5)),), importance={}, way=Way(),
            heldout=Heldout(judged=100, winner=self.winner, production=0.46), failed=self.failed, version=7,
        )  # fmt: skip
        return Tuning(folder, result)


@pytest.fixture
def searches(monkeypatch: pytest.MonkeyPatch) -> Searches:
    searches = Searches()
    monkeypatch.setattr(tuning, "begun", searches.begun)
    monkeypatch.setattr(tuning, "tune", searches.tune)
    return searches


def _unfinished(platform: FakePlatform, number: str) -> Path:
    folder = platform.home / "tuning" / "m" / number
    folder.mkdir(parents=True)
    (folder / "plan.json").write_text(SearchPlan(model="m", source="").model_dump_json())
    return folder


def test_a_search_is_begun_as_it_was_asked_for(platform: FakePlatform, searches: Searches) -> None:
    said = " ".join(platform.says("tune", "m", "--trials", "5", "--no-asha", "--seed", "3").split())
    assert [(one.trials, one.asha, one.seed) for one in searches.plans] == [(5, False, 3)]
    assert "on 100 outcomes that no trial has seen: progressive loss 0.4000, as declared 0.4600" in said
    assert "'tidemill promote m 7 --why REASON'" in said


def test_the_newest_search_that_has_not_ended_is_taken_up(platform: FakePlatform, searches: Searches) -> None:
    folders = [_unfinished(platform, number) for number in ("0001", "0002", "0003")]
    (folders[2] / "result.json").touch()
    platform.says("tune", "m", "--resume")
    assert searches.carried_out == [folders[1].absolute()]
    assert not searches.plans


def test_where_no_search_is_unfinished_that_is_said(platform: FakePlatform, searches: Searches) -> None:
    assert "no search of model 'm' is unfinished: 'tidemill tune m' begins one" in platform.refuses("tune", "m", "--resume")


def test_a_search_that_goes_on_takes_no_other_settings(platform: FakePlatform, searches: Searches) -> None:
    _unfinished(platform, "0001")
    result = platform.run("tune", "m", "--resume", "--trials", "9")
    assert result.exit_code != 0
    assert "--resume goes on as it was begun" in " ".join(result.output.split())
    assert not searches.carried_out


def test_a_search_that_somebody_carries_out_is_not_taken_up_beside_them(platform: FakePlatform) -> None:
    folder = _unfinished(platform, "0001")
    with alone(folder, ""):
        assert f"another run works in {folder}: wait for it" in platform.refuses("tune", "m", "--resume")


def test_what_is_interrupted_can_be_taken_up(platform: FakePlatform, searches: Searches) -> None:
    searches.interrupted = True
    result = platform.run("tune", "m")
    assert result.exit_code != 0
    assert "'tidemill tune m --resume' goes on from the rungs that were learned" in " ".join(result.output.split())


def test_what_failed_and_that_nothing_is_to_be_adopted_is_said(platform: FakePlatform, searches: Searches) -> None:
    searches.winner, searches.failed = 0.5, ("trial 2: ValueError: [no] model learns so",)
    result = platform.run("tune", "m")
    said = " ".join(result.output.split())
    assert result.exit_code == 0
    assert "failed: trial 2: ValueError: [no] model learns so" in said
    assert "nothing to adopt" in said
    assert "as a record" in said
    body = json.loads(platform.run("tune", "m", "--json").stdout)
    assert (body["version"], body["failed"]) == (7, ["trial 2: ValueError: [no] model learns so"])
