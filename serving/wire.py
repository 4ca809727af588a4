"""Predictions read off the wire: a request that comes whole is answered with one task and one write.

uvicorn parses a request in a dozen callbacks and writes an answer's head and body apart, which wakes HAProxy twice; that, its
contexts and its middleware were measured at a quarter of a small prediction's time. This protocol is uvicorn's own but for one
thing: bytes that are exactly one request for a prediction, written the plain way, never reach the parser. Everything else
does, byte by byte as it came: other routes, bodies in parts, what is pipelined, odd spellings, and all that is malformed. So
there is no second opinion on what HTTP is, only on which requests need none.
"""

import asyncio
import logging
import re
from http import HTTPStatus
from typing import Any

from starlette.types import Message, Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serving import express
from serving.express import WHOLE

log = logging.getLogger(__name__)

_PLAIN = re.compile(
    rb"POST (/models/[A-Za-z0-9._/-]+/(?:predict|rank)|/v2/models/[A-Za-z0-9._/-]+/infer) HTTP/1\.1\r\n"
    rb"((?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e]*\r\n)+)\r\n"
)
"""The head of a request with nothing in it that anybody could read in two ways; who frames the body is looked at below."""

_LONGEST_HEAD, _LONGEST_LENGTH = 16 * 1024, 9
_SPECIAL = frozenset({b"transfer-encoding", b"expect", b"upgrade", b"connection", b"te", b"trailer"})
_STATUS = {one.value: b"HTTP/1.1 %d %s\r\n" % (one.value, one.phrase.encode()) for one in HTTPStatus}
_SORRY = b'{"error":"internal error; the server\'s log says more"}'
_FAILED = (
    _STATUS[500] + b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(_SORRY) + _SORRY
)

Headers = list[tuple[bytes, bytes]]


def whole(data: bytes) -> tuple[str, Headers, bytes] | None:
    """Return the path, headers (names in lower case) and body of a request for a prediction, None of anything else."""
    head = _PLAIN.match(data, 0, _LONGEST_HEAD)
    if head is None:
        return None
    headers: Headers = []
    length = None
    for line in head[2].split(b"\r\n")[:-1]:
        name, _, value = line.partition(b":")
        name, value = name.lower(), value.lstrip(b" \t")
        headers.append((name, value))
        if name == b"content-length":
            if length is not None or not value.isdigit() or len(value) > _LONGEST_LENGTH:
                return None
            length = int(value)
        elif name in _SPECIAL and not (name == b"connection" and value.lower() == b"keep-alive"):
            return None
    if length is None or len(data) != head.end() + length:
        return None
    return head[1].decode(), headers, data[head.end() :]


class Protocol(HttpToolsProtocol):
    """One connection. `_answering` is the answer under way to a request that came whole; what comes meanwhile waits."""

    _answering: "_Exchange | None" = None
    _later: bytes = b""
    _idle_since: float = 0.0
    _parsing: bool = False
    """Whether the parser has been given a part of a request, and not yet all of it."""

    def data_received(self, data: bytes) -> None:
        if self._answering is not None:
            self._later += data
            self.flow.pause_reading()
            return
        idle = not self.cycle or self.cycle.response_complete
        application = express.application(self.loop) if idle and not self._parsing else None
        if application is None or (request := whole(data)) is None:
            super().data_received(data)
            return
        self._answering = exchange = _Exchange(self, *request)
        task = self.loop.create_task(exchange.run(application))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

    def on_message_begin(self) -> None:
        self._parsing = True
        super().on_message_begin()

    def on_message_complete(self) -> None:
        self._parsing = False
        super().on_message_complete()

    def answered(self, more: bool) -> None:
        """Go on after an answer: with what came meanwhile, or until the client is silent for too long."""
        self._answering = None
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        if not more:
            self.transport.close()
            return
        if later := self._later:
            self._later = b""
            self.flow.resume_reading()
            self.data_received(later)
        else:
            self._idle_since = self.loop.time()
            if self.timeout_keep_alive_task is None:
                self._wait_for_more(self.timeout_keep_alive)

    def timeout_keep_alive_handler(self) -> None:
        """Close the connection if it has been idle for long enough; one timer outlives many answers."""
        self.timeout_keep_alive_task = None
        if self._answering is not None:
            return
        left = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if left > 0:
            self._wait_for_more(left)
        else:
            super().timeout_keep_alive_handler()

    def _wait_for_more(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answering is not None:
            self._answering.gone.set()
        self._later = b""
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        if self._answering is not None:
            self._answering.last = True
        else:
            super().shutdown()


class _Exchange:
    """A request and its answer, as ASGI has them."""

    __slots__ = ("_body", "_head", "_protocol", "_scope", "_written", "gone", "last")

    def __init__(self, protocol: Protocol, path: str, headers: Headers, body: bytes) -> None:
        self._protocol = protocol
        self._body: bytes | None = body
        self._head: list[bytes] | None = None
        self._written = False
        self._scope: Scope = {
            "type": "http",
            "asgi": {"version": protocol.asgi_version, "spec_version": "2.3"},
            "http_version": "1.1",
            "server": protocol.server,
            "client": protocol.client,
            "scheme": protocol.scheme,
            "root_path": protocol.root_path,
            "method": "POST",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": headers,
            "state": {},
            WHOLE: body,
        }
        self.gone = asyncio.Event()
        self.last = False

    async def run(self, application: Any) -> None:
        protocol = self._protocol
        try:
            await application(self._scope, self._receive, self._send)
        except BaseException as error:
            # What was said already cannot be taken back: then the connection's end says it.
            log.error("a request failed", exc_info=error)
            self.last = True
        finally:
            if not self._written:
                self.last = True
                if not protocol.transport.is_closing():
                    protocol.transport.write(_FAILED)
            protocol.answered(not self.last)

    async def _receive(self) -> Message:
        body, self._body = self._body, None
        if body is not None:
            return {"type": "http.request", "body": body, "more_body": False}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        """Write the answer, head and body at once; those that are answered here have their length in the head."""
        protocol = self._protocol
        if self._head is None:
            lines = [_STATUS[message["status"]]]
            for name, value in (*protocol.server_state.default_headers, *message["headers"]):
                lines += (name, b": ", value, b"\r\n")
            if self.last:
                lines.append(b"connection: close\r\n")
            lines.append(b"\r\n")
            self._head = lines
        elif self._written or message.get("more_body", False):
            raise RuntimeError("an answer to a request that came whole has one part")
        elif not protocol.transport.is_closing():
            self._written = True
            protocol.transport.write(b"".join([*self._head, message["body"]]))
            if protocol.flow.write_paused:
                await protocol.flow.drain()
