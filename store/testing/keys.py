"""The contract of KeyRing."""

import asyncio

import pytest

from store.errors import NotFound
from store.keys import Limits, issue
from store.protocols import START, Store


@pytest.mark.anyio
class KeyRingContract:
    """Keys come, change and go by their id; who waits for changes is woken."""

    async def test_keys_are_kept_whole_and_replaced_by_id(self, store: Store) -> None:
        assert await store.keys() == []
        one, _ = issue("app", "predict", ("m",), Limits(requests_s=5.0, concurrency=2), now=1.0)
        other, _ = issue("app", "viewer")
        await store.put_key(one)
        await store.put_key(other)
        assert sorted(await store.keys(), key=lambda key: key.role) == [one, other]
        ending = one.model_copy(update={"expires_at": 2.0})
        await store.put_key(ending)
        assert sorted(await store.keys(), key=lambda key: key.role) == [ending, other]
        await store.drop_key(one.id)
        assert await store.keys() == [other]
        with pytest.raises(NotFound, match="no key"):
            await store.drop_key(one.id)

    async def test_a_key_wakes_those_who_wait_for_changes(self, store: Store) -> None:
        waiting = asyncio.create_task(store.changes(START, 30.0))
        await asyncio.sleep(0)
        key, _ = issue("app")
        await store.put_key(key)
        await asyncio.wait_for(waiting, 20.0)
