"""Whatever a client sends, it gets one sentence and the right status, and the next good request is answered."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

import httpx
import pytest
from pydantic import BaseModel, Field

from serving.app import build
from serving.settings import ServingSettings
from store.names import join_consumer
from store.redis_store import RedisStore
from store.schema import Buckets
from store.spec import ModelSpec, Schedule
from trainer.loop import Trainer

pytestmark = pytest.mark.anyio

MAX_BODY = 2_000_000
TOKEN = {"authorization": "Bearer secret"}


class Features(BaseModel):
    x: float
    name: Annotated[str, Buckets(8)]
    colour: Literal["red", "blue"]
    limited: Annotated[float, Field(ge=0, le=1)] = 0.0


SPEC = ModelSpec(name="m", features=Features, schedule=Schedule(seconds=None))
GOOD = {"x": 1.0, "name": "n", "colour": "red", "limited": 0.5}


@pytest.fixture(scope="module")
async def platform(
    redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[Trainer, RedisStore, httpx.AsyncClient]]:
    prefix = f"test-{tmp_path_factory.mktemp('bad').parent.name}-bad-input"
    store = RedisStore(redis_url, prefix)
    trainer = Trainer(SPEC, store)
    await trainer.start()
    settings = ServingSettings(redis_url=redis_url, prefix=prefix, token="secret", max_body_bytes=MAX_BODY)
    app = build(settings)
    transport = httpx.ASGITransport(app, raise_app_exceptions=True)
    async with (
        app.app.router.lifespan_context(app.app),
        httpx.AsyncClient(transport=transport, base_url="http://platform") as client,
    ):
        async with asyncio.timeout(60):
            while (await client.get("/readyz")).status_code != 200:  # noqa: ASYNC110 - asked as any client asks
                await asyncio.sleep(0.01)
        yield trainer, store, client
    await store.close()


@pytest.fixture
async def client(platform: tuple[Trainer, RedisStore, httpx.AsyncClient]) -> AsyncIterator[httpx.AsyncClient]:
    """The platform's client; after each test a good request must still be answered."""
    yield platform[2]
    await _predict(platform[2])


async def _predict(client: httpx.AsyncClient, **instance: Any) -> dict[str, Any]:
    response = await client.post("/models/m/predict", json={"instances": [{"features": GOOD, **instance}]})
    assert response.status_code == 200, response.text
    [prediction] = response.json()["predictions"]
    assert 0.0 <= prediction["output"]["probability"] <= 1.0
    return prediction


def _refused(response: httpx.Response, status: int, says: str = "") -> None:
    assert response.status_code == status, response.text[:500]
    error = response.json()["error"]
    assert says in error
    assert 0 < len(error) < 1000
    assert not any(trace in response.text for trace in ("Traceback", 'File "', ".py", "pydantic.dev"))


def _features(text: str) -> bytes:
    """A predict body whose x is written as `text`."""
    good = json.dumps({"instances": [{"features": GOOD}]})
    return good.replace('"x": 1.0', f'"x": {text}').encode()


@pytest.mark.parametrize("path", ["/models/m/predict", "/feedback"])
@pytest.mark.parametrize("body", [b"", b"{", b"nonsense", b"[1", b"\xff\xfe", b'{"a": }', b"\x00", b"[" * 100_000])
async def test_what_is_not_json_is_malformed(client: httpx.AsyncClient, path: str, body: bytes) -> None:
    _refused(await client.post(path, content=body), 400, "JSON")


@pytest.mark.parametrize("body", [b"[]", b"1", b"null", b'"text"', b"{}", b'{"instances": []}', b'{"instances": 1}'])
async def test_json_of_another_shape_is_malformed(client: httpx.AsyncClient, body: bytes) -> None:
    _refused(await client.post("/models/m/predict", content=body), 400)


