"""What features are expected to be: inferred from what was learned, counted at every way in, edited by operators."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from serving.testing import GOOD, TOKEN, predict, refused
from store.redis_store import RedisStore
from trainer.loop import Trainer

pytestmark = pytest.mark.anyio
PATH = "/admin/models/m/expectations"


@pytest.fixture
async def client(platform: tuple[Trainer, RedisStore, httpx.AsyncClient]) -> AsyncIterator[httpx.AsyncClient]:
    yield platform[2]
    await predict(platform[2])


async def _shown(client: httpx.AsyncClient) -> dict[str, Any]:
    return (await client.get(PATH, headers=TOKEN)).json()


async def _edited(client: httpx.AsyncClient, *expectations: dict[str, Any], revision: int | None = None) -> httpx.Response:
    at = (await client.get(PATH, headers=TOKEN)).headers["etag"] if revision is None else f'"{revision}"'
    body = {"expectations": expectations, "why": "I know better"}
    return await client.put(PATH, headers=TOKEN | {"if-match": at}, json=body)


async def _learn(client: httpx.AsyncClient, trainer: Trainer, count: int) -> None:
    """Ask, say what was true, and let the trainer take it."""
    features = [GOOD | {"x": number % 10 / 10, "name": f"n{number % 3}"} for number in range(count)]
    reply = await client.post("/models/m/predict", json={"instances": [{"features": one} for one in features]})
    ids = [one["id"] for one in reply.json()["predictions"]]
    await client.post("/feedback", json={"events": [{"id": id_, "label": 1} for id_ in ids]})
    await client.post("/admin/models/m/retrain", headers=TOKEN, json={"wait_s": 0})
    while await trainer.step(0.01):
        pass


async def _violated(client: httpx.AsyncClient, feature: str, violations: int) -> dict[str, Any]:
    """Wait until a feature has so many violations, as reports tell; return what is said of it."""
    async with asyncio.timeout(30):
        while True:
            for one in (await _shown(client))["violated"]:
                if one["feature"] == feature and one["violations"] >= violations:
                    return one
            await asyncio.sleep(0.05)


async def _watched(client: httpx.AsyncClient, body: dict[str, Any], status: int) -> httpx.Response:
    """Ask until a replica has heard of a change."""
    async with asyncio.timeout(30):
        while (reply := await client.post("/models/m/predict", json=body)).status_code != status:  # noqa: ASYNC110 - asked as any client asks
            await asyncio.sleep(0.05)
    return reply


async def test_from_what_was_learned_to_what_is_counted_and_refused(
    client: httpx.AsyncClient, platform: tuple[Trainer, RedisStore, httpx.AsyncClient]
) -> None:
    trainer = platform[0]
    assert (await _shown(client))["revision"] == 0
    await _learn(client, trainer, 600)
    await _learn(client, trainer, 600)
    shown = await _shown(client)
    assert (shown["origin"], shown["rows"], shown["who"], shown["profiled"]) == ("inferred", 1200, "trainer", 1200)
    expected = {(one["feature"], one["kind"]): one for one in shown["expectations"]}
    assert expected.keys() == {("x", "range"), ("name", "categories"), ("limited", "range")}
    assert expected["name", "categories"]["values"] == ["n0", "n1", "n2"]

    odd = {"instances": [{"features": GOOD | {"x": 1e9, "name": "n1"}}]}
    async with asyncio.timeout(30):
        while not (await _shown(client))["violated"]:
            assert (await client.post("/models/m/predict", json=odd)).status_code == 200
            await asyncio.sleep(0.05)
    one = await _violated(client, "x", 1)
    assert (one["kind"], one["example"]) == ("range", "1e+09")
    seen = one["violations"]
    tensors = [
        {"name": "x", "datatype": "FP64", "shape": [2], "data": [1e9, 0.5]},
        {"name": "name", "datatype": "BYTES", "shape": [2], "data": ["n1", "n1"]},
        {"name": "colour", "datatype": "BYTES", "shape": [2], "data": ["red", "red"]},
        {"name": "limited", "datatype": "FP64", "shape": [2], "data": [0.5, 0.5]},
    ]
    assert (await client.post("/v2/models/m/infer", json={"inputs": tensors})).status_code == 200
    candidates = [{"item": name, "features": {"x": x}} for name, x in (("a", 0.5), ("b", -1e9))]
    ranked = {"candidates": candidates, "context": {key: GOOD[key] for key in ("colour", "limited")} | {"name": "n0"}}
    assert (await client.post("/models/m/rank", json=ranked)).status_code == 200
    one = await _violated(client, "x", seen + 2)
    assert (one["violations"], one["example"]) == (seen + 2, "-1e+09")
    metrics = (await client.get("/metrics")).text
    assert 'tidemill_expectation_violations_total{expectation="range",feature="x",model="m"' in metrics

    edited = await _edited(client, expected["x", "range"] | {"action": "refuse"})
    assert (edited.status_code, edited.json()["origin"], edited.json()["revision"]) == (200, "edited", 2)
    refused(await _watched(client, odd, 422), 422, "row 0: 'x' is 1e+09; expected from 0 to")
    refused(await client.post("/v2/models/m/infer", json={"inputs": tensors}), 422, "row 0: 'x'")
    refused(await client.post("/models/m/rank", json=ranked), 422, "row 1: 'x' is -1e+09")
    await _learn(client, trainer, 1200)
    assert (await _shown(client))["revision"] == 2, "inference leaves an edit alone"
    audit = (await client.get("/admin/audit?model=m", headers=TOKEN)).json()["audit"][0]
    assert (audit["action"], audit["before"], audit["why"]) == ("expectations", "3 inferred", "I know better")
    assert audit["after"] == "1 edited, 1 of them refuse"

    dropped = await client.delete(PATH, headers=TOKEN)
    assert (dropped.json()["revision"], dropped.json()["rows"], dropped.json()["expectations"]) == (3, 0, [])
    await trainer.refresh()
    shown = await _shown(client)
    assert (shown["revision"], shown["origin"], len(shown["expectations"])) == (4, "inferred", 3)
    await _watched(client, odd, 200)


async def test_a_change_that_makes_no_sense_changes_nothing(client: httpx.AsyncClient) -> None:
    before = await _shown(client)
    good = {"feature": "x", "kind": "range", "low": 0}
    refused(await client.put(PATH, headers=TOKEN, json={"expectations": [good]}), 428, "If-Match")
    refused(await _edited(client, good, revision=before["revision"] + 1), 409, "revision")
    refused(await _edited(client, good | {"feature": "y"}), 422, "no feature 'y'")
    refused(await _edited(client, {"feature": "x", "kind": "range"}), 422, "needs 'low'")
    refused(await _edited(client, good | {"low": "NaN"}), 422, "low")
    refused(await client.put(PATH, headers={"if-match": "0"}, json={"expectations": []}), 401)
    after = await _shown(client)
    assert (after["revision"], after["expectations"]) == (before["revision"], before["expectations"])
