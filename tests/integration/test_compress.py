"""Compressed versions answer in a replica as any version does, published by hand or behind every version of a line."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from itertools import count
from typing import Any

import httpx
import pytest

from deploy.compressing import Workshop
from serving.settings import ServingSettings
from serving.testing import GOOD, TOKEN, serving
from store.errors import Fenced
from store.protocols import Version
from store.publishing import publish
from store.redis_store import RedisStore
from store.spec import ModelSpec, Schedule
from tests.integration.conftest import Features
from trainer.errors import CompressionError
from trainer.loop import Trainer

pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("default")]

ROWS = 120


@dataclass
class Place:
    trainer: Trainer
    store: RedisStore
    client: httpx.AsyncClient

    async def predict(self, x: float) -> tuple[int, float, str]:
        """Return the version that answered, its probability, and the prediction's id."""
        body = {"instances": [{"features": GOOD | {"x": x}}]}
        [made] = (await self.client.post("/models/m/predict", json=body)).json()["predictions"]
        return made["version"], made["output"]["probability"], made["id"]

    async def learn(self) -> None:
        """Predict, say what was true, and let the trainer take it all."""
        for number in range(ROWS):
            x = (number % 13 - 6) / 3
            *_, id_ = await self.predict(x)
            await self.client.post("/feedback", json={"events": [{"id": id_, "label": int(x > 0)}]})
        await self.client.post("/admin/models/m/retrain", json={"wait_s": 0}, headers=TOKEN)
        before = self.trainer.progress["version"]
        async with asyncio.timeout(60):
            while self.trainer.progress["version"] == before:
                await self.trainer.step(0.01)

    async def follow(self, **variant: str | int) -> None:
        """Let one variant answer all requests."""
        etag = (await self.client.get("/admin/models/m/policy", headers=TOKEN)).headers["etag"]
        policy = {"variants": [{"name": "it"} | variant], "default": "it"}
        reply = await self.client.put("/admin/models/m/policy", headers=TOKEN | {"if-match": etag}, json=policy)
        assert reply.status_code == 200, reply.text


@pytest.fixture
async def place(redis_url: str, prefix: str) -> AsyncIterator[Place]:
    store = RedisStore(redis_url, prefix)
    spec = ModelSpec(name="m", features=Features, schedule=Schedule(seconds=None), compress="dynamic_int8")
    trainer = Trainer(spec, store)
    await trainer.start()
    async with serving(ServingSettings(redis_url=redis_url, prefix=prefix, token="secret")) as client:
        yield Place(trainer, store, client)
    await store.close()


async def test_children_answer_in_a_replica_as_their_parent_does(place: Place) -> None:
    await place.learn()
    parent = int(str(place.trainer.progress["version"]))
    workshop = Workshop(place.store, "m")
    found = await workshop.measure(parent, ["dynamic_int8", "static_int8", "fp16"])
    await workshop.publish(found, ["dynamic_int8", "static_int8", "fp16"])
    assert found.outcomes == ROWS
    await place.follow(version=parent)
    expected = {x: (await place.predict(x))[1] for x in (-1.5, 0.0, 1.5)}
    for child in found.candidates[1:]:
        assert child.version > parent
        assert child.quality["agreement"] > 0.9
        assert child.quality["auc"] == pytest.approx(found.candidates[0].quality["auc"], abs=0.05)
        await place.follow(version=child.version)
        for x, probability in expected.items():
            version, answered, _ = await place.predict(x)
            assert version == child.version
            assert answered == pytest.approx(probability, abs=0.02)


async def test_of_two_who_compress_a_version_at_once_one_publishes(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both have seen that there is no such version yet when the first of them publishes it."""
    methods = ["dynamic_int8", "fp16"]
    together, calls = asyncio.Barrier(2), count()

    async def late(*given: Any, **more: Any) -> Version:
        if next(calls) < 2:
            await together.wait()
        return await publish(*given, **more)

    monkeypatch.setattr("deploy.compressing.publish", late)
    workshops = [Workshop(place.store, "m") for _ in range(2)]
    found = [await workshop.measure(1, methods) for workshop in workshops]
    await asyncio.gather(*(workshop.publish(one, methods) for workshop, one in zip(workshops, found, strict=True)))
    said = [[(one.version, one.before) for one in each.candidates[1:]] for each in found]
    for method, one, other in zip(methods, *said, strict=True):
        assert one[0] == other[0], method
        assert {one[1], other[1]} == {False, True}, method
    children = [one for one in await place.store.versions("m") if one.line not in ("main", "main-compressed")]
    assert sorted(one.line for one in children) == ["main-dynamic-int8", "main-fp16"]


async def test_others_who_keep_publishing_are_said(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fenced(*_: Any, **__: Any) -> Version:
        raise Fenced("learner", "1-0", "2-0")

    monkeypatch.setattr("deploy.compressing.publish", fenced)
    workshop = Workshop(place.store, "m")
    found = await workshop.measure(1, ["fp16"])
    with pytest.raises(CompressionError, match="others keep publishing on line main-fp16 of model 'm'"):
        await workshop.publish(found, ["fp16"])


async def test_an_arm_that_follows_the_compressed_line_is_as_fresh_as_the_line(place: Place) -> None:
    await place.follow(line="main-compressed")
    for _ in range(2):
        await place.learn()
        parent = int(str(place.trainer.progress["version"]))
        async with asyncio.timeout(30):
            while (number := (await place.predict(0.5))[0]) < parent:  # noqa: ASYNC110 - asked as any client asks
                await asyncio.sleep(0.01)
        child = await place.store.version("m", number)
        assert (child.line, child.parent) == ("main-compressed", parent)
        assert child.position == (await place.store.version("m", parent)).position
