"""The world turns round under a platform: what waits is learned at once, and what came since is learned from scratch, once."""

import random
from collections.abc import Generator
from typing import Any

import pytest

from deploy.client import Client
from deploy.testing import TestPlatform, platform_in, until

COIN = """
from pydantic import BaseModel
from store.drift import Drift
from store.gates import Gates
from store.spec import ModelSpec, Schedule
class Features(BaseModel):
    x: float
spec = ModelSpec(
    name="coin", features=Features, schedule=Schedule(seconds=None, on_drift=True),
    gates=Gates(quality=None, found_slices=False),  # it would refuse what is worse on yesterday, for a while
    drift=Drift(short=64, long=256, watch=("concept",), respond=("alert", "retrain")),
)
"""
WAITING, TURNED = 1024, 640


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Generator[TestPlatform]:
    with pytest.MonkeyPatch.context() as patch, platform_in(tmp_path_factory.mktemp("drift")) as platform:
        patch.setenv("TIDEMILL_ARCHIVE_EVERY_S", "2")
        (platform.folder / "coin.py").write_text(COIN)
        platform.start("coin:spec")
        yield platform


def _live(client: Client, draw: random.Random, count: int, sign: float) -> None:
    for _ in range(0, count, 64):
        numbers = [draw.gauss(0.0, 1.0) for _ in range(64)]
        answered = client.predict("coin", [{"features": {"x": number}} for number in numbers])
        events = [{"id": one["id"], "label": float(sign * x > 0.0)} for one, x in zip(answered, numbers, strict=True)]
        client.feedback(events)


def _newest(client: Client, line: str) -> dict[str, Any] | None:
    return next((one for one in client.versions("coin") if one["line"] == line), None)


def test_a_shift_is_learned_at_once_and_from_scratch(platform: TestPlatform) -> None:
    draw = random.Random(3)
    with platform.client() as client:
        for _ in range(6):
            _live(client, draw, WAITING, 1.0)
            client.retrain("coin", 60.0)
        known = _newest(client, "main")
        assert known is not None
        _live(client, draw, TURNED, -1.0)

        def learned() -> bool:
            newest = _newest(client, "main")
            return newest is not None and newest["number"] > known["number"] and "drift" in newest["lineage"]["cut"]

        until(learned, "drift makes it learn what waits")
        until(lambda: "alarms so far: 1 concept" in platform.command("drift", "coin"), "it says what moved")

        since = TURNED

        def again() -> dict[str, Any] | None:
            nonlocal since
            _live(client, draw, 64, -1.0)
            since += 64
            return _newest(client, "retrained")

        until(again, "what came since the shift is learned from scratch")
        retrained = again()
        assert retrained is not None
        assert 256 <= retrained["outcomes"] < WAITING + since  # of six times WAITING before the turn
        _live(client, draw, TURNED, -1.0)
        client.retrain("coin", 60.0)
        latest = _newest(client, "retrained")
        assert latest is not None
        assert latest["number"] == retrained["number"]
        assert f"done, as version {latest['number']}," in platform.command("drift", "coin")
