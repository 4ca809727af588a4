"""The store for a command that does the rest of its work outside of an event loop."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from deploy.settings import Settings
from store.protocols import Store
from store.redis_store import RedisStore

T = TypeVar("T")


def at_store(settings: Settings, redis_url: str, work: Callable[[Store], Awaitable[T]]) -> T:
    """Return what `work` returns, given the store for so long."""

    async def run() -> T:
        store = RedisStore(redis_url, settings.prefix)
        try:
            return await work(store)
        finally:
            await store.close()

    return asyncio.run(run())