@pytest.mark.parametrize("text", ['"1"', "null", "true", "[1]", "{}", "1e39", "-1e39", "1" * 400])
async def test_a_value_that_is_no_number_is_named(client: httpx.AsyncClient, text: str) -> None:
    _refused(await client.post("/models/m/predict", content=_features(text)), 422, "instances.0.features.x")


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
async def test_numbers_that_json_does_not_have_are_refused(client: httpx.AsyncClient, text: str) -> None:
    response = await client.post("/models/m/predict", content=_features(text))
    _refused(response, response.status_code)
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
    _refused(await client.post("/models/m/predict", json=body), 422, names)


async def test_a_missing_feature_is_named(client: httpx.AsyncClient) -> None:
    for name in GOOD:
        features = {key: value for key, value in GOOD.items() if key != name}
        response = await client.post("/models/m/predict", json={"instances": [{"features": features}]})
        _refused(response, 422, name)


@pytest.mark.parametrize(
    "instance",
    [
        {}, {"features": None}, {"features": []}, {"features": GOOD, "surprise": 1}, {"features": GOOD, "unit": 7},
        {"features": GOOD, "unit": ""}, {"features": GOOD, "unit": "u" * 257}, {"features": GOOD, "id": "i" * 10_000},
        {"features": GOOD, "id": ""}, {"features": GOOD, "at": -1}, {"features": GOOD, "at": 1e300},
        {"features": GOOD, "at": "never"}, 7, None, [],
    ],
)  # fmt: skip
async def test_a_wrong_instance_is_refused(client: httpx.AsyncClient, instance: Any) -> None:
    response = await client.post("/models/m/predict", json={"instances": [{"features": GOOD}, instance]})
    _refused(response, 422, "instances.1")


async def test_one_instance_too_many_is_too_large(client: httpx.AsyncClient) -> None:
    response = await client.post("/models/m/predict", json={"instances": [{"features": GOOD}] * 10_001})
    _refused(response, 413)


async def test_a_body_over_the_limit_is_too_large(client: httpx.AsyncClient) -> None:
    for path in ("/models/m/predict", "/feedback"):
        _refused(await client.post(path, content=b"x" * (MAX_BODY + 1)), 413, "2,000,000 bytes")


async def test_a_huge_string_is_refused_and_not_repeated(client: httpx.AsyncClient) -> None:
    huge = "x" * 1_000_000
    body = {"instances": [{"features": GOOD | {"name": huge}}]}
    _refused(await client.post("/models/m/predict", json=body), 422, "name")
    _refused(await client.post("/feedback", json={"events": [{"id": huge, "label": 1}]}), 422)
    _refused(await client.post("/feedback", json={"events": [{"id": "m:1", "label": huge}]}), 422)


@pytest.mark.parametrize("unit", ["\ud800", "\x00", "ä" * 256, "a:b\r\n*1", "💥"])
async def test_any_text_may_name_a_unit(client: httpx.AsyncClient, unit: str) -> None:
    body = json.dumps({"instances": [{"features": GOOD | {"name": unit}, "unit": unit}]})
    response = await client.post("/models/m/predict", content=body)
    assert response.status_code in (200, 400, 422)
    if response.status_code != 200:
        _refused(response, response.status_code)


async def test_what_is_not_there_is_not_found(client: httpx.AsyncClient) -> None:
    _refused(await client.post("/models/nobody/predict", json={"instances": [{"features": GOOD}]}), 404, "nobody")
    for path in (f"/models/{'n' * 5000}/predict", "/models/predict", "/models//predict", "/models/m/x/predict"):
        _refused(await client.post(path, json={}), 404)
    for path in ("/", "/models", "/nothing/here", f"/{'p' * 5000}", "/admin", "/models/a%2Fb/predict/x"):
        _refused(await client.get(path), 404)
    for path in ("policy", "versions", "schedule"):
        _refused(await client.get(f"/admin/models/nobody/{path}", headers=TOKEN), 404, "nobody")


