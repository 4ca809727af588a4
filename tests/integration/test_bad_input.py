"""Whatever a client sends, it gets one sentence and the right status, and the next good request is answered."""

import json
from typing import Any

import httpx
import pytest

from serving.testing import GOOD, TOKEN, predict, refused
from store.names import join_consumer
from store.redis_store import RedisStore
from trainer.loop import Trainer

pytestmark = pytest.mark.anyio


def _features(text: str) -> bytes:
    """A predict body whose x is written as `text`."""
    good = json.dumps({"instances": [{"features": GOOD}]})
    return good.replace('"x": 1.0', f'"x": {text}').encode()


@pytest.mark.parametrize("path", ["/models/m/predict", "/feedback"])
@pytest.mark.parametrize("body", [b"", b"{", b"nonsense", b"[1", b"\xff\xfe", b'{"a": }', b"\x00", b"[" * 100_000])
async def test_what_is_not_json_is_malformed(client: httpx.AsyncClient, path: str, body: bytes) -> None:
    refused(await client.post(path, content=body), 400, "JSON")


@pytest.mark.parametrize("body", [b"[]", b"1", b"null", b'"text"', b"{}", b'{"instances": []}', b'{"instances": 1}'])
async def test_json_of_another_shape_is_malformed(client: httpx.AsyncClient, body: bytes) -> None:
    refused(await client.post("/models/m/predict", content=body), 400)


@pytest.mark.parametrize("text", ['"1"', "null", "true", "[1]", "{}", "1e39", "-1e39", "1" * 400])
async def test_a_value_that_is_no_number_is_named(client: httpx.AsyncClient, text: str) -> None:
    refused(await client.post("/models/m/predict", content=_features(text)), 422, "instances.0.features.x")


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
async def test_numbers_that_json_does_not_have_arerefused(client: httpx.AsyncClient, text: str) -> None:
    response = await client.post("/models/m/predict", content=_features(text))
    refused(response, response.status_code)
    assert response.status_code in (400, 422)


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"x": None}, "x"), ({"name": 3}, "name"), ({"name": "x" * 1001}, "name"), ({"colour": "green"}, "colour"),
        ({"limited": 1.5}, "limited"), ({"extra": 1}, "extra"), ({"y" * 100_000: 1}, "instances.0.features"),
    ],
)  # fmt: skip
async def test_a_wrong_feature_is_named(client: httpx.AsyncClient, changes: dict[str, Any], names: str) -> None:
    body = {"instances": [{"features": GOOD | changes}]}
    refused(await client.post("/models/m/predict", json=body), 422, names)


async def test_a_missing_feature_is_named(client: httpx.AsyncClient) -> None:
    for name in GOOD:
        features = {key: value for key, value in GOOD.items() if key != name}
        response = await client.post("/models/m/predict", json={"instances": [{"features": features}]})
        refused(response, 422, name)


@pytest.mark.parametrize(
    "instance",
    [
        {}, {"features": None}, {"features": []}, {"features": GOOD, "surprise": 1}, {"features": GOOD, "unit": 7},
        {"features": GOOD, "unit": ""}, {"features": GOOD, "unit": "u" * 257}, {"features": GOOD, "id": "i" * 10_000},
        {"features": GOOD, "id": ""}, {"features": GOOD, "at": -1}, {"features": GOOD, "at": 1e300},
        {"features": GOOD, "at": "never"}, 7, None, [],
    ],
)  # fmt: skip
async def test_a_wrong_instance_isrefused(client: httpx.AsyncClient, instance: Any) -> None:
    response = await client.post("/models/m/predict", json={"instances": [{"features": GOOD}, instance]})
    refused(response, 422, "instances.1")


async def test_one_instance_too_many_is_too_large(client: httpx.AsyncClient) -> None:
    response = await client.post("/models/m/predict", json={"instances": [{"features": GOOD}] * 10_001})
    refused(response, 413)


async def test_a_body_over_the_limit_is_too_large(client: httpx.AsyncClient) -> None:
    for path in ("/models/m/predict", "/feedback"):
        refused(await client.post(path, content=b"x" * 2_000_001), 413, "2,000,000 bytes")


async def test_a_huge_string_is_refused_and_not_repeated(client: httpx.AsyncClient) -> None:
    huge = "x" * 1_000_000
    body = {"instances": [{"features": GOOD | {"name": huge}}]}
    refused(await client.post("/models/m/predict", json=body), 422, "name")
    refused(await client.post("/feedback", json={"events": [{"id": huge, "label": 1}]}), 422)
    refused(await client.post("/feedback", json={"events": [{"id": "m:1", "label": huge}]}), 422)


@pytest.mark.parametrize("unit", ["\ud800", "\x00", "ä" * 256, "a:b\r\n*1", "💥"])
async def test_any_text_may_name_a_unit(client: httpx.AsyncClient, unit: str) -> None:
    body = json.dumps({"instances": [{"features": GOOD | {"name": unit}, "unit": unit}]})
    response = await client.post("/models/m/predict", content=body)
    assert response.status_code in (200, 400, 422)
    if response.status_code != 200:
        refused(response, response.status_code)


