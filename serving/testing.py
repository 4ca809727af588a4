"""Doubles for serving's tests: a log that can be held up, taken away and given back."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx

from serving.app import build
from serving.settings import ServingSettings
from store.errors import Unavailable
from store.memory import MemoryStore

TOKEN = {"authorization": "Bearer secret"}
GOOD = {"x": 1.0, "name": "n", "colour": "red", "limited": 0.5}
"""Features that are in order."""


class FickleLog(MemoryStore):
    """An event log that counts its calls, answers them only while `open` is set, and fails while `broken`."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[list[tuple[str, bytes]]] = []
        self.open = asyncio.Event()
        self.open.set()
        self.broken = False
        self.tried = asyncio.Event()

    async def append(self, entries: Sequence[tuple[str, bytes]]) -> list[str]:
        self.calls.append(list(entries))
        self.tried.set()
        await self.open.wait()
        if self.broken:
            raise Unavailable("the log is broken")
        return await super().append(entries)

    async def kept(self, stream: str) -> list[bytes]:
        return [entry.payload for entry in await self.read(stream, "0-0", 1_000_000)]


async def until(condition: Any, patience_s: float = 30.0) -> None:
    """Wait until a condition holds; it is looked at whenever the event loop has had a turn."""
    async with asyncio.timeout(patience_s):
        while not condition():  # noqa: ASYNC110 - conditions of many kinds
            await asyncio.sleep(0.001)


@asynccontextmanager
async def serving(settings: ServingSettings) -> AsyncGenerator[httpx.AsyncClient]:
    """One replica's application, ready, and a client of it; the store and a trainer's first version are there already."""
    app = build(settings)
    async with (
        app.app.router.lifespan_context(app.app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://platform") as client,
    ):
        async with asyncio.timeout(60):
            while (await client.get("/readyz")).status_code != 200:  # noqa: ASYNC110 - asked as any client asks
                await asyncio.sleep(0.01)
        yield client


async def predict(client: httpx.AsyncClient, **instance: Any) -> dict[str, Any]:
    response = await client.post("/models/m/predict", json={"instances": [{"features": GOOD, **instance}]})
    assert response.status_code == 200, response.text
    [prediction] = response.json()["predictions"]
    assert 0.0 <= prediction["output"]["probability"] <= 1.0
    return prediction


def refused(response: httpx.Response, status: int, says: str = "") -> None:
    assert response.status_code == status, response.text[:500]
    error = response.json()["error"]
    assert says in error
    assert 0 < len(error) < 1000
    assert not any(trace in response.text for trace in ("Traceback", 'File "', ".py", "pydantic.dev"))
