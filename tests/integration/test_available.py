"""`available`: with Redis gone predictions are still answered, and what they say is in the log when it is back."""

import asyncio
from pathlib import Path

import httpx
import pytest

from serving.settings import ServingSettings
from serving.testing import GOOD, serving
from store.embedded import EmbeddedRedis
from store.names import log_stream
from store.records import Predictions, unpack_log
from store.redis_store import RedisStore
from tests.integration.conftest import SPEC
from trainer.loop import Trainer

pytestmark = pytest.mark.anyio


async def _answered(client: httpx.AsyncClient, id_: str) -> str:
    instance = {"features": GOOD, "id": id_}
    reply = await client.post("/models/m/predict", json={"instances": [instance]})
    assert reply.status_code == 200, reply.text
    return reply.json()["predictions"][0]["id"]


async def test_predictions_made_without_redis_are_logged_when_it_is_back(tmp_path: Path) -> None:
    server = EmbeddedRedis(tmp_path / "redis")
    server.start()
    store = RedisStore(server.url)
    await Trainer(SPEC, store).start()
    settings = ServingSettings(redis_url=server.url, when_redis_is_away="available", buffer_entries=5)
    async with serving(settings) as client, asyncio.timeout(60):
        ids = [await _answered(client, "with Redis")]
        await asyncio.to_thread(server.stop)
        ids += [await _answered(client, f"without Redis {number}") for number in range(8)]
        while "prediction log" not in (state := (await client.get("/readyz")).json())["away"]:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert state["ready"]
        again = EmbeddedRedis(tmp_path / "redis")
        await asyncio.to_thread(again.start)
        try:
            while (await client.get("/readyz")).json()["away"]:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            ids.append(await _answered(client, "with Redis again"))
            records = [unpack_log(entry.payload) for entry in await store.read(log_stream("m"), "0-0", 100)]
            logged = [id_ for record in records if isinstance(record, Predictions) for id_ in record.ids]
            # The buffer holds five; what was beyond it is counted, not forgotten in silence.
            assert logged == [*ids[:6], ids[-1]]
            lost = next(
                line for line in (await client.get("/metrics")).text.splitlines() if line.startswith("tidemill_log_lost_total{")
            )
            assert float(lost.split()[-1]) == 3
        finally:
            await store.close()
            await asyncio.to_thread(again.stop)
