"""Lines are added with a few settings, listed with how they do, and ended."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.deploy.conftest import FakePlatform

LINE: dict[str, Any] = {
    "name": "fast", "status": "active", "start": "main", "settings": {"learning_rate": 0.1, "optimiser": {"kind": "adam"}},
    "begun": True, "caught_up": True, "behind_s": 0.0, "version": 12, "recent_loss": 0.4,
    "compared": {
        "micro_batches": 9, "outcomes": 9000, "loss": 0.41, "main_loss": 0.45, "difference": -0.04, "low": -0.06, "high": -0.02,
    },
}  # fmt: skip


def test_a_line_is_added_with_settings_of_learning_and_of_the_shape(platform: FakePlatform, tmp_path: Path) -> None:
    platform.answers["POST /admin/models/m/lines"] = (201, LINE)
    told = platform.says(
        "line", "add", "m", "fast", "--set", "learning_rate=0.1", "--set", "hidden=[32]", "--set", "optimiser=adam"
    )
    assert "line 'fast' begins with main: learning_rate 0.1, optimiser adam" in told
    sent = platform.sent("POST /admin/models/m/lines")
    assert sent["learning"] == {"learning_rate": 0.1, "optimiser": {"kind": "adam"}}
    assert (sent["shape"], sent["start"]) == ({"hidden": [32]}, "main")
    for given in ({"passes": 2}, {"learning": {"passes": 2}}):
        file = tmp_path / "way.json"
        file.write_text(json.dumps(given))
        platform.says("line", "add", "m", "fast", "--learning", str(file), "--set", "rows=8", "--from", "7")
        sent = platform.sent("POST /admin/models/m/lines")
        assert (sent["learning"], sent["shape"], sent["start"]) == ({"passes": 2, "rows": 8}, {}, "7")
    assert "learning_rate=0.005" in platform.refuses("line", "add", "m", "fast", "--set", "learning_rate")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, ("learns", "-0.0400 (-0.0600 to -0.0200)", "9,000", "learning_rate 0.1")),
        ({"caught_up": False, "behind_s": 7200.0, "compared": None}, ("catches up, 2 h behind main",)),
        ({"begun": False}, ("starts",)),
        ({"status": "promoted"}, ("promoted",)),
    ],
)
def test_lines_are_listed_with_how_they_do(platform: FakePlatform, changes: dict[str, Any], says: tuple[str, ...]) -> None:
    platform.answers["GET /admin/models/m/lines"] = {"main": {"line": "old"}, "lines": [LINE | changes]}
    told = platform.says("line", "list", "m")
    assert "main learns as line 'old' did" in told
    assert all(one in told for one in says), told


def test_a_line_is_retired_and_promoted(platform: FakePlatform) -> None:
    platform.answers["POST /admin/models/m/lines/fast/retire"] = LINE
    platform.answers["POST /admin/models/m/lines/fast/promote"] = {"version": 13}
    assert "is retired" in platform.says("line", "retire", "m", "fast", "--why", "no better")
    assert platform.sent("POST /admin/models/m/lines/fast/retire") == {"why": "no better"}
    assert "main now, as version 13" in platform.says("line", "promote", "m", "fast")
    platform.says("line", "promote", "m", "fast", "--force", "--why", "now", "--json")
    assert platform.sent("POST /admin/models/m/lines/fast/promote") == {"why": "now", "force": True}


def test_the_worst_line_begins_anew_with_the_best(platform: FakePlatform) -> None:
    way = {"learning": {"learning_rate": 0.1, "weight_decay": 0.001}, "shape": {"hidden": [8]}}
    compared = LINE["compared"] | {"micro_batches": 30}
    good = LINE | {"name": "good", "way": way, "born": 1, "compared": compared}
    bad = LINE | {"name": "bad", "way": way, "born": 2, "compared": compared | {"difference": 0.01}}
    main = {"line": None, "learning": way["learning"], "shape": way["shape"]}
    platform.answers["GET /admin/models/m/lines"] = {"main": main, "lines": [good, bad, LINE | {"status": "retired"}]}
    platform.answers["POST /admin/models/m/lines"] = (201, bad)
    assert "line 'bad' begins anew with good" in platform.says("line", "evolve", "m")
    sent = platform.sent("POST /admin/models/m/lines")
    assert (sent["name"], sent["start"], sent["instead"], sent["shape"]) == ("bad", "good", True, {"hidden": [8]})
    platform.answers["GET /admin/models/m/lines"] = {"main": main, "lines": []}
    assert "no line is worse" in platform.says("line", "evolve", "m")
