"""Policy changes under load while a learner publishes: nobody notices but the operator, who is never in the way."""

import asyncio
import threading
from collections import defaultdict
from collections.abc import Iterator
from time import monotonic
from typing import Any

import httpx
import pytest

from deploy.testing import TestPlatform, platform_in, until
from store.names import log_stream
from store.protocols import START
from store.records import Predictions, unpack_log
from store.redis_store import RedisStore

MODEL = "vector"
INSTANCE = {"features": {"x": [0.1] * 32}}
CHANGES = 200
CONNECTIONS = 32
ARMS = ("main", "a", "b")


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestPlatform]:
    with platform_in(tmp_path_factory.mktemp("storm")) as place:
        place.start("examples.vector:spec", replicas=2)
        yield place


class Load:
    """Connections that ask one after another, ten units each, and feed labels back; `failures` is what was not answered."""

    def __init__(self, url: str) -> None:
        self.answered = 0
        self.failures: list[str] = []
        self._url, self._stop = url, threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(n,), daemon=True) for n in range(CONNECTIONS)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, number: int) -> None:
        body = {"instances": [{**INSTANCE, "unit": f"u{number}-{unit}"} for unit in range(10)]}
        with httpx.Client(base_url=self._url, timeout=30.0) as client:
            while not self._stop.is_set():
                try:
                    reply = client.post(f"/models/{MODEL}/predict", json=body)
                    if reply.status_code != 200:
                        self.failures.append(f"{reply.status_code} {reply.text[:200]}")
                        continue
                    self.answered += 1
                    made = reply.json()["predictions"]
                    if number == 0:
                        client.post("/feedback", json={"events": [{"id": one["id"], "label": 1} for one in made]})
                except httpx.HTTPError as error:
                    self.failures.append(repr(error))


def _policy(turn: int) -> dict[str, Any]:
    """Of the even turns only `a`, of the odd ones only `b` has a share: an answer tells which policy planned it."""
    arm, share = ARMS[1 + turn % 2], (turn % 50 + 1) / 100
    return {
        "variants": [{"name": name} for name in ARMS],
        "default": "main",
        "experiments": [{"name": f"canary-{arm}", "kind": "canary", "shares": {arm: share}}],
    }


def test_hundreds_of_changes_and_no_request_fails_or_mixes_two_policies(platform: TestPlatform) -> None:
    with platform.client() as client, Load(platform.url) as load:
        client.set_schedule(MODEL, None, 2.0)
        until(lambda: load.answered > 50, "there is a load")
        first = client.versions(MODEL, 1)[0]["number"]
        arm_of: dict[int, str] = {}
        epoch = client.policy(MODEL)["epoch"]
        slowest = 0.0
        for turn in range(CHANGES):
            began = monotonic()
            # The learner publishes meanwhile, and this must not be refused for it.
            epoch = client.set_policy(MODEL, _policy(turn), epoch)["epoch"]
            slowest = max(slowest, monotonic() - began)
            arm_of[epoch] = ARMS[1 + turn % 2]
        published = client.versions(MODEL, 1)[0]["number"] - first
    assert not load.failures
    assert published > 0
    planned = _planned(platform)
    assert len(planned) > CHANGES / 4
    for at, arms in planned.items():
        assert arms <= {"main", arm_of.get(at, "main")}, f"epoch {at} was planned as {arms}"
    print(f"{CHANGES} changes, slowest {slowest:.3f} s, {load.answered} requests, {published} versions published")


def _planned(platform: TestPlatform) -> dict[int, set[str]]:
    """Which variants answered, by the epoch that their requests were planned on; a request has one epoch."""

    async def read() -> dict[int, set[str]]:
        store = RedisStore(platform.running.redis_url)
        found: dict[int, set[str]] = defaultdict(set)
        after = START
        while entries := await store.read(log_stream(MODEL), after, 1000):
            after = entries[-1].position
            for record in (unpack_log(entry.payload) for entry in entries):
                if isinstance(record, Predictions):
                    [epoch] = {served.epoch for served in record.served}
                    found[epoch] |= {served.variant for served in record.served}
        await store.close()
        return found

    return asyncio.run(read())