async def test_what_is_not_there_is_not_found(client: httpx.AsyncClient) -> None:
    refused(await client.post("/models/nobody/predict", json={"instances": [{"features": GOOD}]}), 404, "nobody")
    for path in (f"/models/{'n' * 5000}/predict", "/models/predict", "/models//predict", "/models/m/x/predict"):
        refused(await client.post(path, json={}), 404)
    for path in ("/", "/models", "/nothing/here", f"/{'p' * 5000}", "/admin", "/models/a%2Fb/predict/x"):
        refused(await client.get(path), 404)
    for path in ("policy", "versions", "schedule"):
        refused(await client.get(f"/admin/models/nobody/{path}", headers=TOKEN), 404, "nobody")


async def test_a_wrong_method_is_told_the_right_one(client: httpx.AsyncClient) -> None:
    for method, path, right in [
        ("GET", "/models/m/predict", "POST"), ("DELETE", "/feedback", "POST"), ("POST", "/readyz", "GET"),
        ("DELETE", "/admin/models/m/policy", ""),
    ]:  # fmt: skip
        response = await client.request(method, path, headers=TOKEN)
        refused(response, 405, right)
        assert right in response.headers["allow"]


@pytest.mark.parametrize(
    "event",
    [
        {"id": "m:1", "label": "1"}, {"id": "m:1", "label": 2}, {"id": "m:1", "label": 0.5}, {"id": "m:1"},
        {"id": "m:1", "label": None}, {"label": 1}, {"id": 5, "label": 1}, {"id": "", "label": 1},
        {"id": "nobody:1", "label": 1}, {"id": "own", "label": 1}, {"id": "own", "label": 1, "model": "nobody"},
        {"id": "m:1", "label": 1, "confidence": 2}, {"id": "m:1", "label": 1, "at": "never"},
        {"id": "m:1", "label": 1, "source": "s" * 65}, {"id": "m:1", "label": 1, "surprise": 1}, 7, None, [], "x",
        {"id": "m:1", "label": [1]}, {"id": "m:1", "label": 1, "item": ""}, {"id": "m:1", "label": 1, "x" * 100_000: 1},
    ],
)  # fmt: skip
async def test_feedback_that_is_all_bad_isrefused(client: httpx.AsyncClient, event: Any) -> None:
    response = await client.post("/feedback", json={"events": [event]})
    refused(response, 422, "event 0")
    assert response.json()["accepted"] == 0


@pytest.mark.parametrize("body", [{}, {"events": []}, {"events": 1}, {"events": [{}], "more": 1}, {"event": [{}]}])
async def test_feedback_of_another_shape_is_malformed(client: httpx.AsyncClient, body: dict[str, Any]) -> None:
    refused(await client.post("/feedback", json=body), 400, "events")


async def test_good_feedback_is_taken_and_bad_feedback_named(client: httpx.AsyncClient) -> None:
    good = {"id": "own-1", "label": 1, "model": "m"}
    events = [good, {"id": "own-2", "label": 7, "model": "m"}, good | {"id": "own-3"}, {"label": 1}]
    response = await client.post("/feedback", json={"events": events})
    assert response.status_code == 202
    answer = response.json()
    assert answer["accepted"] == 2
    assert [rejected["index"] for rejected in answer["rejected"]] == [1, 3]
    assert all(rejected["error"] for rejected in answer["rejected"])


async def test_too_many_events_are_too_large(client: httpx.AsyncClient) -> None:
    refused(await client.post("/feedback", json={"events": [{"id": "m:1", "label": 1}] * 10_001}), 413)


async def test_late_unknown_and_repeated_feedback_is_taken_and_counted(
    platform: tuple[Trainer, RedisStore, httpx.AsyncClient],
) -> None:
    trainer, store, client = platform
    while await trainer.step(block_s=0.0):
        pass
    before = await _join_counts(store)
    id_ = (await predict(client))["id"]
    old = "m:1.AAAAAAAAAAAA:0"
    for event in [{"id": id_, "label": 1}, {"id": id_, "label": 1}, {"id": id_, "label": 0}, {"id": old, "label": 1}]:
        assert (await client.post("/feedback", json={"events": [event]})).status_code == 202
    while await trainer.step(block_s=0.0):
        pass
    after = await _join_counts(store)
    rose = {name: after[name] - before.get(name, 0) for name in after if after[name] != before.get(name, 0)}
    assert rose == {"predictions": 1, "feedback": 4, "labelled": 1, "repeated": 1, "corrected": 1, "too_late": 1}


async def _join_counts(store: RedisStore) -> dict[str, int]:
    _, state = await store.consumer(join_consumer("m"))
    return json.loads(state)["counts"] if state else {}
