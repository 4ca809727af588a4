"""Streaming features over HTTP and a real Redis: as fresh as `retrain` promises, logged, and there again after a restart."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import httpx
import pytest
from pydantic import BaseModel

from serving.settings import ServingSettings
from serving.testing import TOKEN, serving
from store.following import Follower
from store.names import log_stream, outcome_stream
from store.protocols import START, position_key
from store.records import Outcomes, Predictions, unpack_log, unpack_outcomes
from store.redis_store import RedisStore
from store.spec import ModelSpec, Schedule
from store.streaming import Aggregate
from store.streams import Streams
from trainer.loop import Trainer

pytestmark = pytest.mark.anyio

DAY = 86_400.0
BEHIND_S = 5.0
"""How far a replica may be behind; it looks every 50 ms, but the machine may be busy."""


class Stop(BaseModel):
    place: str


SPEC = ModelSpec(
    name="late",
    features=Stop,
    schedule=Schedule(seconds=None),
    streaming=(
        Aggregate(name="share", by=("place",), half_life_s=DAY, prior=1.0),
        Aggregate(name="asked", by=("unit",), of="predictions", kind="count", window_s=DAY),
    ),
)


@contextlib.asynccontextmanager
async def learning(store: RedisStore) -> AsyncGenerator[Trainer]:
    """A trainer that works for the time of the context."""
    trainer = Trainer(SPEC, store)
    await trainer.start()

    async def steps() -> None:
        while True:
            await trainer.step(0.01)

    task = asyncio.create_task(steps())
    try:
        yield trainer
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def store(redis_url: str, prefix: str) -> AsyncIterator[RedisStore]:
    store = RedisStore(redis_url, prefix)
    yield store
    await store.close()


async def _ask(client: httpx.AsyncClient, id_: str, place: str, unit: str = "u") -> None:
    instance = {"features": {"place": place}, "id": id_, "unit": unit}
    assert (await client.post("/models/late/predict", json={"instances": [instance]})).status_code == 200


async def _tell(client: httpx.AsyncClient, id_: str, label: int) -> None:
    event = {"model": "late", "id": id_, "label": label}
    assert (await client.post("/feedback", json={"events": [event]})).status_code == 202


async def _logged(store: RedisStore) -> dict[str, tuple[str, Predictions]]:
    entries = await store.read(log_stream("late"), START, 10_000)
    read = [(entry.position, unpack_log(entry.payload)) for entry in entries]
    return {record.ids[0]: (position, record) for position, record in read if isinstance(record, Predictions)}


async def test_after_retrain_every_replica_knows_every_outcome(
    store: RedisStore, redis_url: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.replica._FEATURES_S", 600.0)  # nobody looks by the clock
    settings = ServingSettings(redis_url=redis_url, prefix=prefix, token="secret")
    async with learning(store), serving(settings) as one, serving(settings) as other, asyncio.timeout(90):
        for number in range(20):
            await _ask(one, f"p{number}", "a")
            await _tell(other, f"p{number}", number % 2)
            retrained = await one.post("/admin/models/late/retrain", headers=TOKEN)
            assert retrained.status_code == 200, retrained.text
            for name, client in (("one", one), ("other", other)):
                await _ask(client, f"{name}{number}", "a")
        logged = await _logged(store)
        for number in range(20):
            shares = [logged[f"{name}{number}"][1].rows[0][1] for name in ("one", "other")]
            ones = (number + 1) // 2
            assert shares == pytest.approx([ones / (number + 1)] * 2, abs=0.001)


async def test_each_logged_value_is_that_of_some_moment_shortly_before(store: RedisStore, redis_url: str, prefix: str) -> None:
    settings = ServingSettings(redis_url=redis_url, prefix=prefix, token="secret")
    async with learning(store), serving(settings) as one, serving(settings) as other, asyncio.timeout(90):
        for number in range(120):
            await _ask((one, other)[number % 2], f"p{number}", "ab"[number % 3 % 2])
            await _tell(one, f"p{number}", number % 2)
            await asyncio.sleep(0.01)
        assert (await one.post("/admin/models/late/retrain", headers=TOKEN)).status_code == 200
    outcomes = await store.read(outcome_stream("late"), START, 10_000)
    entries = [(position_key(entry.position)[0] / 1000.0, unpack_outcomes(entry.payload)) for entry in outcomes]
    found = 0
    for position, record in (await _logged(store)).values():
        before = position_key(position)[0] / 1000.0
        streams, values = Streams(SPEC.record), list[tuple[float, Any]]()
        for until_s, made in [(0.0, None), *entries]:
            if until_s > before:
                break
            if isinstance(made, Outcomes):
                streams.outcomes(made.outcomes)
            row = [record.rows[0][0], None, None]
            streams.fill([row], record.units, [record.at])
            values.append((until_s, row[1]))
        ends = [start for start, _ in values[1:]] + [before]
        held = [end for end, (_, value) in zip(ends, values, strict=True) if value == record.rows[0][1]]
        assert held, f"{record.ids[0]}: {record.rows[0][1]} was never the value"
        assert held[-1] >= before - BEHIND_S
        found += record.rows[0][1] is not None
    assert found > 30


async def test_a_replica_that_starts_knows_what_was_trimmed(store: RedisStore, redis_url: str, prefix: str) -> None:
    settings = ServingSettings(redis_url=redis_url, prefix=prefix, token="secret")
    async with learning(store), serving(settings) as client, asyncio.timeout(60):
        for number in range(5):
            await _ask(client, f"p{number}", "a")
            await _tell(client, f"p{number}", 1)
        assert (await client.post("/admin/models/late/retrain", headers=TOKEN)).status_code == 200
    keeper = Follower(SPEC.record, store)
    await keeper.resume()
    await keeper.keep()
    for stream in (outcome_stream("late"), log_stream("late")):
        # Redis trims whole nodes only; here all that the snapshot holds is to be gone.
        await store.trim(stream, await store.last(stream))
    async with learning(store), serving(settings) as client, asyncio.timeout(60):
        await _ask(client, "again", "a")
        await _ask(client, "elsewhere", "b")
        logged = await _logged(store)
        assert logged["again"][1].rows[0][1:] == [1.0, 5.0]
        assert logged["elsewhere"][1].rows[0][1] == 1.0


async def test_no_client_sends_or_is_told_of_a_streaming_feature(store: RedisStore, redis_url: str, prefix: str) -> None:
    settings = ServingSettings(redis_url=redis_url, prefix=prefix, token="secret")
    async with learning(store), serving(settings) as client, asyncio.timeout(60):
        sent = {"instances": [{"features": {"place": "a", "share": 0.0}}]}
        refused = await client.post("/models/late/predict", json=sent)
        assert refused.status_code == 422
        assert "share" in refused.text
        described = (await client.get("/v2/models/late")).json()
        assert [one["name"] for one in described["inputs"]] == ["place"]
        place = {"name": "place", "shape": [1], "datatype": "BYTES", "data": ["a"]}
        share = {"name": "share", "shape": [1], "datatype": "FP64", "data": [0.5]}
        assert (await client.post("/v2/models/late/infer", json={"inputs": [place]})).status_code == 200
        assert (await client.post("/v2/models/late/infer", json={"inputs": [place, share]})).status_code == 400
        candidates = [{"item": name, "features": {"place": name}} for name in "ab"]
        ranked = await client.post("/models/late/rank", json={"candidates": candidates, "unit": "u"})
        assert ranked.status_code == 200
        [listed] = [record for _, record in (await _logged(store)).values() if len(record.rows) == 2]
        assert [row[2] for row in listed.rows] == [0.0, 0.0]
