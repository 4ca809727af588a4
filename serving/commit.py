"""Group commit: every flush takes all that waits, so many requests share one round trip and one fsync."""

import asyncio
from collections import deque
from typing import Any, Literal

from serving.errors import LogUnavailable
from store.errors import Unavailable
from store.protocols import EventLog


class GroupCommit:
    """Appends to the event log on behalf of many requests.

    With nothing in flight an entry goes at once; while a flush is in flight, entries gather for the next. In `durable` mode
    `append` returns when the entry is on disk and raises `LogUnavailable` when it may not be. In `available` mode it does
    not wait for a log that is away: entries are buffered up to a bound, written when the log is back, and counted as `lost`
    beyond it.
    """

    def __init__(self, log: EventLog, mode: Literal["durable", "available"] = "durable", buffer_entries: int = 10_000):
        self._log = log
        self._mode = mode
        self._limit = buffer_entries
        self._gathering: list[tuple[str, bytes]] = []
        self._waiters: list[asyncio.Future[None]] = []
        self._in_flight = False
        self._buffer: deque[tuple[str, bytes]] = deque()
        self._draining: asyncio.Task[None] | None = None
        self.away = ""
        self.lost = 0

    @property
    def buffered(self) -> int:
        return len(self._buffer)

    @property
    def waiting(self) -> int:
        """Entries that gather for the next flush."""
        return len(self._gathering)

    async def append(self, stream: str, payload: bytes) -> None:
        """Return when the entry is durable, or, in available mode with the log away, buffered.

        Raises:
            LogUnavailable: durable mode, and the entry may not have been written.
        """
        await self.submit(stream, payload)

    def submit(self, stream: str, *payloads: bytes) -> "asyncio.Future[None]":
        """Append likewise, several entries together; with nothing in flight they have left when this returns. The future is the
        caller's own: a client that goes away cancels nothing that others wait for."""
        entries = [(stream, payload) for payload in payloads]
        landed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._mode == "available" and self.away:
            self._keep(entries)
            landed.set_result(None)
            return landed
        self._gathering += entries
        self._waiters.append(landed)
        if not self._in_flight:
            self._flush()
        return landed

    def tell(self, stream: str, *payloads: bytes) -> None:
        """Append what nobody waits for; whether it lands is not asked."""
        if payloads:
            self.submit(stream, *payloads)

    def _flush(self) -> None:
        entries, waiters = self._gathering, self._waiters
        self._gathering, self._waiters = [], []
        self._in_flight = True
        self._log.send(entries).add_done_callback(lambda sent: self._sent(sent, entries, waiters))

    def _sent(
        self, sent: "asyncio.Future[list[Any]]", entries: list[tuple[str, bytes]], waiters: "list[asyncio.Future[None]]"
    ) -> None:
        self._in_flight = False
        error = Unavailable("cancelled") if sent.cancelled() else sent.exception()
        self.away = "" if error is None else str(error)
        fails = error is not None and self._mode == "durable"
        if error is not None and not fails:
            self._keep(entries)
        for landed in waiters:
            if landed.done():
                continue  # whoever waited went away
            if fails:
                landed.set_exception(LogUnavailable(f"the prediction log is away ({error}); nothing was answered"))
                landed.exception()  # nobody may be left to look at it
            else:
                landed.set_result(None)
        if self._gathering:
            self._flush()

    def _keep(self, entries: list[tuple[str, bytes]]) -> None:
        for entry in entries:
            if len(self._buffer) >= self._limit:
                self.lost += 1
            else:
                self._buffer.append(entry)
        if self._draining is None or self._draining.done():
            self._draining = asyncio.create_task(self._drain())

    async def _drain(self, pause_s: float = 0.2, chunk: int = 500) -> None:
        while self._buffer:
            entries = [self._buffer[index] for index in range(min(chunk, len(self._buffer)))]
            try:
                await self._log.append(entries)
            except Unavailable as error:
                self.away = str(error)
                await asyncio.sleep(pause_s)
            else:
                for _ in entries:
                    self._buffer.popleft()
        self.away = ""
