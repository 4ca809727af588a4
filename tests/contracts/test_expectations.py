"""What is kept of expectations and schedules, in every store."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from store.errors import RevisionConflict
from store.expectations import Expectation, Expectations, read_expectations, write_expectations
from store.memory import MemoryStore
from store.names import AUDIT, CONTROL
from store.protocols import START, Store
from store.redis_store import RedisStore
from store.spec import Schedule
from store.testing.things import model_record

pytestmark = pytest.mark.anyio
PRICES = Expectations(expectations=(Expectation(feature="x", kind="range", low=0.0),), origin="edited", at=5.0, who="ann")


@pytest.fixture(params=["memory", "redis"])
async def store(request: pytest.FixtureRequest, redis_url: str, prefix: str) -> AsyncIterator[Store]:
    if request.param == "memory":
        yield MemoryStore()
        return
    redis_store = RedisStore(redis_url, prefix)
    yield redis_store
    await redis_store.close()


async def test_expectations_are_kept_with_their_audit_record_and_wake_replicas(store: Store) -> None:
    assert await read_expectations(store, "m") == Expectations()
    before = await store.last(CONTROL)
    written = await write_expectations(store, "m", PRICES, 0, b"ann said so")
    assert (written.revision, await read_expectations(store, "m")) == (1, written)
    assert written == PRICES.model_copy(update={"revision": 1})
    assert [entry.payload for entry in await store.read(AUDIT, START, 10)] == [b"ann said so"]
    assert await store.changes(before, 1.0) != before


async def test_of_two_who_change_the_same_revision_one_does(store: Store) -> None:
    await write_expectations(store, "m", PRICES, 0)
    changes = (write_expectations(store, "m", Expectations(who=who), 1, who.encode()) for who in ("ann", "bob"))
    done = await asyncio.gather(*changes, return_exceptions=True)
    [failed] = [one for one in done if isinstance(one, BaseException)]
    assert isinstance(failed, RevisionConflict)
    assert (failed.expected, failed.actual) == (1, 2)
    kept = await read_expectations(store, "m")
    assert [entry.payload.decode() for entry in await store.read(AUDIT, START, 10)] == [kept.who]


async def test_of_a_purged_model_no_expectations_are_left(store: Store) -> None:
    await store.add(model_record())
    await write_expectations(store, "m", PRICES, 0)
    await store.remove("m")
    await store.purge("m")
    assert await read_expectations(store, "m") == Expectations()


async def test_a_schedule_is_kept_whole(store: Store) -> None:
    await store.add(model_record())
    chosen = Schedule(outcomes=7, seconds=None, cron="0 3 * * MON-FRI", timezone="Europe/Berlin", on_drift=True)
    await store.set_schedule("m", chosen)
    assert (await store.models())["m"].schedule == chosen
