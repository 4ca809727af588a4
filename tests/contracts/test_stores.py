"""Every store passes the same contract."""

import inspect
from collections.abc import AsyncIterator, Awaitable
from typing import cast

import pytest

import store.memory
import store.redis_store
from store.errors import Unavailable
from store.keys import issue
from store.memory import MemoryStore
from store.names import consumers_of, streams_of
from store.policy import Policy, Report
from store.protocols import START, Advance, Commit, Graph, Store
from store.redis_store import RedisStore
from store.spec import Schedule
from store.testing import STORES, EventLogContract, KeyRingContract, ModelRegistryContract, PolicyBoardContract, StoreContract
from store.testing.things import model_record, version


class TestMemoryStore(StoreContract):
    implementation = MemoryStore

    @pytest.fixture
    async def store(self) -> Store:
        return MemoryStore()


class TestRedisStore(StoreContract):
    implementation = RedisStore

    @pytest.fixture
    async def store(self, redis_url: str, prefix: str) -> AsyncIterator[Store]:
        redis_store = RedisStore(redis_url, prefix)
        yield redis_store
        await redis_store.close()


def test_every_store_is_in_the_run() -> None:
    run = {cast(type, suite.__dict__["implementation"]) for suite in StoreContract.__subclasses__()}
    assert run == set(STORES)


def test_every_class_that_can_append_and_commit_is_a_store_on_the_list() -> None:
    found = {
        one
        for module in (store.memory, store.redis_store)
        for _, one in inspect.getmembers(module, inspect.isclass)
        if one.__module__ == module.__name__ and hasattr(one, "append") and hasattr(one, "commit")
    }
    assert found == set(STORES)


def test_the_whole_contract_is_made_of_its_parts() -> None:
    assert {EventLogContract, KeyRingContract, ModelRegistryContract, PolicyBoardContract} <= set(StoreContract.__mro__)


@pytest.mark.anyio
async def test_a_redis_that_is_away_is_unavailable_to_every_call(prefix: str) -> None:
    store = RedisStore("unix:///nowhere/redis.sock", prefix)
    advance, record = Advance("c", START, "1-0"), model_record()
    calls: list[Awaitable[object]] = [
        store.ping(), store.append([("s", b"")]), store.read("s", START, 1), store.advance(advance, []),
        store.consumer("c"), store.blob("c"), store.last("s"), store.trim("s", START), store.register(record),
        store.models(), store.set_schedule("m", Schedule()), store.put_graph("m", Graph("d", b"", b"")),
        store.graph("m", "d"), store.commit("m", Commit(advance)), store.versions("m"), store.version("m", 1),
        store.weights("m", 1), store.forget_weights("m", [1]), store.snapshot("m"), store.set_policy("m", Policy(), 0),
        store.changes(START, 0.01), store.report(Report(name="r", pid=1, ready=True), 1.0), store.reports(),
        store.keys(), store.put_key(issue("k")[0]), store.drop_key("k"), store.set_loaded("m", False),
        store.add(record), store.remove("m"), store.removed(), store.purge("m"),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(Unavailable):
            await call
    await store.close()


@pytest.mark.anyio
@pytest.mark.parametrize("odd", ["consumer", "report", "a"])
async def test_purging_leaves_no_key_of_the_model_and_all_others(redis_url: str, prefix: str, odd: str) -> None:
    """Names that keys of other things begin with are names of models, too."""
    store = RedisStore(redis_url, f"{prefix}[*?]")

    async def keys() -> set[bytes]:
        scanned = await store._ask("KEYS", f"{prefix}*")  # pyright: ignore[reportPrivateUsage]
        return {key for key in scanned if not key.endswith((b":control", b":models", b":removed", b":audit"))}

    async def fill(model: str) -> None:
        await store.add(model_record(model))
        await store.append([(stream, b"1") for stream in streams_of(model)])
        await store.put_graph(model, Graph("abc", b"onnx", b"golden"))
        exact, [learners] = consumers_of(model)
        for name in (*exact, f"{learners}other"):
            await store.advance(Advance(name, START, "1-0", b"state"), [])
        advance = Advance(f"{learners}main", START, "1-0", b"state", b"blob")
        await store.commit(model, Commit(advance, version("1-0").model_copy(update={"model": model}), b"w"))
        await store.set_policy(model, Policy(), 0)

    await fill("b")
    await store.report(Report(name="r", pid=1, ready=True), 60.0)
    before = await keys()
    await fill(odd)
    assert len(await keys()) > len(before)
    await store.remove(odd)
    await store.purge(odd)
    assert await keys() == before
    await store.close()


@pytest.mark.anyio
async def test_a_redis_store_keeps_to_its_prefix(redis_url: str, prefix: str) -> None:
    here, there = RedisStore(redis_url, prefix), RedisStore(redis_url, f"{prefix}-other")
    await here.append([("s", b"1")])
    assert await there.read("s", "0-0", 10) == []
    await here.close()
    await there.close()
