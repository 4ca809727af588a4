"""Keys where they are needed: who may do what, how much of it, until when; and deadlines."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from starlette.routing import Route

from serving.access import UNLIMITED, Caller
from serving.app import build
from serving.errors import LimitReached
from serving.replica import Replica
from serving.settings import ServingSettings
from serving.testing import GOOD, TOKEN, refused, serving
from store.keys import Limits, issue
from store.names import log_stream
from store.redis_store import RedisStore
from store.spec import ModelSpec, Schedule
from tests.integration.conftest import SPEC, Features
from trainer.loop import Trainer

pytestmark = pytest.mark.anyio
ASK = {"instances": [{"features": GOOD}]}
PREDICT = "/models/m/predict"
INFER = {
    "inputs": [
        {"name": name, "shape": [1], "datatype": "BYTES" if isinstance(value, str) else "FP64", "data": [value]}
        for name, value in GOOD.items()
    ]
}
RANK = {"candidates": [{"item": "a", "features": GOOD}]}


@dataclass
class Place:
    client: httpx.AsyncClient
    store: RedisStore
    made: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    async def key(self, role: str = "predict", **more: Any) -> dict[str, str]:
        """Make a key; return the header that bears it, once it is known."""
        reply = await self.client.post("/admin/keys", headers=TOKEN, json={"name": f"the-{role}", "role": role} | more)
        assert reply.status_code == 201, reply.text
        self.made.append(reply.json())
        header = {"authorization": f"Bearer {reply.json()['key']}"}
        await self.known(header)
        return header

    async def known(self, header: dict[str, str], good: bool = True) -> None:
        async with asyncio.timeout(20):
            while ((await self.client.post("/v2/repository/index", headers=header)).status_code != 401) != good:  # noqa: ASYNC110
                await asyncio.sleep(0.02)


@pytest.fixture(scope="module")
async def place(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    prefix = f"test-{tmp_path_factory.mktemp('keys').parent.name}-keys"
    store = RedisStore(redis_url, prefix)
    for spec in (SPEC, ModelSpec(name="other", features=Features, schedule=Schedule(seconds=None))):
        await Trainer(spec, store).start()
    settings = ServingSettings(redis_url=redis_url, prefix=prefix, token="secret", require_key=True)
    async with serving(settings) as client:
        yield Place(client, store)
    await store.close()


def _routes() -> list[tuple[str, str]]:
    app = build(ServingSettings(redis_url="unix:///nowhere", token="secret", require_key=True))
    routes = [route for route in app.app.routes if isinstance(route, Route)]
    return sorted((method, route.path) for route in routes for method in (route.methods or set()) - {"HEAD"})


OPEN = {"/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"}
ROUTES = _routes()
_KEYLESS = [("GET", path) for path in sorted(OPEN)]


def test_all_routes_are_there() -> None:
    assert len(ROUTES) > 35
    assert set(_KEYLESS) <= set(ROUTES)


@pytest.mark.parametrize(("method", "path"), [one for one in ROUTES if one not in _KEYLESS])
async def test_no_route_answers_without_a_key_or_with_a_wrong_one(place: Place, method: str, path: str) -> None:
    path = path.replace("{model}", "m").replace("{version}", "1").replace("{number}", "1").replace("{key}", "k")
    real = issue("app")[1]
    for header in (
        {},
        {"authorization": "Bearer"},
        {"authorization": "Bearer wrong"},
        {"authorization": "Basic c2VjcmV0"},
        {"authorization": "Bearer secret2"},
        {"authorization": f"Bearer {real}"},
        {"x-api-key": real},
        {"authorization": "Bearer tm_x_"},
        {"authorization": b"Bearer tm_\xff_\xff"},
    ):
        reply = await place.client.request(method, path, headers=header, json=ASK)  # pyright: ignore[reportArgumentType]
        refused(reply, 401)
        assert reply.headers["www-authenticate"] == "Bearer"


async def test_a_stranger_learns_only_whether_the_platform_is_ready(place: Place) -> None:
    for header in ({}, {"authorization": "Bearer wrong"}, {"authorization": f"Bearer {issue('app')[1]}"}):
        reply = await place.client.get("/readyz", headers=header)
        assert (reply.status_code, reply.json()) == (200, {"ready": True})


async def test_a_key_for_some_models_sees_no_other(place: Place) -> None:
    bound, free = await place.key(models=["other"]), await place.key()
    for header, models in ((bound, ["other"]), (free, ["m", "other"]), (TOKEN, ["m", "other"])):
        ready = (await place.client.get("/readyz", headers=header)).json()
        assert (ready["ready"], ready["models"]) == (True, models)
        described = (await place.client.get("/openapi.json", headers=header)).json()
        [model] = described["paths"]["/models/{model}/predict"]["post"]["parameters"]
        named = model["schema"]["enum"]
        assert named == models


@pytest.mark.parametrize("path", ["/models/m/predict", "/models/m/rank", "/v2/models/m/infer", "/models/m/predict/"])
async def test_no_spelling_of_a_path_gets_past_the_door(place: Place, path: str) -> None:
    for odd in (f"{path}%0A", f"{path}%20", f"/{path}", path.replace("/m/", "/m%2F/")):
        reply = await place.client.post(odd, json=ASK)
        assert reply.status_code in (401, 404, 405), (odd, reply.text)
        assert "serves" not in reply.text


@pytest.mark.parametrize("path", sorted(OPEN))
async def test_health_needs_no_key(place: Place, path: str) -> None:
    assert (await place.client.get(path)).status_code == 200


async def test_a_key_opens_predictions_and_its_role_nothing_more(place: Place) -> None:
    app, viewer, operator = [await place.key(role) for role in ("predict", "viewer", "operator")]
    for path, body in ((PREDICT, ASK), ("/v2/models/m/infer", INFER), ("/models/m/rank", RANK)):
        for header, status in ((app, 200), (operator, 200), (TOKEN, 200), (viewer, 403)):
            assert (await place.client.post(path, json=body, headers=header)).status_code == status, path
    policy = "/admin/models/m/policy"
    for header, status in ((app, 403), (viewer, 200), (operator, 200), (TOKEN, 200)):
        assert (await place.client.get(policy, headers=header)).status_code == status
    wanted = {"variants": [{"name": "main"}], "default": "main"}
    refused(await place.client.put(policy, json=wanted, headers=viewer | {"if-match": "0"}), 403, "role viewer")
    assert (await place.client.put(policy, json=wanted, headers=operator | {"if-match": "0"})).status_code == 200
    audit = (await place.client.get("/admin/audit?model=m", headers=viewer)).json()["audit"]
    assert audit[0]["who"] == "the-operator"  # by its key, whatever its headers say
    for header in (app, viewer, operator):
        refused(await place.client.get("/admin/keys", headers=header), 403, "needs admin")
    refused(await place.client.post(PREDICT, json=ASK, headers=app | {"x-tidemill-arm": "main"}), 403)
    assert (await place.client.post(PREDICT, json=ASK, headers=operator | {"x-tidemill-arm": "main"})).status_code == 200
    refused(await place.client.post("/v2/repository/models/m/unload", headers=app), 403)


async def test_a_key_for_one_model_opens_no_other(place: Place) -> None:
    app, viewer = await place.key(models=["other"]), await place.key("viewer", models=["other"])
    made = await place.client.post("/models/other/predict", json=ASK, headers=app)
    assert made.status_code == 200
    refused(await place.client.post(PREDICT, json=ASK, headers=app), 403, "is not for model 'm'; it is for other")
    refused(await place.client.get("/v2/models/m", headers=app), 403)
    theirs = (await place.client.post(PREDICT, json=ASK, headers=TOKEN)).json()["predictions"][0]["id"]
    events = [{"id": theirs, "label": 1}, {"id": made.json()["predictions"][0]["id"], "label": 1}]
    told = await place.client.post("/feedback", json={"events": events}, headers=app)
    assert (told.json()["accepted"], told.json()["rejected"][0]["index"]) == (1, 0)
    assert (await place.client.get("/admin/models/other/versions", headers=viewer)).status_code == 200
    refused(await place.client.get("/admin/models/m/versions", headers=viewer), 403)
    everything = await place.key("admin", models=["other"])
    for path in ("/admin/status", "/admin/keys"):
        refused(await place.client.get(f"{path}?model=other", headers=everything), 403, "not for all models")
    refused(await place.client.post("/admin/keys?model=other", json={"name": "evil", "role": "admin"}, headers=everything), 403)
    listed = (await place.client.post("/v2/repository/index", headers=app)).json()
    assert {row["name"] for row in listed} == {"other"}
    for path in ("/admin/status", "/admin/audit", "/metrics", "/metrics?model=other"):
        refused(await place.client.get(path, headers=viewer), 403, "not for all models")
    assert (await place.client.get("/admin/audit?model=other", headers=viewer)).status_code == 200


async def test_a_key_is_rotated_without_a_gap_and_ended_at_once(place: Place) -> None:
    old = await place.key()
    id_ = place.made[-1]["id"]
    reply = await place.client.post(f"/admin/keys/{id_}/rotate", headers=TOKEN, json={"overlap_s": 3600})
    new = {"authorization": f"Bearer {reply.json()['key']}"}
    await place.known(new)
    for header in (old, new):
        assert (await place.client.post(PREDICT, json=ASK, headers=header)).status_code == 200
    assert (await place.client.request("DELETE", f"/admin/keys/{id_}", headers=TOKEN)).status_code == 200
    await place.known(old, good=False)
    refused(await place.client.post(PREDICT, json=ASK, headers=old), 401, "not known here, or has ended")
    assert (await place.client.post(PREDICT, json=ASK, headers=new)).status_code == 200
    refused(await place.client.request("DELETE", f"/admin/keys/{id_}", headers=TOKEN), 404, "no key")
    audit = (await place.client.get("/admin/audit", headers=TOKEN | {"x-operator": "ann"})).json()["audit"]
    assert [one["action"] for one in audit[:3]] == ["end key", "rotate key", "new key"]
    assert audit[0]["before"] == f"key {id_} of the-predict, predict"
    refused(await place.client.post("/admin/keys/none/rotate", headers=TOKEN), 404)


async def test_nothing_that_is_kept_or_shown_opens_anything(place: Place) -> None:
    header = await place.key()
    text = header["authorization"].removeprefix("Bearer ")
    shown = (await place.client.get("/admin/keys", headers=TOKEN)).text
    kept = "".join(key.model_dump_json() for key in await place.store.keys())
    secret = text.split("_", 2)[2]
    assert secret not in shown
    assert secret not in kept
    assert "digest" not in shown
    for key in await place.store.keys():
        refused(await place.client.post(PREDICT, json=ASK, headers={"x-api-key": f"tm_{key.id}_{key.digest}"}), 401)


async def test_a_key_ends_by_its_date(place: Place) -> None:
    key, text = issue("old", now=time.time() - 10, expires_at=time.time() - 5)
    await place.store.put_key(key)
    good = await place.key()  # known later than the old one
    refused(await place.client.post(PREDICT, json=ASK, headers={"x-api-key": text}), 401, "has ended")
    assert (await place.client.post(PREDICT, json=ASK, headers=good)).status_code == 200


async def test_a_key_is_held_to_its_rate_and_told_when_to_come_again(place: Place) -> None:
    slow, other = await place.key(limits={"requests_s": 2}), await place.key()
    replies = [await place.client.post(PREDICT, json=ASK, headers=slow) for _ in range(12)]
    statuses = [reply.status_code for reply in replies]
    assert set(statuses) == {200, 429}
    assert 2 <= statuses.count(200) < 12
    refused(late := next(reply for reply in replies if reply.status_code == 429), 429, "2 requests a second")
    assert late.headers["retry-after"] == "1"
    assert (await place.client.post(PREDICT, json=ASK, headers=other)).status_code == 200


async def test_a_key_is_held_to_its_instances_bytes_and_concurrency(place: Place) -> None:
    small = await place.key(limits={"instances": 2, "body_bytes": 2000, "concurrency": 1})
    many = {"instances": [{"features": GOOD}] * 3}
    refused(await place.client.post(PREDICT, json=many, headers=small), 413, "at most 2")
    refused(await place.client.post(PREDICT, json={"instances": [{"features": GOOD}] * 60}, headers=small), 413, "2,000 bytes")
    rows = {"inputs": [one | {"shape": [3], "data": one["data"] * 3} for one in INFER["inputs"]]}  # pyright: ignore[reportOperatorIssue]
    refused(await place.client.post("/v2/models/m/infer", json=rows, headers=small), 413, "send at most 2")
    candidates = {"candidates": [{"item": str(number), "features": GOOD} for number in range(3)]}
    refused(await place.client.post("/models/m/rank", json=candidates, headers=small), 422, "more than 2")
    replies = await asyncio.gather(*(place.client.post(PREDICT, json=ASK, headers=small) for _ in range(5)))
    statuses = sorted(reply.status_code for reply in replies)
    assert statuses[0] == 200
    assert statuses[-1] == 429
    assert (await place.client.post(PREDICT, json=ASK, headers=small)).status_code == 200


@pytest.mark.parametrize(
    "wanted",
    [
        {"name": ""},
        {"name": "a b"},
        {"name": "x" * 65},
        {"name": "app", "role": "root"},
        {"name": "app", "limits": {"requests_s": 0}},
        {"name": "app", "limits": {"requests_s": -1}},
        {"name": "app", "limits": {"instances": 1.5}},
        {"name": "app", "limits": {"more": 1}},
        {"name": "app", "days": 0},
        {"name": "app", "digest": "0" * 64},
        {},
    ],
)
async def test_a_bad_key_is_not_made(place: Place, wanted: dict[str, Any]) -> None:
    before = len(await place.store.keys())
    refused(await place.client.post("/admin/keys", headers=TOKEN, json=wanted), 422)
    assert len(await place.store.keys()) == before


async def test_what_nobody_waits_for_is_not_begun(place: Place) -> None:
    before = len(await place.store.read(log_stream("m"), "0-0", 100_000))
    for header in ({"x-request-timeout-ms": "0"}, {"x-request-deadline": f"{time.time() - 1:.3f}"}):
        for path, body in ((PREDICT, ASK), ("/v2/models/m/infer", INFER), ("/models/m/rank", RANK)):
            refused(await place.client.post(path, json=body, headers=TOKEN | header), 504, "has passed; nothing was answered")
    assert len(await place.store.read(log_stream("m"), "0-0", 100_000)) == before
    for header in ({"x-request-timeout-ms": "60000"}, {"x-request-deadline": f"{time.time() + 60:.3f}"}):
        assert (await place.client.post(PREDICT, json=ASK, headers=TOKEN | header)).status_code == 200
    for wrong in ("soon", "-1", "nan", "inf", "9" * 400, ""):
        refused(await place.client.post(PREDICT, json=ASK, headers=TOKEN | {"x-request-timeout-ms": wrong}), 422, "a number")


async def test_limits_are_divided_by_the_replicas_that_there_are(redis_url: str, prefix: str) -> None:
    """Not by those that there may be: one that is alone lets through all that a key may send."""
    settings = ServingSettings(redis_url=redis_url, prefix=prefix, token="secret", replicas=8, lease_s=1.0)
    first, second = Replica(settings), Replica(settings)
    assert first.access.replicas == 8

    async def divided_by(count: int) -> None:
        async with asyncio.timeout(30):
            while first.access.replicas != count:  # noqa: ASYNC110 - as the replica comes to know it
                await asyncio.sleep(0.01)

    await first.start()
    await divided_by(1)
    caller = Caller("k", "predict", issue("k", limits=Limits(concurrency=4))[0])
    with contextlib.ExitStack() as at_work:
        for _ in range(4):
            at_work.enter_context(first.access.admitted(caller, "m", UNLIMITED))
        with pytest.raises(LimitReached), first.access.admitted(caller, "m", UNLIMITED):
            pass
    await second.start()
    await divided_by(2)
    await second.close()
    await divided_by(1)
    await first.close()
