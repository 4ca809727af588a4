"""Rollouts on a running platform, under load: bad versions go by themselves, a better one reaches champion."""

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from deploy.client import ApiError, Client
from deploy.testing import Clients, TestPlatform, platform_in, until
from store.artefact import pack_weights
from store.protocols import Graph, Version
from store.publishing import publish
from store.redis_store import RedisStore
from store.testing.graphs import WIDTH, behaving, weights

MODEL = "vector"
SHARES = (0.1, 0.3, 0.5)
STEPS = [{"share": share, "min_s": 1.0, "min_units": 30} for share in SHARES]
JUDGING = {"window_s": 1.0, "labels_s": 1.0, "n_opt": 2000, "margin": 0.1}
_DRAWN = np.random.default_rng(7).normal(0.0, 1.5, WIDTH)
TRUE = _DRAWN - _DRAWN.mean()
"""The truth's weights; half of the labels are 1."""


@dataclass
class Crowd(Clients):
    """Clients that ask, and tell the truth a moment later. Units are new ones all the time."""

    url: str
    threads: int = 3
    answered: int = 0
    refusals: list[str] = field(default_factory=list[str])

    def __post_init__(self) -> None:
        self._draws = [np.random.default_rng(seed) for seed in range(self.threads)]

    def turn(self, client: Client, number: int) -> None:
        draw = self._draws[number]
        rows = draw.uniform(0.0, 1.0, (4, WIDTH))
        chances = 1 / (1 + np.exp(-rows @ TRUE))
        labels = (draw.random(4) < chances).astype(int)
        try:
            made = client.predict(MODEL, [{"features": {"x": row}} for row in rows.round(4).tolist()])
            self.answered += len(made)
            client.feedback([{"id": one["id"], "label": int(y)} for one, y in zip(made, labels, strict=True)])
        except ApiError as error:
            self.refusals.append(f"{error.status} {error}")


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestPlatform]:
    with platform_in(tmp_path_factory.mktemp("rollouts")) as place:
        place.start("examples.vector:spec")
        with place.client() as client:
            client.set_schedule(MODEL, None, None)
            sound = _publish(place, behaving("good"), weights()).number
            client.promote(MODEL, sound, "to have something to be compared with")
        yield place


def _publish(platform: TestPlatform, graph: Graph, packed: bytes) -> Version:
    async def run() -> Version:
        store = RedisStore(platform.running.redis_url)
        try:
            return await publish(store, MODEL, graph, packed, "trial")
        finally:
            await store.close()

    return asyncio.run(run())


def _ends(platform: TestPlatform, version: int) -> dict[str, Any]:
    """Wait until a version's rollout has ended; return the last decision on it."""
    with platform.client() as client:

        def ended() -> bool:
            return client.policy(MODEL)["policy"]["tried"] >= version and not client.experiments(MODEL)

        until(ended, f"the rollout of version {version} has ended")
        return client.audit(MODEL)[0]


def _plan(platform: TestPlatform, steps: list[dict[str, Any]] = STEPS, **judging: Any) -> None:
    with platform.client() as client:
        current = client.policy(MODEL)
        policy = current["policy"]
        policy["rollout"] = {"line": "trial", "steps": steps, "judging": JUDGING | judging}
        client.set_policy(MODEL, policy, current["epoch"])


