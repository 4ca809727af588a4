"""A line learns beside main on a running platform, answers an arm of an experiment, wins it and is main."""

import os
import random
import signal
from collections.abc import Generator
from typing import Any

import pytest

from deploy.client import ApiError, Client
from deploy.testing import TestPlatform, platform_in, until

COIN = """
from pydantic import BaseModel
from store.spec import ModelSpec, Schedule
class Features(BaseModel):
    x: float
spec = ModelSpec(name="coin", features=Features, schedule=Schedule(outcomes=40, seconds=None))
"""


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Generator[TestPlatform]:
    with platform_in(tmp_path_factory.mktemp("lines")) as platform:
        (platform.folder / "coin.py").write_text(COIN)
        platform.start("coin:spec")
        yield platform


def _live(client: Client, draw: random.Random, count: int = 80) -> list[dict[str, Any]]:
    """Ask for predictions and say what was true."""
    answers = list[dict[str, Any]]()
    for _ in range(0, count, 20):
        numbers = [draw.gauss(0.0, 1.0) for _ in range(20)]
        asked = [{"features": {"x": number}, "unit": str(draw.random())} for number in numbers]
        answers += (answered := client.predict("coin", asked))
        events = [{"id": one["id"], "label": float(number > 0.0)} for one, number in zip(answered, numbers, strict=True)]
        client.feedback(events)
    return answers


def _line(client: Client, name: str) -> dict[str, Any]:
    return next(one for one in client.lines("coin")["lines"] if one["name"] == name)


def test_a_line_is_added_tried_and_made_main(platform: TestPlatform) -> None:
    draw = random.Random(5)
    with platform.client() as client:
        _live(client, draw)
        platform.command("line", "add", "coin", "fast", "--set", "learning_rate=0.1", "--why", "it may be too slow")
        until(lambda: _line(client, "fast")["caught_up"] and _line(client, "fast")["version"], "the line learns")
        client.start_experiment(
            "coin",
            {"name": "rate", "kind": "ab", "shares": {"main": 0.5, "fast": 0.5}},
            [{"name": "fast", "line": "fast"}],
        )
        with pytest.raises(ApiError, match="experiment 'rate' follows it"):
            client.end_line("coin", "fast", "retire")
        _live(client, draw, 160)
        answers = _live(client, draw)
        by = {one["variant"]: one["version"] for one in answers}
        assert by.keys() == {"main", "fast"}
        assert {client.version("coin", by[name])["line"] for name in by} == {"main", "fast"}
        until(lambda: _line(client, "fast")["compared"], "both have scored the same micro-batch")

        client.move_experiment("coin", "rate", "promote", "it learns faster")
        assert _line(client, "fast")["status"] == "promoted"
        policy = client.policy("coin")["policy"]
        assert (policy["experiments"], [one["name"] for one in policy["variants"]]) == ([], ["main"])
        said = next(one for one in client.audit("coin") if one["action"] == "promote line")
        assert (said["experiment"], said["why"], said["evidence"][0]["settings"]) == (
            "rate", "it learns faster", {"learning_rate": 0.1},
        )  # fmt: skip
        assert said["evidence"][0]["compared"]["outcomes"] >= 40

        def learned_so() -> bool:
            _live(client, draw, 40)
            newest = next(one for one in client.versions("coin") if one["line"] == "main")
            lineage = newest["lineage"]
            return lineage.get("way", {}).get("line") == "fast" and lineage["learning"]["learning_rate"] == 0.1

        until(learned_so, "main goes on in the line's way")
        assert client.status()["models"]["coin"]["way"] == "fast"
        assert "main learns as line 'fast' did" in platform.command("status")

        client.add_line("coin", {"name": "wide", "shape": {"hidden": [8]}})
        until(lambda: _line(client, "wide")["caught_up"], "a line of another shape has caught up")
        assert len(platform.pids("trainers")) == 2
        learner = next(one for one in client.status()["trainers"] if one["name"] == "trainer:coin:wide")
        before = _line(client, "wide")["version"]
        os.kill(learner["pid"], signal.SIGKILL)
        _live(client, draw)
        until(lambda: _line(client, "wide")["version"] > before, "another learner goes on")
        platform.command("line", "retire", "coin", "wide")
        until(lambda: len(platform.pids("trainers")) == 1, "its learner has ended", 30.0)
        assert _line(client, "wide")["status"] == "retired"
