"""What every implementation of the store's protocols must do. Subclass a contract and give it a `store` fixture:

    class TestMyLog(EventLogContract):
        @pytest.fixture
        async def store(self): ...

The tests are coroutines for anyio's pytest plugin.
"""

from store.memory import MemoryStore
from store.redis_store import RedisStore
from store.testing.board import PolicyBoardContract, StoreContract
from store.testing.keys import KeyRingContract
from store.testing.log import EventLogContract
from store.testing.registry import ModelRegistryContract

STORES = (MemoryStore, RedisStore)
"""Every implementation that Tidemill ships."""

__all__ = [
    "STORES",
    "EventLogContract",
    "KeyRingContract",
    "ModelRegistryContract",
    "PolicyBoardContract",
    "StoreContract",
]
