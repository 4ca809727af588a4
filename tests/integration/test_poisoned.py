"""A flood of wrong labels through HTTP: caught, the version that answers unharmed, and the operator told why."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import numpy as np
import pytest
from pydantic import BaseModel

from serving.settings import ServingSettings
from serving.testing import TOKEN, serving
from store.redis_store import RedisStore
from store.spec import LabelPolicy, ModelSpec, Schedule
from trainer.loop import Trainer

pytestmark = pytest.mark.anyio

BATCH, HONEST, POISONED = 200, 12, 4


class Features(BaseModel):
    x: float


OF_TWO = LabelPolicy(sources={"desk": 0.95, "partner": 0.9})
SPECS = [
    ModelSpec(name="believing", features=Features, schedule=Schedule(outcomes=BATCH, seconds=None)),
    ModelSpec(name="doubting", features=Features, schedule=Schedule(outcomes=BATCH, seconds=None), labels=OF_TWO),
]
CLEAN = np.random.default_rng(99).normal(size=400)


class Place:
    """Models behind HTTP, their trainers in this process."""

    def __init__(self, client: httpx.AsyncClient, trainers: dict[str, Trainer]) -> None:
        self.client, self._trainers = client, trainers
        self._draw = np.random.default_rng(5)
        self._asked = 0

    async def ask(self, model: str, numbers: np.ndarray) -> list[dict[str, Any]]:
        self._asked += 1
        asked = [{"features": {"x": x}, "id": f"{self._asked}-{row}"} for row, x in enumerate(numbers.tolist())]
        reply = await self.client.post(f"/models/{model}/predict", json={"instances": asked})
        assert reply.status_code == 200, reply.text
        return reply.json()["predictions"]

    async def batch(self, model: str, source: str = "", lies: bool = False) -> None:
        """A micro-batch of answers, each labelled by a source: rightly, or every one wrongly."""
        numbers = self._draw.normal(size=BATCH)
        answers = await self.ask(model, numbers)
        truth = self._draw.random(BATCH) < 1.0 / (1.0 + np.exp(-3.0 * numbers))
        events = [
            {"model": model, "id": answer["id"], "label": int(label != lies), "source": source}
            for answer, label in zip(answers, truth.tolist(), strict=True)
        ]
        assert (await self.client.post("/feedback", json={"events": events})).status_code == 202
        while await self._trainers[model].step(0.01):
            pass

    async def live(self, model: str) -> int:
        """Wait until the newest version answers; return its number."""
        newest = next(one["number"] for one in await self.versions(model) if one["status"] == "published")
        async with asyncio.timeout(60):
            while (await self.ask(model, CLEAN[:1]))[0]["version"] != newest:  # noqa: ASYNC110 - asked as any client asks
                await asyncio.sleep(0.02)
        return newest

    async def clean_loss(self, model: str) -> float:
        """The log loss expected of what is answered, where labels are right."""
        answers = np.array([one["output"]["probability"] for one in await self.ask(model, CLEAN)])
        true = 1.0 / (1.0 + np.exp(-3.0 * CLEAN))
        return float(-(true * np.log(answers) + (1.0 - true) * np.log(1.0 - answers)).mean())

    async def versions(self, model: str) -> list[dict[str, Any]]:
        """Newest first."""
        return (await self.client.get(f"/admin/models/{model}/versions", headers=TOKEN)).json()["versions"]

    async def told(self, model: str) -> dict[str, Any]:
        """What the status says of a model's learner."""
        return (await self.client.get("/admin/status", headers=TOKEN)).json()["models"][model]["learner"]


@pytest.fixture
async def place(redis_url: str, prefix: str) -> AsyncIterator[Place]:
    store = RedisStore(redis_url, prefix)
    trainers = {spec.name: Trainer(spec, store) for spec in SPECS}
    for trainer in trainers.values():
        await trainer.start()
    async with serving(ServingSettings(redis_url=redis_url, prefix=prefix, token="secret")) as client:
        yield Place(client, trainers)
    await store.close()


async def test_wrong_labels_that_are_taken_at_their_word_stop_at_the_quality_gate(place: Place) -> None:
    for _ in range(HONEST):
        await place.batch("believing")
    champion, before = await place.live("believing"), await place.clean_loss("believing")
    for _ in range(POISONED):
        await place.batch("believing", lies=True)
    newest = (await place.versions("believing"))[:POISONED]
    assert [one["status"] for one in newest] == ["rejected"] * POISONED
    assert all("loss" in one["reason"] for one in newest), "the operator sees why"
    assert (await place.told("believing"))["verdict"].startswith("rejected: ")
    assert await place.live("believing") == champion
    assert await place.clean_loss("believing") == before
    await place.batch("believing")
    assert await place.live("believing") > champion, "right labels are learned again"
    assert await place.clean_loss("believing") < before * 1.05


async def test_a_source_that_begins_to_lie_is_found_out_and_then_harms_no_more(place: Place) -> None:
    for number in range(HONEST):
        await place.batch("doubting", ("desk", "partner")[number % 2])
    await place.live("doubting")
    before, honest = await place.clean_loss("doubting"), (await place.told("doubting"))["sources"]
    for _ in range(POISONED):
        await place.batch("doubting", "partner", lies=True)
    await place.live("doubting")
    found = (await place.told("doubting"))["sources"]
    assert found["partner"] < 0.6
    assert honest["partner"] > 0.8
    assert found["desk"] > 0.8
    harmed = await place.clean_loss("doubting")
    for _ in range(POISONED):
        await place.batch("doubting", "partner", lies=True)
    await place.live("doubting")
    assert await place.clean_loss("doubting") < harmed * 1.05, "what is found out does no more harm"
    for _ in range(POISONED):
        await place.batch("doubting", "desk")
    newest = (await place.versions("doubting"))[:POISONED]
    assert [one["status"] for one in newest] == ["published"] * POISONED, "the gates do not believe the liar either"
    await place.live("doubting")
    assert await place.clean_loss("doubting") < before * 1.1, "right labels are learned again"
