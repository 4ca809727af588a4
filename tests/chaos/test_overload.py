"""More requests than there are places: refused at once, before a replica sees them, and on connections that stay good."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from http.client import HTTPConnection
from socket import create_connection

import httpx
import pytest

from deploy.serve_settings import find_haproxy
from deploy.testing import TestPlatform, platform_in

pytestmark = pytest.mark.skipif(find_haproxy() is None, reason="without HAProxy the replica keeps the bound: test_express.py")
CLIENTS, REQUESTS, DAWDLERS = 24, 30, 40


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestPlatform]:
    with platform_in(tmp_path_factory.mktemp("overload")) as place, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIDEMILL_MAX_AT_WORK", "1")
        place.start("examples.vector:spec")
        yield place


def _body(rows: int) -> bytes:
    return json.dumps({"instances": [{"features": {"x": [0.123456] * 32}}] * rows}).encode()


def _refusals(platform: TestPlatform) -> float:
    text = httpx.get(f"{platform.url}/metrics").text
    (count,) = [line.split()[1] for line in text.splitlines() if line.startswith("tidemill_ingress_refusals_total{")]
    return float(count)


@pytest.mark.parametrize("rows", [1, 2000])
def test_what_is_too_much_is_refused_on_a_connection_that_stays_good(platform: TestPlatform, rows: int) -> None:
    body = _body(rows)
    before = _refusals(platform)

    def ask(_: int) -> list[tuple[int, str | None, bytes]]:
        seen: list[tuple[int, str | None, bytes]] = []
        connection = HTTPConnection("127.0.0.1", platform.port, timeout=60)
        for _ in range(REQUESTS if rows == 1 else 3):
            try:
                connection.request("POST", "/models/vector/predict", body, {"content-type": "application/json"})
            except OSError:  # closed while a large body was still being sent, as HTTP lets a server do that has answered
                assert rows > 1
                connection.close()
                continue
            reply = connection.getresponse()
            seen.append((reply.status, reply.headers["retry-after"], reply.read()))
        connection.close()
        return seen

    with ThreadPoolExecutor(CLIENTS) as threads, platform.client() as operator:
        asked = threads.map(ask, range(CLIENTS))
        assert operator.status()["replicas"], "operators come through"
        seen = [one for part in asked for one in part]
    assert {status for status, _, _ in seen} == {200, 503}
    for status, retry, text in seen:
        answer = json.loads(text)
        if status == 503:
            assert retry == "1"
            assert "as many requests are at work as can be answered in time" in answer["error"]
        else:
            assert len(answer["predictions"]) == rows
    with platform.client() as client:
        assert client.predict("vector", [{"features": {"x": [0.0] * 32}}])
    assert _refusals(platform) - before >= sum(status == 503 for status, _, _ in seen)


def test_clients_that_dawdle_take_nobodys_place(platform: TestPlatform) -> None:
    body = _body(1)
    head = f"POST /models/vector/predict HTTP/1.1\r\nhost: h\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    with ExitStack() as dawdling, platform.client() as client:
        slow = [dawdling.enter_context(create_connection(("127.0.0.1", platform.port), 60)) for _ in range(DAWDLERS)]
        for one in slow:
            one.sendall(head + body[:-1])
        for _ in range(20):
            assert client.predict("vector", [{"features": {"x": [0.0] * 32}}])
        for one in slow[:3]:  # one after the other: there is one place
            one.sendall(body[-1:])
            assert one.recv(100).startswith(b"HTTP/1.1 200 ")
