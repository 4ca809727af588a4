"""What runs, at a glance: a row for each model where there is room for one, else a column."""

from typing import Any

import pytest

from deploy import cli_terminal
from tests.unit.deploy.conftest import FakePlatform


def _model(**changes: Any) -> dict[str, Any]:
    learner = {"recent_loss": 0.25, "verdict": "published"}
    join = {"counts": {"predictions": 1200, "labelled": 30}, "since_cut": 7}
    known = {"epoch": 3, "channels": {"main@latest": 41}, "trainable": True, "way": "", "lines": []}
    return known | {"learner": learner, "join": join} | changes


def _state(*names: str) -> dict[str, Any]:
    applied = {name: {"versions": {"main": 41, "new": 12}} for name in names}
    nobody: dict[str, list[Any]] = {role: [] for role in ("trainers", "controllers", "joiners", "supervisors")}
    replica = {"name": "r", "applied": applied, "counters": {}}
    return {"away": {}, "models": {name: _model() for name in names}, "replicas": [replica]} | nobody


def test_a_model_has_a_row_where_there_is_room(platform: FakePlatform) -> None:
    platform.answers["GET /admin/status"] = _state("click", "shop")
    rows = [line for line in platform.says("status").splitlines() if "main 41, new 12" in line]
    assert ["click" in rows[0], "shop" in rows[1]] == [True, True]


@pytest.mark.parametrize("count", [1, 3, 7])
def test_on_a_narrow_terminal_every_word_can_be_read(
    platform: FakePlatform, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.setattr(cli_terminal.out, "width", 80)
    names = [f"model-{number}" for number in range(count)]
    platform.answers["GET /admin/status"] = _state(*names)
    said = platform.says("status")
    assert "…" not in said
    assert all(name in said for name in names)
    for fact in ("predictions", "recent loss", "last batch", "label lag"):
        assert fact in said
    assert said.count("main 41, new 12") == count
    assert all(len(line) <= 80 for line in said.splitlines())
