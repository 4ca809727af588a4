"""Travellers at a platform: two rankers draft their lists, and the controller finds out which one serves them better."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import date
from typing import Any

import httpx
import pytest

from examples.flights import Features
from examples.flights.crowd import EXPERIMENT, RIVAL, Call, compare
from examples.flights.ranking import sooner_first, travellers
from examples.flights.stream import load
from serving.controller import Controller
from serving.settings import ServingSettings
from serving.testing import TOKEN, serving
from store.names import log_stream
from store.protocols import START
from store.publishing import publish
from store.records import Rankings, unpack_log
from store.redis_store import RedisStore
from store.spec import ModelSpec, Schedule
from trainer.loop import Trainer

pytestmark = pytest.mark.anyio
MODEL = "late"
SPEC = ModelSpec(name=MODEL, features=Features, clock="event", schedule=Schedule(seconds=None), best_score="lowest")
PUSH = 3.0  # a rival that ranks by the hour of departure, and nearly by that alone


@pytest.fixture
async def store(redis_url: str, prefix: str) -> AsyncIterator[RedisStore]:
    store = RedisStore(redis_url, prefix)
    yield store
    await store.close()


async def _live(trainer: Trainer, controller: Controller) -> None:
    await controller.start()
    while True:
        await trainer.step(0.005)
        await controller.step()


def _calls(client: httpx.AsyncClient) -> Call:
    async def call(method: str, path: str, body: object) -> Any:
        reply = await client.request(method, path, json=body, headers=TOKEN)
        assert reply.is_success, reply.text
        return reply.json()

    return call


async def test_the_platform_finds_the_better_ranker_of_flights(redis_url: str, prefix: str, store: RedisStore) -> None:
    people = travellers(load(date(2013, 1, 29)), 5000, 0)
    trainer = Trainer(SPEC, store)
    await trainer.start()
    first = await store.version(MODEL, 1)
    graph = sooner_first(await store.graph(MODEL, first.graph), SPEC.record.features, PUSH)
    rival = await publish(store, MODEL, graph, await store.weights(MODEL, 1), RIVAL)
    async with serving(ServingSettings(redis_url=redis_url, prefix=prefix, token="secret")) as client:
        living = asyncio.create_task(_live(trainer, Controller(store, SPEC.record)))
        try:
            found = await compare(_calls(client), MODEL, "main", rival.number, people, PUSH, most_s=60.0)
        finally:
            living.cancel()
            with suppress(asyncio.CancelledError):
                await living
        policy = (await client.get(f"/admin/models/{MODEL}/policy", headers=TOKEN)).json()["policy"]
    assert found.winner == "main", found
    assert 8 <= found.judged <= found.sent <= len(people)
    assert found.on_time[0] > found.on_time[1]
    # The rival is taken out, and is not tried again.
    assert [variant["name"] for variant in policy["variants"]] == ["main"]
    assert (await store.version(MODEL, rival.number)).status == "rejected"
    # Each traveller is a unit of their own, at the time at which they look.
    records = [unpack_log(entry.payload) for entry in await store.read(log_stream(MODEL), START, 10_000)]
    lists = [record for record in records if isinstance(record, Rankings) and record.experiment == EXPERIMENT]
    looked = {traveller.unit: traveller.at.timestamp() for traveller in people}
    assert len({one.unit for one in lists}) == len(lists) >= found.judged
    assert all(one.event_time == looked[one.unit] for one in lists)
