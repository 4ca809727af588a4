"""A small HTTP load generator: many connections, one request in flight on each, every answer looked at."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import perf_counter
from types import MappingProxyType
from typing import cast

import numpy as np
import uvloop

from tests.bench.wire import answered, asking


@dataclass
class Load:
    """What a run saw. `latencies_s` holds every answered request, `failures` what was not 200."""

    seconds: float = 0.0
    latencies_s: list[float] = field(default_factory=list[float])
    failures: list[str] = field(default_factory=list[str])

    @property
    def rate(self) -> float:
        return len(self.latencies_s) / self.seconds

    def quantile_ms(self, q: float) -> float:
        return float(np.quantile(self.latencies_s, q)) * 1000.0


class _Connection(asyncio.Protocol):
    def __init__(self, request: bytes, load: Load, until: float, done: asyncio.Event, look: Callable[[bytes], None] | None):
        self._request, self._load, self._until, self._done, self._look = request, load, until, done, look
        self._buffer = b""
        self._sent_at = 0.0
        self._ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._send()

    def _send(self) -> None:
        self._sent_at = perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if (answer := answered(self._buffer)) is None:
            return
        head, body = answer
        self._buffer = b""
        now = perf_counter()
        if head.split(b" ", 2)[1] == b"200":
            self._load.latencies_s.append(now - self._sent_at)
            if self._look:
                self._look(body)
        else:
            self._load.failures.append((head[:40] + b" " + body[:200]).decode(errors="replace"))
        if now < self._until:
            self._send()
        else:
            self._ended = True
            self._transport.close()
            self._done.set()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._ended:
            self._load.failures.append(f"connection lost: {exc}")
        self._done.set()


async def run_async(
    url: str,
    body: bytes,
    connections: int,
    seconds: float,
    look: Callable[[bytes], None] | None = None,
    headers: Mapping[str, str] = MappingProxyType({}),
) -> Load:
    """Send the body again and again on every connection; `look` sees each good answer's body."""
    address, request = asking(url, body, headers)
    load = Load()
    started = perf_counter()
    ends = [asyncio.Event() for _ in range(connections)]
    loop = asyncio.get_running_loop()
    for end in ends:
        await loop.create_connection(lambda end=end: _Connection(request, load, started + seconds, end, look), *address)
    await asyncio.gather(*(end.wait() for end in ends))
    load.seconds = perf_counter() - started
    return load


def run(
    url: str,
    body: bytes,
    connections: int,
    seconds: float,
    look: Callable[[bytes], None] | None = None,
    headers: Mapping[str, str] = MappingProxyType({}),
) -> Load:
    return uvloop.run(run_async(url, body, connections, seconds, look, headers))
