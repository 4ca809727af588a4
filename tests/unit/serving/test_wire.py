"""Requests that come whole are answered as uvicorn would have answered them; all others are uvicorn's."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Callable, Generator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from uvicorn.config import HTTP_PROTOCOLS, Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from serving import express
from serving.express import WHOLE
from serving.wire import Protocol, whole

pytestmark = pytest.mark.anyio

BODY = b'{"instances": []}'


def _request(*lines: bytes, body: bytes = BODY, line: bytes = b"POST /models/m/predict HTTP/1.1") -> bytes:
    return b"\r\n".join([line, b"host: h", *lines, b"", body])


LENGTH = b"content-length: %d" % len(BODY)
PLAIN = _request(LENGTH)
ODD = {
    "chunked": _request(b"transfer-encoding: chunked", body=b"11\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "a length and chunks": _request(LENGTH, b"transfer-encoding: chunked", body=b"11\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "chunks by another spelling": _request(LENGTH, b"transfer-encoding: xchunked"),
    "two lengths": _request(LENGTH, LENGTH),
    "two lengths that differ": _request(LENGTH, b"content-length: 3"),
    "a length with a sign": _request(b"content-length: +17"),
    "a length in two": _request(b"content-length: 1 7"),
    "a length that is a list": _request(b"content-length: 17, 17"),
    "a length of a hundred digits": _request(b"content-length: " + b"0" * 98 + b"17"),
    "no length": _request(body=b""),
    "a blank before the colon": _request(b"content-length : 17"),
    "a folded header": _request(LENGTH, b"x: a", b" b"),
    "a header without a colon": _request(LENGTH, b"nonsense"),
    "a header without a name": _request(LENGTH, b": x"),
    "a bare line feed in the head": _request(LENGTH, b"x: a\ny: b"),
    "a bare carriage return in the head": _request(LENGTH, b"x: a\ry: b"),
    "a zero in the head": _request(LENGTH, b"x: a\0b"),
    "bytes that are no ASCII": _request(LENGTH, "x: é".encode()),
    "it expects": _request(LENGTH, b"expect: 100-continue"),
    "it upgrades": _request(LENGTH, b"connection: upgrade", b"upgrade: h2c"),
    "it closes": _request(LENGTH, b"connection: close"),
    "an old client": _request(LENGTH, line=b"POST /models/m/predict HTTP/1.0"),
    "another method": _request(LENGTH, line=b"PUT /models/m/predict HTTP/1.1"),
    "a method in lower case": _request(LENGTH, line=b"post /models/m/predict HTTP/1.1"),
    "two blanks": _request(LENGTH, line=b"POST  /models/m/predict HTTP/1.1"),
    "a query": _request(LENGTH, line=b"POST /models/m/predict?x=1 HTTP/1.1"),
    "a percent sign": _request(LENGTH, line=b"POST /models/m%2f/predict HTTP/1.1"),
    "a whole address": _request(LENGTH, line=b"POST http://h/models/m/predict HTTP/1.1"),
    "a route that has no such end": _request(LENGTH, line=b"POST /models/m/infer HTTP/1.1"),
    "another that has none": _request(LENGTH, line=b"POST /v2/models/m/predict HTTP/1.1"),
    "another route": _request(LENGTH, line=b"POST /feedback HTTP/1.1"),
    "line ends before it": b"\r\n\r\n" + PLAIN,
    "more than its body": PLAIN + b"x",
    "less than its body": PLAIN[:-1],
    "a second one right after": PLAIN + PLAIN,
    "a second one hidden in the body": _request(b"content-length: 3") + PLAIN,
    "a head without an end": PLAIN[: -len(BODY) - 2],
    "a very long head": _request(LENGTH, b"x: " + b"a" * 20_000),
    "no HTTP": b"\x16\x03\x01" + b"\0" * 40,
}
PLAINLY = {
    "a prediction": PLAIN,
    "names in capitals, values with blanks": _request(b"Content-LENGTH:  \t17", b"X-Y:", b"x-y: a  b "),
    "it stays": _request(LENGTH, b"Connection: Keep-Alive"),
    "no body": _request(b"content-length: 0", body=b""),
    "a list": _request(LENGTH, line=b"POST /models/m.2/rank HTTP/1.1"),
    "a stock client": _request(LENGTH, line=b"POST /v2/models/a-b_c/versions/3/infer HTTP/1.1"),
    "a body that looks like a head": _request(b"content-length: %d" % len(PLAIN), body=PLAIN),
}


class _Transport(asyncio.Transport):
    """What the client at the other end sees."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[bytes] = []
        self.closed = self.paused = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.closed
        self.sent.append(bytes(data))

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)}.get(name, default)