async def test_a_wrong_method_is_told_the_right_one(client: httpx.AsyncClient) -> None:
    for method, path, right in [
        ("GET", "/models/m/predict", "POST"), ("DELETE", "/feedback", "POST"), ("POST", "/readyz", "GET"),
        ("DELETE", "/admin/models/m/policy", ""),
    ]:  # fmt: skip
        response = await client.request(method, path, headers=TOKEN)
        _refused(response, 405, right)
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
async def test_feedback_that_is_all_bad_is_refused(client: httpx.AsyncClient, event: Any) -> None:
    response = await client.post("/feedback", json={"events": [event]})
    _refused(response, 422, "event 0")
    assert response.json()["accepted"] == 0


@pytest.mark.parametrize("body", [{}, {"events": []}, {"events": 1}, {"events": [{}], "more": 1}, {"event": [{}]}])
async def test_feedback_of_another_shape_is_malformed(client: httpx.AsyncClient, body: dict[str, Any]) -> None:
    _refused(await client.post("/feedback", json=body), 400, "events")


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
    _refused(await client.post("/feedback", json={"events": [{"id": "m:1", "label": 1}] * 10_001}), 413)


OPERATOR_ROUTES = [
    ("GET", "/admin/models/m/policy"), ("PUT", "/admin/models/m/policy"), ("GET", "/admin/models/m/versions"),
    ("POST", "/admin/models/m/retrain"), ("GET", "/admin/models/m/schedule"), ("PUT", "/admin/models/m/schedule"),
    ("GET", "/admin/status"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path"), OPERATOR_ROUTES)
async def test_operator_routes_need_the_token(client: httpx.AsyncClient, method: str, path: str) -> None:
    for wrong in ("", "secret", "Bearer", "Bearer ", "Bearer Secret", "Bearer secret2", "bearer \u00e4"):
        headers = {"authorization": wrong.encode()} if wrong else {}
        _refused(await client.request(method, path, headers=headers), 401, "Authorization")


def test_every_operator_route_is_guarded() -> None:
    app = build(ServingSettings(redis_url="unix:///nowhere", token="secret"))
    routes: list[Any] = list(app.app.routes)
    admin = {(method, route.path.replace("{model}", "m")) for route in routes for method in route.methods or ()}
    admin = {(method, path) for method, path in admin if path.startswith("/admin") and method != "HEAD"}
    assert admin == set(OPERATOR_ROUTES)


def _policy(**changes: Any) -> dict[str, Any]:
    variants = [{"name": "main"}, {"name": "other"}]
    return {"variants": variants, "default": "main", "experiments": []} | changes


def _ab(shares: Any) -> dict[str, Any]:
    return _policy(experiments=[{"name": "e", "kind": "ab", "shares": shares}])


async def _epoch(client: httpx.AsyncClient) -> str:
    return (await client.get("/admin/models/m/policy", headers=TOKEN)).headers["etag"]


async def test_a_policy_needs_the_epoch_it_replaces(client: httpx.AsyncClient) -> None:
    for wrong in ("", "*", "now", "-1", "1.5", "\u00b2", "9" * 5000):
        headers = [*TOKEN.items(), *([("if-match", wrong.encode("latin-1"))] if wrong else [])]
        _refused(await client.put("/admin/models/m/policy", headers=headers, json=_policy()), 428, "If-Match")


async def test_a_stale_epoch_is_a_conflict(client: httpx.AsyncClient) -> None:
    headers = {**TOKEN, "if-match": await _epoch(client)}
    assert (await client.put("/admin/models/m/policy", headers=headers, json=_policy())).status_code == 200
    _refused(await client.put("/admin/models/m/policy", headers=headers, json=_policy()), 409, "epoch")
    headers["if-match"] = "9" * 18
    _refused(await client.put("/admin/models/m/policy", headers=headers, json=_policy()), 409, "epoch")


@pytest.mark.parametrize(
    ("policy", "says"),
    [
        (_ab({"main": 0.5, "other": 0.4}), "sum to 1"), (_ab({"main": 0.5, "nobody": 0.5}), "nobody"),
        (_ab({"main": -1, "other": 2}), "between 0 and 1"), (_ab({"main": "half"}), "shares"), (_ab([]), "shares"),
        (_policy(variants=[{"name": "main", "version": 999}]), "version 999"), (_policy(default="nobody"), "nobody"),
        (_policy(variants=[{"name": "main", "version": 0}]), "version"), (_policy(variants=[]), "main"),
        (_policy(surprise=1), "surprise"), (_policy(experiments=[{"name": "e"}]), "kind"), ([], "the body"),
        (_policy(variants=[{"name": "main", "version": 10**30}]), "version"),
    ],
)  # fmt: skip
async def test_a_policy_that_makes_no_sense_is_refused(client: httpx.AsyncClient, policy: Any, says: str) -> None:
    before = await _epoch(client)
    headers = {**TOKEN, "if-match": before}
    _refused(await client.put("/admin/models/m/policy", headers=headers, json=policy), 422, says)
    assert await _epoch(client) == before


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("PUT", "policy", b"{", 400), ("PUT", "schedule", b"nonsense", 400), ("PUT", "schedule", b"[]", 422),
        ("PUT", "schedule", b'{"outcomes": "many"}', 422), ("PUT", "schedule", b'{"minutes": 1}', 422),
        ("PUT", "schedule", b'{"outcomes": -1}', 422), ("PUT", "schedule", b'{"seconds": -1}', 422),
        ("PUT", "schedule", b'{"seconds": 0}', 422), ("PUT", "schedule", b'{"outcomes": 0}', 422),
        ("POST", "retrain", b'{"wait_s": -1}', 422), ("POST", "retrain", b'{"wait_s": 1e9}', 422),
        ("POST", "retrain", b"{", 400), ("POST", "retrain", b"x" * 20_000, 413), ("GET", "versions?last=0", b"", 422),
        ("GET", "versions?last=all", b"", 422), ("GET", "versions?last=-1", b"", 422),
        ("GET", "versions?last=%C2%B2", b"", 422), ("GET", "versions?last=" + "9" * 5000, b"", 422),
        ("PUT", "schedule", b'{"seconds": NaN}', 422), ("PUT", "schedule", b'{"seconds": Infinity}', 422),
    ],
    ids=str,
)  # fmt: skip
async def test_operators_are_told_what_is_wrong(
    client: httpx.AsyncClient, method: str, path: str, body: bytes, status: int
) -> None:
    headers = {**TOKEN, "if-match": "0"}
    _refused(await client.request(method, f"/admin/models/m/{path}", headers=headers, content=body), status)


async def test_late_unknown_and_repeated_feedback_is_taken_and_counted(
    platform: tuple[Trainer, RedisStore, httpx.AsyncClient],
) -> None:
    trainer, store, client = platform
    while await trainer.step(block_s=0.0):
        pass
    before = await _join_counts(store)
    id_ = (await _predict(client))["id"]
    old = "m:1.AAAAAAAAAAAA:0"
    for event in [{"id": id_, "label": 1}, {"id": id_, "label": 1}, {"id": id_, "label": 0}, {"id": old, "label": 1}]:
        assert (await client.post("/feedback", json={"events": [event]})).status_code == 202
    while await trainer.step(block_s=0.0):
        pass
    after = await _join_counts(store)
    rose = {name: after[name] - before.get(name, 0) for name in after if after[name] != before.get(name, 0)}
    assert rose == {"predictions": 1, "feedback": 4, "labelled": 1, "repeated": 1, "corrected": 1, "late": 1}


async def _join_counts(store: RedisStore) -> dict[str, int]:
    _, state = await store.consumer(join_consumer("m"))
    return json.loads(state)["counts"] if state else {}
