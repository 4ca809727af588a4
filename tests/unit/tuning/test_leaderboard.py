"""The page of a search says who won against what, and what is missing is said before any work."""

from pathlib import Path

import pytest

from store.search import Way
from tuning.errors import TuningError
from tuning.extras import require
from tuning.leaderboard import write_tuning
from tuning.plan import SearchPlan
from tuning.result import Cost, Heldout, Placed, Result, Tried
from tuning.trial import Rung

NAME = "<script>alert('m')</script>"


def _tried(number: int, *losses: float) -> Tried:
    rungs = tuple(Rung(batches=10 * (place + 1), loss=loss, judged=1) for place, loss in enumerate(losses))
    return Tried(trial=number, key=str(number), settings={"learning.learning_rate": 0.0123456}, rungs=rungs)


def _result(importance: dict[str, float]) -> Result:
    board = (
        Placed(tried=_tried(2, 0.5, 0.4), cost=Cost(parameters=1234, latency_s=3e-5), front=True),
        Placed(tried=_tried(3, 0.5, 1e9), cost=Cost(parameters=999, latency_s=2e-5)),
        Placed(tried=_tried(1, 0.6)),
    )
    return Result(
        plan=SearchPlan(model=NAME, source=""), outcomes=300, batches=30, rungs=(10, 20), since=0.0, until=86_400.0,
        production=_tried(0, 0.55, 0.45), leaderboard=board, importance=importance, way=Way(),
        heldout=Heldout(judged=100, winner=0.41, production=0.46), failed=(f"trial 4: {NAME}",), version=7,
    )  # fmt: skip


def test_the_page_says_who_won_against_the_declared_way(tmp_path: Path) -> None:
    write_tuning(tmp_path / "page.html", _result({"learning.learning_rate": 1.0}))
    written = (tmp_path / "page.html").read_text()
    assert "trial 2 has a progressive loss of 0.4100, 0.0500 less than the declared way&#x27;s 0.4600" in written
    assert "it is version 7 on line tuned" in written
    assert "<td>1,234</td><td>30</td><td>yes</td><td>learning_rate=0.0123</td>" in written
    assert "1 with more than 2 times the declared way&#x27;s loss are not drawn" in written
    assert "<h2>Failed</h2><ul><li>trial 4: &lt;script&gt;" in written
    assert "<script" not in written
    assert "src=" not in written


def test_few_trials_tell_nothing_of_what_mattered(tmp_path: Path) -> None:
    write_tuning(tmp_path / "page.html", _result({}))
    assert "Too few trials to tell" in (tmp_path / "page.html").read_text()


def test_what_is_not_installed_is_one_sentence() -> None:
    require("numpy", "anything")
    with pytest.raises(TuningError, match=r"^the page of a search needs nosuchmodule: pip install 'tidemill\[tuning\]'$"):
        require("nosuchmodule", "the page of a search")


@pytest.mark.parametrize("winner", [0.46, 0.47, float("nan")])
def test_a_winner_that_does_not_beat_the_declared_way_is_nothing_to_adopt(tmp_path: Path, winner: float) -> None:
    held = Heldout(judged=100, winner=winner, production=0.46)
    write_tuning(tmp_path / "page.html", _result({}).model_copy(update={"heldout": held}))
    assert "Nothing to adopt" in (tmp_path / "page.html").read_text()


def test_a_winner_that_beats_the_declared_way_is_not_called_nothing_to_adopt(tmp_path: Path) -> None:
    write_tuning(tmp_path / "page.html", _result({}))
    assert "Nothing to adopt" not in (tmp_path / "page.html").read_text()