async def _echo(scope: Any, receive: Any, send: Any) -> None:
    """Say what arrived, and how."""
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]
    names = ("method", "path", "http_version", "scheme", "client", "server", "root_path")
    said = {name: scope[name] for name in names} | {"headers": headers, "body": body.decode("latin-1")}
    reply = json.dumps(said | {"query": scope["query_string"].decode()}).encode()
    length = (b"content-length", str(len(reply)).encode())
    await send({"type": "http.response.start", "status": 200, "headers": [length, (b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": reply})


@pytest.fixture
def quiet() -> Generator[None]:
    log = logging.getLogger("uvicorn.error")
    before, log.level = log.level, logging.CRITICAL
    yield
    log.level = before


@pytest.fixture
async def left() -> AsyncGenerator[None]:
    """Predictions of this loop are answered by nobody after the test."""
    yield
    express.leave()


def _connect(protocol: type[HttpToolsProtocol], application: Any, keep_alive_s: float = 60) -> tuple[Any, _Transport]:
    config = Config(application, lifespan="off", access_log=False, log_config=None, http=protocol)
    config.timeout_keep_alive = keep_alive_s  # pyright: ignore[reportAttributeAccessIssue] - a part of a second will do
    state = ServerState()
    state.default_headers = [(b"server", b"s")]
    connection, transport = protocol(config, state, {}), _Transport()
    connection.connection_made(transport)
    return connection, transport


async def _settled(connection: Any) -> None:
    """Wait until nothing is at work but what waits for more of a body."""
    for _ in range(30):
        await asyncio.sleep(0)


async def _said(protocol: type[HttpToolsProtocol], parts: list[bytes]) -> tuple[bytes, bool]:
    """All that a client hears that sends these parts, and whether the connection was closed."""
    connection, transport = _connect(protocol, _echo)
    for part in parts:
        if not transport.closed:
            connection.data_received(part)
            await _settled(connection)
    for task in list(connection.tasks):
        task.cancel()
    await asyncio.gather(*connection.tasks, return_exceptions=True)
    connection._unset_keepalive_if_required()
    return b"".join(transport.sent), transport.closed


async def _same(parts: list[bytes]) -> bytes:
    express.enter(_echo)
    try:
        ours, theirs = await _said(Protocol, parts), await _said(HttpToolsProtocol, parts)
    finally:
        express.leave()
    assert ours == theirs
    return ours[0]


@pytest.mark.parametrize("name", PLAINLY)
def test_a_request_that_is_written_plainly_needs_no_parser(name: str) -> None:
    found = whole(PLAINLY[name])
    assert found is not None
    assert found[2] == PLAINLY[name].partition(b"\r\n\r\n")[2]


@pytest.mark.parametrize("name", ODD)
def test_whatever_could_be_read_in_two_ways_is_for_the_parser(name: str) -> None:
    assert whole(ODD[name]) is None


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("name", [*PLAINLY, *ODD])
async def test_a_client_hears_what_it_would_have_heard_from_uvicorn(name: str) -> None:
    data = (PLAINLY | ODD)[name]
    heard = await _same([data])
    assert heard.startswith(b"HTTP/1.1 200") or name not in PLAINLY
    await _same([data[:20], data[20:]])
    await _same([data, PLAIN])
    await _same([data[:-3], data[-3:] + PLAIN])


@pytest.mark.usefixtures("quiet")
@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.sampled_from([*PLAINLY.values(), *(one for one in ODD.values() if len(one) < 1000)]), min_size=1, max_size=4),
    st.lists(st.integers(0, 800), max_size=4),
)
def test_however_requests_are_cut_the_answers_are_those_of_uvicorn(requests: list[bytes], cuts: list[int]) -> None:
    data = b"".join(requests)
    places = [0, *sorted(cut for cut in set(cuts) if 0 < cut < len(data)), len(data)]
    asyncio.run(_same([data[start:end] for start, end in pairwise(places)]))


async def _held(begun: asyncio.Semaphore, go: asyncio.Event) -> Callable[..., Any]:
    async def held(scope: Any, receive: Any, send: Any) -> None:
        begun.release()
        await go.wait()
        await _echo(scope, receive, send)

    return held


@pytest.mark.usefixtures("quiet", "left")
async def test_what_comes_during_an_answer_waits_for_its_end() -> None:
    begun, go = asyncio.Semaphore(0), asyncio.Event()
    express.enter(await _held(begun, go))
    connection, transport = _connect(Protocol, _echo)
    connection.data_received(PLAIN)
    await begun.acquire()
    connection.data_received(_request(LENGTH, line=b"POST /models/second/predict HTTP/1.1")[:30])
    connection.data_received(_request(LENGTH, line=b"POST /models/second/predict HTTP/1.1")[30:])
    assert transport.paused
    assert not transport.sent
    go.set()
    await begun.acquire()
    await _settled(connection)
    assert not transport.paused
    assert [b"/models/second/" in one for one in transport.sent] == [False, True]
    connection._unset_keepalive_if_required()


@pytest.mark.usefixtures("quiet", "left")
async def test_an_answer_is_one_write_and_has_its_body_at_hand() -> None:
    async def look(scope: Any, receive: Any, send: Any) -> None:
        assert scope[WHOLE] == BODY
        await _echo(scope, receive, send)

    express.enter(look)
    connection, transport = _connect(Protocol, _echo)
    connection.data_received(PLAIN)
    await _settled(connection)
    assert len(transport.sent) == 1
    assert transport.sent[0].startswith(b"HTTP/1.1 200 OK\r\nserver: s\r\n")
    connection._unset_keepalive_if_required()


@pytest.mark.usefixtures("quiet", "left")
async def test_a_client_that_goes_away_is_told_to_who_listens_and_nothing_is_written() -> None:
    heard: list[str] = []

    async def listen(_: Any, receive: Any, send: Any) -> None:
        heard.extend([(await receive())["type"], (await receive())["type"]])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    express.enter(listen)
    connection, transport = _connect(Protocol, _echo)
    connection.data_received(PLAIN)
    await _settled(connection)
    connection.connection_lost(None)
    await _settled(connection)
    assert heard == ["http.request", "http.disconnect"]
    assert not transport.sent
    assert not connection.tasks


async def _start(send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})


async def _raises(_: Any, __: Any, send: Any) -> None:
    raise RuntimeError("out of order")


async def _is_cancelled(_: Any, __: Any, send: Any) -> None:
    raise asyncio.CancelledError


async def _says_nothing(_: Any, __: Any, send: Any) -> None:
    return


async def _begins(_: Any, __: Any, send: Any) -> None:
    await _start(send)


async def _goes_on(_: Any, __: Any, send: Any) -> None:
    await _start(send)
    await send({"type": "http.response.body", "body": b"o", "more_body": True})


@pytest.mark.usefixtures("quiet", "left")
@pytest.mark.parametrize("failing", [_raises, _is_cancelled, _says_nothing, _begins, _goes_on])
async def test_a_failure_is_one_sentence_and_the_connections_end(failing: Any) -> None:
    express.enter(failing)
    connection, transport = _connect(Protocol, _echo)
    connection.data_received(PLAIN)
    await _settled(connection)
    [said] = transport.sent
    head, _, body = said.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 500 ")
    assert b"content-length: %d" % len(body) in head
    assert json.loads(body) == {"error": "internal error; the server's log says more"}
    assert transport.closed
    assert not connection.tasks


@pytest.mark.usefixtures("quiet", "left")
@pytest.mark.parametrize("gone", [False, True])
async def test_what_fails_after_its_answer_ends_the_connection_and_says_no_more(
    caplog: pytest.LogCaptureFixture, gone: bool
) -> None:
    async def fail(_: Any, __: Any, send: Any) -> None:
        if not gone:
            await _start(send)
            await send({"type": "http.response.body", "body": b"ok"})
        raise RuntimeError("out of order")

    express.enter(fail)
    connection, transport = _connect(Protocol, _echo)
    connection.data_received(PLAIN)
    if gone:
        connection.connection_lost(None)
    await _settled(connection)
    assert [one.endswith(b"\r\n\r\nok") for one in transport.sent] == ([] if gone else [True])
    assert transport.closed
    assert "out of order" in caplog.text


@pytest.mark.usefixtures("quiet", "left")
async def test_a_server_that_stops_ends_what_is_under_way_and_takes_no_more() -> None:
    begun, go = asyncio.Semaphore(0), asyncio.Event()
    express.enter(await _held(begun, go))
    connection, transport = _connect(Protocol, _echo)
    connection.data_received(PLAIN)
    await begun.acquire()
    connection.shutdown()
    assert not transport.closed
    go.set()
    await _settled(connection)
    assert b"\r\nconnection: close\r\n" in transport.sent[0]
    assert transport.closed
    idle, calm = _connect(Protocol, _echo)
    idle.shutdown()
    assert calm.closed


@pytest.mark.usefixtures("quiet", "left")
async def test_a_connection_that_is_silent_after_an_answer_is_closed() -> None:
    express.enter(_echo)
    connection, transport = _connect(Protocol, _echo, keep_alive_s=0.01)
    connection.data_received(PLAIN)
    async with asyncio.timeout(30):
        while not transport.closed:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.001)
    assert len(transport.sent) == 1


