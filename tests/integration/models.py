"""A replica in this process whose models come and go, and the specs that they are added by."""

import asyncio
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving.app import build
from serving.foreign.testing import logistic
from serving.replica import Replica
from serving.settings import ServingSettings
from serving.testing import TOKEN
from store.redis_store import RedisStore

SPECS = """
from pydantic import BaseModel
from store.keys import Limits
from store.spec import ModelSpec, Schedule

print("a module may print")

class Features(BaseModel):
    x: float

class Others(BaseModel):
    y: float

by_hand = Schedule(seconds=None)
click = ModelSpec(name="click", features=Features, schedule=by_hand)
other = ModelSpec(name="click", features=Others, schedule=by_hand)
sale = ModelSpec(name="sale", features=Features, schedule=by_hand, limits=Limits(concurrency=1))
rare = ModelSpec(name="rare", features=Features, schedule=by_hand, limits=Limits(requests_s=0.001))
number = 5
"""
IRIS = {"x": [1.0, 2.0, 3.0]}


@dataclass
class Place:
    store: RedisStore
    client: httpx.AsyncClient
    replica: Replica

    async def add(self, **body: str) -> httpx.Response:
        return await self.client.post("/admin/models", headers=TOKEN, json=body)

    async def remove(self, model: str, **how: str) -> httpx.Response:
        return await self.client.delete(f"/admin/models/{model}", headers=TOKEN, params=how)

    async def bring(self, model: str) -> None:
        """Import a small model."""
        headers = TOKEN | {"content-type": "application/octet-stream"}
        reply = await self.client.post(f"/admin/models/{model}/versions", headers=headers, content=logistic())
        assert reply.status_code == 201, reply.text

    async def ask(self, model: str, features: dict[str, Any] | None = None, **instance: Any) -> httpx.Response:
        body = {"instances": [{"features": features or IRIS, **instance}]}
        return await self.client.post(f"/models/{model}/predict", json=body)

    async def until(self, model: str, status: int, features: dict[str, Any] | None = None) -> httpx.Response:
        async with asyncio.timeout(60):
            while (reply := await self.ask(model, features)).status_code != status:  # noqa: ASYNC110 - asked as any client asks
                await asyncio.sleep(0.02)
        return reply

    async def listed(self) -> dict[str, Any]:
        return (await self.client.get("/admin/models", headers=TOKEN)).json()

    async def audit(self, model: str) -> list[str]:
        records = (await self.client.get(f"/admin/audit?model={model}", headers=TOKEN)).json()["audit"]
        return [record["action"] for record in records]


@asynccontextmanager
async def models_in(folder: Path, redis_url: str, prefix: str, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Place]:
    """A replica that can import what lies in the folder, and serves an imported model `first`."""
    (folder / "many_models.py").write_text(SPECS)
    monkeypatch.syspath_prepend(str(folder))  # pyright: ignore[reportUnknownMemberType]
    store = RedisStore(redis_url, prefix)
    replicas: list[Replica] = []

    def made(settings: ServingSettings, *others: Any) -> Replica:
        replicas.append(Replica(settings, *others))
        return replicas[0]

    monkeypatch.setattr("serving.app.Replica", made)
    edge = build(ServingSettings(redis_url=redis_url, prefix=prefix, token="secret", max_ongoing=40))
    transport = httpx.ASGITransport(edge)
    async with (
        edge.app.router.lifespan_context(edge.app),
        httpx.AsyncClient(transport=transport, base_url="http://platform", timeout=60) as client,
    ):
        place = Place(store, client, replicas[0])
        await place.bring("first")
        await place.until("first", 200)
        yield place
    sys.modules.pop("many_models", None)
    await store.close()
