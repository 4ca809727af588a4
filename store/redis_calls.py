"""What the parts of a store on Redis share: connections, keys, scripts."""

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from store.errors import Unavailable
from store.names import CONTROL
from store.pipe import Pipe

CONTROL_LENGTH = 1000


class RedisCalls:
    """Commands to one Redis. `url` is redis://, rediss:// or unix://; `timeout_s` bounds each call.

    Nothing is retried here: a repeated XADD could append twice.
    """

    def __init__(self, url: str, prefix: str = "tidemill", timeout_s: float = 5.0) -> None:
        self._timeout_s = timeout_s
        self._prefix = prefix
        # Answers come in order, so what may take long, or waits on purpose, has a connection of its own.
        self._appends, self._asks, self._waits = (Pipe(url, timeout_s) for _ in range(3))

    async def close(self) -> None:
        for pipe in (self._appends, self._asks, self._waits):
            await pipe.close()

    async def ping(self) -> None:
        await self._ask("PING")

    async def _wake(self, what: str) -> None:
        """Wake those who wait for `changes`."""
        await self._ask("XADD", self._key(CONTROL), "MAXLEN", "~", CONTROL_LENGTH, "*", "p", what)

    async def _ask(self, *command: Any) -> Any:
        [answer] = await self._asks.send([command])
        return answer

    async def _run(self, script: str, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """Run a script, which Redis knows by its digest after the first time."""
        rest = (len(keys), *keys, *args)
        try:
            return await self._ask("EVALSHA", _digest(script), *rest)
        except Unavailable as error:
            if "NOSCRIPT" not in str(error):
                raise
        return await self._ask("EVAL", script, *rest)

    def _key(self, *parts: str) -> str:
        return ":".join((self._prefix, *parts))


def pairs(flat: Sequence[bytes]) -> dict[bytes, Any]:
    """Return the hash that an answer lists."""
    return dict(zip(flat[::2], flat[1::2], strict=True))


@lru_cache
def _digest(script: str) -> str:
    return hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()
