"""Operators are guarded, and told what is wrong, as everybody is."""

from typing import Any

import httpx
import pytest

from serving.app import build
from serving.settings import ServingSettings
from serving.testing import TOKEN, refused

pytestmark = pytest.mark.anyio

OPERATOR_ROUTES = [
    ("GET", "/admin/models/m/policy"), ("PUT", "/admin/models/m/policy"), ("GET", "/admin/models/m/versions"),
    ("POST", "/admin/models/m/retrain"), ("GET", "/admin/models/m/schedule"), ("PUT", "/admin/models/m/schedule"),
    ("GET", "/admin/status"), ("GET", "/admin/audit"), ("GET", "/admin/models/m/off-policy/{variant}"),
    ("GET", "/admin/models/m/experiments"),
    ("POST", "/admin/models/m/experiments"), ("GET", "/admin/models/m/experiments/{name}"),
    ("POST", "/admin/models/m/experiments/{name}/{action}"), ("POST", "/admin/models/m/experiments/forecast"),
    ("POST", "/admin/models/m/versions/{number}/promote"), ("POST", "/admin/models/m/versions"),
    ("GET", "/admin/models/m/expectations"), ("PUT", "/admin/models/m/expectations"),
    ("DELETE", "/admin/models/m/expectations"), ("GET", "/admin/models/m/drift"), ("GET", "/admin/models/m/versions/{number}"),
    ("GET", "/admin/models"), ("POST", "/admin/models"), ("DELETE", "/admin/models/m"),
    ("GET", "/admin/models/m/variants/{variant}/placement"), ("PUT", "/admin/models/m/variants/{variant}/placement"),
    ("GET", "/admin/models/m/lines"), ("POST", "/admin/models/m/lines"),
    ("POST", "/admin/models/m/lines/{name}/{action}"),
    ("GET", "/admin/keys"), ("POST", "/admin/keys"), ("DELETE", "/admin/keys/{key}"), ("POST", "/admin/keys/{key}/rotate"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path"), OPERATOR_ROUTES)
async def test_operator_routes_need_the_token(client: httpx.AsyncClient, method: str, path: str) -> None:
    for wrong in ("", "secret", "Bearer", "Bearer ", "Bearer Secret", "Bearer secret2", "bearer \u00e4"):
        headers = [(b"authorization", wrong.encode())] if wrong else []
        refused(await client.request(method, path, headers=headers), 401, "Authorization")


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


def _canary(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "kind": "canary", "shares": {"other": 0.1}} | more


async def _epoch(client: httpx.AsyncClient) -> str:
    return (await client.get("/admin/models/m/policy", headers=TOKEN)).headers["etag"]


async def test_a_policy_needs_the_epoch_it_replaces(client: httpx.AsyncClient) -> None:
    for wrong in ("", "*", "now", "-1", "1.5", "\u00b2", "9" * 5000):
        headers = [(b"authorization", TOKEN["authorization"].encode()), (b"if-match", wrong.encode("latin-1"))]
        headers = headers if wrong else headers[:1]
        refused(await client.put("/admin/models/m/policy", headers=headers, json=_policy()), 428, "If-Match")


async def test_a_stale_epoch_is_a_conflict(client: httpx.AsyncClient) -> None:
    headers = {**TOKEN, "if-match": await _epoch(client)}
    assert (await client.put("/admin/models/m/policy", headers=headers, json=_policy())).status_code == 200
    refused(await client.put("/admin/models/m/policy", headers=headers, json=_policy()), 409, "epoch")
    headers["if-match"] = "9" * 18
    refused(await client.put("/admin/models/m/policy", headers=headers, json=_policy()), 409, "epoch")


@pytest.mark.parametrize(
    ("policy", "says"),
    [
        (_ab({"main": 0.5, "other": 0.4}), "sum to 1"), (_ab({"main": 0.5, "nobody": 0.5}), "nobody"),
        (_ab({"main": -1, "other": 2}), "between 0 and 1"), (_ab({"main": "half"}), "shares"), (_ab([]), "shares"),
        (_policy(variants=[{"name": "main", "version": 999}]), "version 999"), (_policy(default="nobody"), "nobody"),
        (_policy(variants=[{"name": "main", "version": 0}]), "version"), (_policy(variants=[]), "main"),
        (_policy(surprise=1), "surprise"), (_policy(experiments=[{"name": "e"}]), "kind"), ([], "the body"),
        (_policy(variants=[{"name": "main", "version": 10**30}]), "version"), (_policy(holdout=1.0), "holdout"),
        (_policy(forced={"me": "nobody"}), "nobody"), (_policy(rollout={"line": "main"}), "pin it"),
        (_policy(rollout={"steps": []}), "steps"),
        (_policy(experiments=[_canary("one", traffic=0.7), _canary("two", traffic=0.5)]), "make 120%"),
        (_policy(experiments=[_canary("one", layer="a"), _canary("two", layer="b", baseline="other")]), "one candidate"),
        (_policy(experiments=[_canary("one", target=[{"by": "feature", "name": "x"}])]), "needs values"),
        (_policy(experiments=[_canary("one", steps=[{"share": 2}])]), "steps"),
        (_policy(experiments=[_canary("one", judging={"alpha": 2})]), "alpha"),
    ],
)  # fmt: skip
async def test_a_policy_that_makes_no_sense_isrefused(client: httpx.AsyncClient, policy: Any, says: str) -> None:
    before = await _epoch(client)
    headers = {**TOKEN, "if-match": before}
    refused(await client.put("/admin/models/m/policy", headers=headers, json=policy), 422, says)
    assert await _epoch(client) == before


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("PUT", "policy", b"{", 400), ("PUT", "schedule", b"nonsense", 400), ("PUT", "schedule", b"[]", 422),
        ("PUT", "schedule", b'{"outcomes": "many"}', 422), ("PUT", "schedule", b'{"minutes": 1}', 422),
        ("PUT", "schedule", b'{"cron": "every day"}', 422), ("PUT", "schedule", b'{"timezone": "Mars"}', 422),
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
    refused(await client.request(method, f"/admin/models/m/{path}", headers=headers, content=body), status)
