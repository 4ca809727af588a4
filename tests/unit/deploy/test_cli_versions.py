"""Versions are listed, shown and learned again; a model may be called as a command is."""

import json
from typing import Any

import pytest

from deploy import cli_versions
from tests.unit.deploy.conftest import FakePlatform
from trainer.lineage.reproduction import Reproduction

VERSION: dict[str, Any] = {
    "number": 4, "model": "m", "line": "main", "parent": 3, "status": "rejected", "reason": "it did harm", "position": "9-0",
    "log_position": "8-0", "created_at": 1_700_000_000.0, "graph": "aa", "weights": "bb", "spec": "cc", "outcomes": 1234,
    "metrics": {"loss": 0.5},
    "lineage": {
        "cut": "hand", "learning": {"learning_rate": 0.02, "seed": 3}, "environment": {"wheels": {"torch": "2"}, "threads": 1},
        "window": {"since": "2026-03-01"}, "why": "",
    },
}  # fmt: skip
LISTED = VERSION | {"metrics": {}}


def test_a_version_is_shown_with_all_it_comes_from(platform: FakePlatform) -> None:
    platform.answers["GET /admin/models/m/versions/4"] = VERSION
    said = platform.says("versions", "show", "m", "4").splitlines()
    shown = {line[:20].strip(): line[21:] for line in said}
    assert shown["version"] == "4 of m, line main"
    assert shown["status"] == "rejected: it did harm"
    assert (shown["parent"], shown["because of"], shown["outcomes"]) == ("3", "hand", "1,234")
    assert (shown["outcome stream"], shown["log"]) == ("up to 9-0", "joined up to 8-0")
    assert (shown["learning rate"], shown["seed"], shown["wheels"]) == ("0.02", "3", "torch 2")
    assert shown["window"] == "since 2026-03-01"
    assert "why" not in shown
    assert json.loads(platform.says("versions", "show", "m", "4", "--json")) == VERSION


@pytest.mark.parametrize(
    ("words", "model"),
    [
        (("m",), "m"),
        (("list", "m"), "m"),
        (("list", "show"), "show"),
        (("--last", "20", "m"), "m"),
        (("m", "--last", "20"), "m"),
    ],
)
def test_a_model_s_versions_are_listed(platform: FakePlatform, words: tuple[str, ...], model: str) -> None:
    platform.answers[f"GET /admin/models/{model}/versions?last=20"] = {"versions": [LISTED]}
    assert "rejected: it did harm" in platform.says("versions", *words)


@pytest.mark.parametrize("different", [0, 3])
def test_what_came_of_learning_it_again_is_said(
    platform: FakePlatform, monkeypatch: pytest.MonkeyPatch, different: int
) -> None:
    async def found(*_: Any) -> Reproduction:
        return Reproduction(4, 4, 120, "r" * 64, "l" * 64, different)

    monkeypatch.setattr(cli_versions, "_reproduce", found)
    monkeypatch.setattr(cli_versions, "give_way", lambda: None)
    result = platform.run("versions", "reproduce", "m", "4")
    if different:
        assert result.exit_code == 1
        assert "the weights of version 3 are the first that differ" in " ".join(result.output.split())
    else:
        assert result.exit_code == 0
        assert "version 4 comes out the same, bit for bit (4 versions, 120 outcomes learned again)" in result.output
    said = platform.run("versions", "reproduce", "m", "4", "--json")
    assert json.loads(said.stdout)["same"] is (different == 0)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--passes", "2"), "--passes means nothing without --from-archive"),
        (("--from-version", "2"), "--from-version means nothing without --from-archive"),
        (("--from-archive", "--scratch", "--from-version", "2"), "--scratch begins with no version"),
        (("--from-archive", "--until", "soon"), "--until soon: write a day or a time"),
    ],
)
def test_options_of_retraining_that_do_not_fit_are_refused(platform: FakePlatform, words: tuple[str, ...], said: str) -> None:
    assert said in platform.refuses("retrain", "m", *words)
