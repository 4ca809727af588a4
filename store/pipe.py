"""One connection to Redis: commands leave at once, answers come back in order.

A prediction waits for its entry to be on disk, so this round trip is part of every answer's latency, and a dozen of them
lie between a label and the first answer that learned from it. redis-py was measured to add more to one than Redis itself
takes; here a send is one write, and an answer one callback.
"""

import asyncio
import ssl
from collections import deque
from collections.abc import Sequence
from typing import Any

import hiredis
from redis.asyncio.connection import parse_url

from store.errors import Unavailable

Command = Any
"""A tuple of str, bytes and numbers; hiredis declares it too narrowly."""


class _Waiting:
    """Commands under way, and the answers so far."""

    __slots__ = ("count", "due", "future", "replies")

    def __init__(self, count: int, future: "asyncio.Future[list[Any]]", due: float) -> None:
        self.count, self.future, self.due = count, future, due
        self.replies: list[Any] = []


class Pipe(asyncio.Protocol):
    """Connects when it first has something to send, and again after it was cut. Use from one event loop."""

    def __init__(self, url: str, timeout_s: float) -> None:
        self._where: dict[str, Any] = dict(parse_url(url))
        self._tls = _tls(self._where) if url.startswith("rediss://") else None
        self._timeout_s = timeout_s
        self._transport: asyncio.Transport | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._unsent: list[bytes] = []
        self._waiting: deque[_Waiting] = deque()
        self._watch: asyncio.TimerHandle | None = None
        self._reader = hiredis.Reader()

    def send(self, commands: Sequence[Command]) -> "asyncio.Future[list[Any]]":
        """Send commands; the future has their answers, or `Unavailable`. They are on their way when this returns, if the
        connection stands."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[Any]] = loop.create_future()
        self._waiting.append(_Waiting(len(commands), future, self._due(loop)))
        packed = b"".join([hiredis.pack_command(command) for command in commands])
        if self._transport is not None:
            self._transport.write(packed)
        else:
            self._unsent.append(packed)
            if self._connecting is None:
                self._connecting = loop.create_task(self._connect())
        return future

    async def close(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.gather(self._connecting, return_exceptions=True)
        self._cut("closed")
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._timeout_s):
                if "path" in self._where:
                    transport, _ = await loop.create_unix_connection(lambda: self, self._where["path"])
                else:
                    host, port = self._where.get("host", "localhost"), self._where.get("port", 6379)
                    transport, _ = await loop.create_connection(lambda: self, host, port, ssl=self._tls)
        except (OSError, TimeoutError) as error:
            self._connecting = None
            self._fail(f"cannot connect: {error or type(error).__name__}")
            return
        self._connecting = None
        hello = self._greeting()
        # The answers to the greeting come first.
        for _ in hello:
            greeted: asyncio.Future[list[Any]] = loop.create_future()
            greeted.add_done_callback(self._greeted)
            self._waiting.appendleft(_Waiting(1, greeted, self._due(loop)))
        transport.write(b"".join([*hello, *self._unsent]))
        self._unsent.clear()
        self._transport = transport

    def _greeting(self) -> list[bytes]:
        where, hello = self._where, list[bytes]()
        if where.get("password"):
            user: list[str] = [where["username"]] if where.get("username") else []
            login: Command = ("AUTH", *user, str(where["password"]))
            hello.append(hiredis.pack_command(login))
        if where.get("db"):
            select: Command = ("SELECT", str(where["db"]))
            hello.append(hiredis.pack_command(select))
        return hello

    def _greeted(self, greeted: "asyncio.Future[list[Any]]") -> None:
        if (error := greeted.exception()) is not None:
            self._cut(str(error))

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        while (reply := self._reader.gets()) is not False:
            if not self._waiting:
                return self._cut("an answer that nobody waits for")
            first = self._waiting[0]
            first.replies.append(reply)
            if len(first.replies) == first.count:
                self._waiting.popleft()
                self._answer(first)
        return None

    @staticmethod
    def _answer(done: _Waiting) -> None:
        if done.future.done():
            return
        errors = [reply for reply in done.replies if isinstance(reply, hiredis.ReplyError)]
        if errors:
            done.future.set_exception(Unavailable(f"Redis: {errors[0]}"))
        else:
            done.future.set_result(done.replies)

    def _due(self, loop: asyncio.AbstractEventLoop) -> float:
        """Return when the answer to what is sent now must be here, and see to it that somebody looks."""
        due = loop.time() + self._timeout_s
        if self._watch is None:
            self._watch = loop.call_at(due, self._look)
        return due

    def _look(self) -> None:
        """Cut a connection whose oldest answer is overdue: one timer for all that is sent."""
        self._watch = None
        if not self._waiting:
            return
        loop, due = asyncio.get_running_loop(), min(one.due for one in self._waiting)
        if due > loop.time():
            self._watch = loop.call_at(due, self._look)
        else:
            self._cut(f"no answer within {self._timeout_s:g} s")

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._reader = hiredis.Reader()
        self._fail(f"connection lost{f': {exc}' if exc else ''}")

    def _cut(self, why: str) -> None:
        """Give up this connection: what is under way may or may not have happened."""
        if self._transport is not None:
            self._transport.abort()
            self._transport = None
            self._reader = hiredis.Reader()
        self._fail(why)

    def _fail(self, why: str) -> None:
        self._unsent.clear()
        waiting, self._waiting = self._waiting, deque()
        for one in waiting:
            if not one.future.done():
                one.future.set_exception(Unavailable(f"Redis: {why}"))
                one.future.exception()  # a caller that went away must not leave a warning


def _tls(where: dict[str, Any]) -> ssl.SSLContext:
    """Verify by the system's authorities, or by those of `?ssl_ca_certs=`; present `ssl_certfile` and `ssl_keyfile`."""
    context = ssl.create_default_context(cafile=where.get("ssl_ca_certs"))
    if where.get("ssl_cert_reqs") == "none":
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if certificate := where.get("ssl_certfile"):
        context.load_cert_chain(certificate, where.get("ssl_keyfile"))
    return context
