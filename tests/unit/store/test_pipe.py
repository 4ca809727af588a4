"""One connection to a server that answers when it is told to, or never."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from store.errors import Unavailable
from store.pipe import Pipe

pytestmark = pytest.mark.anyio


class _Server:
    """Takes connections on a socket, and counts the commands that came."""

    def __init__(self) -> None:
        self.lines: list[asyncio.StreamWriter] = []
        self.came = bytearray()
        self.news = asyncio.Event()

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.lines.append(writer)
        while data := await reader.read(1000):
            self.came += data
            self.news.set()
        writer.close()

    async def commands(self, count: int) -> None:
        async with asyncio.timeout(30):
            while self.came.count(b"PING") < count:
                self.news.clear()
                await self.news.wait()

    def answer(self) -> None:
        self.lines[-1].write(b"+PONG\r\n")


@pytest.fixture
async def server(tmp_path: Path) -> AsyncGenerator[_Server]:
    one = _Server()
    listening = await asyncio.start_unix_server(one.take, tmp_path / "s")
    yield one
    listening.close()
    await listening.wait_closed()


async def test_what_is_not_answered_in_time_fails_and_all_that_came_after_it(server: _Server, tmp_path: Path) -> None:
    pipe = Pipe(f"unix://{tmp_path}/s", 0.05)
    first, second = pipe.send([("PING",)]), pipe.send([("PING",)])
    for one in (first, second):
        with pytest.raises(Unavailable, match=r"no answer within 0\.05 s"):
            await one
    later = pipe.send([("PING",)])
    await server.commands(3)
    assert len(server.lines) == 2
    with pytest.raises(Unavailable, match="no answer within"):
        await later
    await pipe.close()


async def test_each_has_its_own_time(server: _Server, tmp_path: Path) -> None:
    pipe: Any = Pipe(f"unix://{tmp_path}/s", 600.0)
    first = pipe.send([("PING",)])
    await server.commands(1)
    server.answer()
    assert await first == [b"PONG"]
    assert pipe._watch is not None
    second = pipe.send([("PING",)])
    pipe._watch.cancel()
    pipe._look()  # the first one's time is over
    assert pipe._watch is not None
    await server.commands(2)
    server.answer()
    assert await second == [b"PONG"]
    pipe._watch.cancel()
    pipe._look()
    assert pipe._watch is None
    await pipe.close()


async def test_a_greeting_that_is_not_answered_fails_what_waits_for_it(server: _Server, tmp_path: Path) -> None:
    pipe = Pipe(f"unix://:secret@{tmp_path}/s", 0.05)
    with pytest.raises(Unavailable, match="no answer within"):
        await pipe.send([("PING",)])
    assert b"AUTH" in server.came
    await pipe.close()


async def test_nothing_is_left_of_one_that_is_closed(server: _Server, tmp_path: Path) -> None:
    pipe: Any = Pipe(f"unix://{tmp_path}/s", 600.0)
    asked = pipe.send([("PING",)])
    await server.commands(1)
    await pipe.close()
    with pytest.raises(Unavailable, match="closed"):
        await asked
    assert pipe._watch is None
