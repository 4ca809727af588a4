"""What HAProxy says that it refused, read off its statistics and off a socket."""

import asyncio
from pathlib import Path

import pytest

from serving import ingress

STATISTICS = """\
# pxname,svname,scur,hrsp_4xx,hrsp_5xx,hrsp_other,
http_frontend,FRONTEND,1,2,19,0,
default_backend,BACKEND,0,0,0,0,
http-tidemill,SERVE_REPLICA_one,1,2,3,0,
http-tidemill,SERVE_REPLICA_two,1,0,1,0,
http-tidemill,SERVE_PROXY_ACTOR,,,,,
http-tidemill,BACKEND,2,2,19,0,

"""


def test_what_no_server_answered_it_refused_itself() -> None:
    assert ingress.refusals(STATISTICS) == 15
    # A server that came from its predecessor brings its counts along.
    assert ingress.refusals(STATISTICS.replace("BACKEND,2,2,19", "BACKEND,2,2,0")) == 0


@pytest.mark.anyio
async def test_the_haproxy_of_each_node_is_asked_and_one_that_is_not_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_SERVE_HAPROXY_SOCKET_PATH", raising=False)
    assert await ingress.exposition() == ""
    monkeypatch.setenv("RAY_SERVE_ENABLE_HA_PROXY", "1")
    monkeypatch.setenv("RAY_SERVE_HAPROXY_SOCKET_PATH", str(tmp_path / "s"))
    assert await ingress.exposition() == ""
    asked: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readline())
        writer.write(STATISTICS.encode())
        writer.close()

    servers: list[asyncio.Server] = []
    for node in ("a", "b"):
        (tmp_path / node).mkdir()
        servers.append(await asyncio.start_unix_server(answer, tmp_path / node / "s"))
    assert "tidemill_ingress_refusals_total 30.0" in await ingress.exposition()
    assert asked == [b"show stat\n"] * 2
    for server in servers:
        server.close()
        await server.wait_closed()
    assert await ingress.exposition() == ""