@pytest.mark.parametrize(
    ("graph", "packed", "says"),
    [
        (behaving("good"), weights(scale=30.0), ("scores", "loss")),
        (behaving("throws"), weights(), ("errors",)),
        (behaving("slow", turns=900), weights(), ("latency",)),
        (behaving("nan"), weights(), ("errors",)),
    ],
    ids=["ruined weights", "throws on 5 %", "sleeps 50 ms", "NaN on 5 %"],
)
def test_a_bad_version_is_rolled_back_by_itself_and_no_client_sees_it(
    platform: TestPlatform, graph: Graph, packed: bytes, says: tuple[str, ...]
) -> None:
    _plan(platform)
    with Crowd(platform.url) as crowd, platform.client() as client:
        until(lambda: crowd.answered > 200, "there is a load")
        champion = client.policy(MODEL)["channels"]["champion"]
        version = _publish(platform, graph, packed).number
        decision = _ends(platform, version)
        assert decision["action"] == "roll back", decision
        assert any(word in decision["why"] for word in says), decision["why"]
        [gone] = [one for one in client.versions(MODEL) if one["number"] == version]
        assert gone["status"] == "rejected"
        assert gone["reason"] == decision["why"]
        known = client.experiment(MODEL, "rollout")["report"]
        assert known == decision["report"]
        assert (known["harmed_units"] > 0) == (says == ("errors",))
        assert 0.0 <= known["harmed_share"] < 0.1
        assert client.policy(MODEL)["channels"]["champion"] == champion
        answered = crowd.answered
        until(lambda: crowd.answered > answered + 50, "the load goes on")
    assert not crowd.refusals
    taken = sum(arm["units"] for arm in known["arms"])
    print(f"{decision['why']}; after {taken} units, harmed {known['harmed_share']:.2%}")


def test_a_better_version_reaches_champion(platform: TestPlatform) -> None:
    _plan(platform, better=True)
    with Crowd(platform.url) as crowd, platform.client() as client:
        better = behaving("good")
        packed = pack_weights({"w": TRUE.astype(np.float32).reshape(WIDTH, 1)})
        version = _publish(platform, better, packed).number
        decision = _ends(platform, version)
        assert (decision["action"], decision["after"]) == ("promote", f"'main' is version {version}"), decision
        assert client.policy(MODEL)["channels"]["champion"] == version
        until(lambda: client.predict(MODEL, [{"features": {"x": [0.1] * WIDTH}}])[0]["version"] == version, "it answers")
    assert not crowd.refusals


@pytest.mark.parametrize("victim", ["controllers", "redis", "replicas"])
def test_a_kill_in_each_state_of_a_rollout_skips_nothing_and_repeats_nothing(platform: TestPlatform, victim: str) -> None:
    """From the shadow to the last share the victim dies once in each step; the rollout goes on from where it was."""
    with platform.client() as client:
        before = len(client.audit(last=1000))
    steps = [{"kind": "shadow", "share": 1.0, "min_s": 1.0, "min_units": 30}, *STEPS]
    _plan(platform, steps=steps)
    with Crowd(platform.url) as crowd, platform.client() as client:
        until(lambda: crowd.answered > 200, "there is a load")
        # The champion's own weights once more: as good as it, so it is promoted where it need not be better.
        packed = pack_weights({"w": TRUE.astype(np.float32).reshape(WIDTH, 1)})
        version = _publish(platform, behaving("good"), packed).number
        struck: set[int] = set()

        def strike_or_ended() -> bool:
            try:
                policy = client.policy(MODEL)["policy"]
            except ApiError:
                return False
            for experiment in policy["experiments"]:
                step = experiment["progress"]["step"]
                if step not in struck and _struck(platform, victim):
                    struck.add(step)
            return policy["tried"] >= version and not policy["experiments"]

        until(strike_or_ended, f"the rollout of version {version} has ended")
        assert struck == set(range(len(steps)))
        records = client.audit(last=1000)
        actions = [record["action"] for record in records[: len(records) - before]][::-1]
        assert actions == ["set", "enter", "step", "step", "step", "promote"], actions
        epochs = [record["epoch"] for record in records]
        assert len(set(epochs)) == len(epochs)


def _struck(platform: TestPlatform, victim: str) -> bool:
    """Kill one, and return whether one was there: who died in the step before is reported until its lease ends."""
    for pid in [platform.redis_pid()] if victim == "redis" else platform.pids(victim):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            return True
    return False
