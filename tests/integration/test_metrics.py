"""What is refused is counted like every other answer, and what waits can be seen."""

import re

import httpx
import pytest

from serving.settings import ServingSettings
from serving.testing import GOOD, predict, serving
from store.keys import Limits
from store.redis_store import RedisStore
from store.spec import ModelSpec, Schedule
from tests.integration.conftest import SPEC, Features
from trainer.loop import Trainer

pytestmark = pytest.mark.anyio
ASK = {"instances": [{"features": GOOD}]}


async def _value(client: httpx.AsyncClient, name: str, **labels: object) -> float:
    """Return a sample that has these labels."""
    for line in (await client.get("/metrics")).text.splitlines():
        found = re.fullmatch(r"(\w+)\{(.*)\} (\S+)", line)
        if found and found[1] == name and all(f'{key}="{value}"' in found[2] for key, value in labels.items()):
            return float(found[3])
    return 0.0


async def _prepared(redis_url: str, prefix: str, spec: ModelSpec) -> None:
    store = RedisStore(redis_url, prefix)
    await Trainer(spec, store).start()
    await store.close()


async def test_a_replica_that_is_full_counts_what_it_refuses(redis_url: str, prefix: str) -> None:
    await _prepared(redis_url, prefix, SPEC)
    async with serving(ServingSettings(redis_url=redis_url, prefix=prefix, max_ongoing=0)) as client:
        for path in ("/models/m/predict", "/models/m/predict", "/models/m/rank", "/v2/models/m/infer"):
            reply = await client.post(path, json=ASK)
            assert (reply.status_code, reply.headers["retry-after"]) == (503, "1")
        for route, count in (("/models/{model}/predict", 2), ("/models/{model}/rank", 1), ("/v2/models/{model}/infer", 1)):
            assert await _value(client, "tidemill_requests_total", route=route, status=503) == count
            assert await _value(client, "tidemill_errors_total", route=route, kind="Overloaded") == count


async def test_limits_and_mistakes_are_counted_by_what_they_are(redis_url: str, prefix: str) -> None:
    limited = ModelSpec(name="m", features=Features, schedule=Schedule(seconds=None), limits=Limits(requests_s=0.001))
    await _prepared(redis_url, prefix, limited)
    async with serving(ServingSettings(redis_url=redis_url, prefix=prefix)) as client:
        await predict(client)
        assert (await client.post("/models/m/predict", json=ASK)).status_code == 429
        assert (await client.post("/models/nothing/predict", json=ASK)).status_code == 404
        route = "/models/{model}/predict"
        for status, kind in ((429, "LimitReached"), (404, "UnknownModel")):
            assert await _value(client, "tidemill_requests_total", route=route, status=status) == 1
            assert await _value(client, "tidemill_errors_total", route=route, kind=kind) == 1


async def test_sizes_queues_and_requests_at_work_are_shown(redis_url: str, prefix: str) -> None:
    await _prepared(redis_url, prefix, SPEC)
    async with serving(ServingSettings(redis_url=redis_url, prefix=prefix)) as client:
        await client.post("/models/m/predict", json={"instances": [{"features": GOOD}] * 3})
        candidates = {"candidates": [{"item": "a", "features": GOOD}]}
        assert (await client.post("/models/m/rank", json=candidates)).status_code == 200
        assert await _value(client, "tidemill_request_instances_sum", model="m") == 4
        assert await _value(client, "tidemill_request_instances_bucket", model="m", le="2.0") == 1
        assert await _value(client, "tidemill_predict_seconds_count", model="m") == 2
        page = (await client.get("/metrics")).text
        queues = set(re.findall(r'tidemill_queue_length\{queue="(\w+)"', page))
        assert queues == {"log", "shadows", "batches", "reading", "arms", "trials"}
        assert await _value(client, "tidemill_requests_in_flight") == 0
        assert "tidemill_shadows_total" in page