@pytest.mark.usefixtures("quiet", "left")
async def test_a_connection_that_goes_on_asking_stays_open() -> None:
    held = asyncio.Event()

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        await held.wait()
        await _echo(scope, receive, send)

    express.enter(answer)
    connection, transport = _connect(Protocol, answer)
    held.set()
    for count in (1, 2, 3):
        connection.data_received(PLAIN)
        await _settled(connection)
        assert len(transport.sent) == count
        connection.timeout_keep_alive_handler()  # the timer of an earlier answer
        assert not transport.closed
        assert connection.timeout_keep_alive_task is not None
    held.clear()
    connection.data_received(PLAIN)
    connection._idle_since -= 61
    connection.timeout_keep_alive_handler()  # it has been long at work, not idle
    assert not transport.closed
    held.set()
    await _settled(connection)
    assert len(transport.sent) == 4
    connection._idle_since -= 61
    connection.timeout_keep_alive_handler()
    assert transport.closed
    connection.connection_lost(ConnectionResetError())
    assert connection.timeout_keep_alive_task is None


def test_serves_own_server_takes_this_protocol() -> None:
    express.middleware()
    assert HTTP_PROTOCOLS["auto"] == "serving.wire:Protocol"
    config = Config(_echo, lifespan="off", log_config=None)
    config.load()
    assert config.http_protocol_class is Protocol
