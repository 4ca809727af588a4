"""What operators do with experiments, from the first request to the record of it."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from serving.testing import GOOD, TOKEN, predict, refused
from store.errors import EpochConflict
from store.protocols import START, Advance, Commit, Graph
from store.publishing import publish
from store.redis_store import RedisStore
from trainer.loop import Trainer

pytestmark = pytest.mark.anyio


@pytest.fixture
async def client(
    platform: tuple[Trainer, RedisStore, httpx.AsyncClient],
) -> AsyncIterator[httpx.AsyncClient]:
    """The platform's client; every test leaves the policy as it was at first."""
    client = platform[2]
    yield client
    await _set(client, {"variants": [{"name": "main"}], "default": "main"})
    await predict(client)


async def _set(client: httpx.AsyncClient, policy: dict[str, Any]) -> dict[str, Any]:
    etag = (await client.get("/admin/models/m/policy", headers=TOKEN)).headers["etag"]
    reply = await client.put("/admin/models/m/policy", headers=TOKEN | {"if-match": etag}, json=policy)
    assert reply.status_code == 200, reply.text
    return reply.json()


async def _start(client: httpx.AsyncClient, version: int, **more: Any) -> httpx.Response:
    experiment = {"name": "trial", "kind": "canary", "shares": {"new": 0.5}} | more
    body = {"experiment": experiment, "variants": [{"name": "new", "version": version}]}
    return await client.post("/admin/models/m/experiments", headers=TOKEN, json=body)


async def _act(client: httpx.AsyncClient, action: str, **reason: str) -> httpx.Response:
    return await client.post(f"/admin/models/m/experiments/trial/{action}", headers=TOKEN, json=reason)


async def _policy(client: httpx.AsyncClient) -> dict[str, Any]:
    return (await client.get("/admin/models/m/policy", headers=TOKEN)).json()


async def _second_version(platform: tuple[Trainer, RedisStore, httpx.AsyncClient]) -> int:
    """Publish the first version again, on another line."""
    _, store, _ = platform
    first = await store.version("m", 1)
    graph: Graph = await store.graph("m", first.graph)
    return (await publish(store, "m", graph, await store.weights("m", 1), "other")).number


async def test_an_experiment_from_its_start_to_its_end(
    client: httpx.AsyncClient, platform: tuple[Trainer, RedisStore, httpx.AsyncClient]
) -> None:
    version = await _second_version(platform)
    assert (await _start(client, version)).status_code == 200
    seen = {(one["variant"], one["version"]) for one in [await predict(client, unit=f"u{n}") for n in range(40)]}
    assert ("new", version) in seen
    refused(await _start(client, version), 422, "named 'trial' already")
    shown = (await client.get("/admin/models/m/experiments/trial", headers=TOKEN)).json()
    assert shown["running"]
    assert [one["action"] for one in shown["decisions"]] == ["enter"]
    assert (await _act(client, "pause", why="lunch")).status_code == 200
    assert (await _policy(client))["policy"]["experiments"][0]["progress"]["status"] == "paused"
    refused(await _act(client, "pause"), 422, "paused already")
    assert (await _act(client, "resume")).status_code == 200
    assert (await _act(client, "promote", why="I know what I do")).status_code == 200
    after = await _policy(client)
    assert (after["policy"]["variants"][0]["version"], after["channels"]["champion"]) == (version, version)
    assert not after["policy"]["experiments"]
    audit = (await client.get("/admin/audit?model=m", headers=TOKEN)).json()["audit"]
    assert (audit[0]["action"], audit[0]["why"]) == ("promote", "I know what I do")
    assert {one["action"] for one in audit} >= {"enter", "pause", "resume", "promote"}
    assert all(one["who"] == "operator" and one["at"] > 0 for one in audit[:4])
    refused(await _act(client, "stop"), 422, "no experiment is named 'trial'")


async def test_what_was_rolled_back_is_rejected_and_is_not_tried_again(
    client: httpx.AsyncClient, platform: tuple[Trainer, RedisStore, httpx.AsyncClient]
) -> None:
    version = await _second_version(platform)
    await _start(client, version)
    assert (await _act(client, "rollback", why="users complain")).status_code == 200
    versions = (await client.get("/admin/models/m/versions", headers=TOKEN)).json()["versions"]
    [gone] = [one for one in versions if one["number"] == version]
    assert (gone["status"], gone["reason"]) == ("rejected", "users complain")
    refused(await _start(client, version), 422, "is rejected: users complain")
    promoted = await client.post(f"/admin/models/m/versions/{version}/promote", headers=TOKEN)
    refused(promoted, 422, "is rejected")
    assert not (await _policy(client))["policy"]["experiments"]


async def test_what_gates_are_against_is_promoted_with_force_and_a_why_alone(
    client: httpx.AsyncClient, platform: tuple[Trainer, RedisStore, httpx.AsyncClient]
) -> None:
    _, store, _ = platform
    first = await store.version("m", 1)
    verdict = {"passed": False, "declared": "", "evidence": {}}
    slow = first.model_copy(
        update={
            "line": "slow",
            "position": "7-0",
            "status": "rejected",
            "reason": "latency: 9 ms",
            "lineage": {"gates": verdict},
        }
    )
    made = await store.commit("m", Commit(Advance("learner:m:slow", START, "7-0"), slow, await store.weights("m", 1)))
    assert made is not None
    url = f"/admin/models/m/versions/{made.number}/promote"
    refused(await client.post(url, headers=TOKEN, json={"why": "it is good"}), 422, "is rejected: latency: 9 ms")
    refused(await client.post(url, headers=TOKEN, json={"force": True}), 422, "force needs a why")
    stale = first.model_copy(update={"line": "slow", "position": "8-0", "lineage": {"gates": verdict | {"passed": True}}})
    old = await store.commit("m", Commit(Advance("learner:m:slow", "7-0", "8-0"), stale, await store.weights("m", 1)))
    assert old is not None
    other = f"/admin/models/m/versions/{old.number}/promote"
    refused(await client.post(other, headers=TOKEN, json={"why": "it is good"}), 422, "are not those that are declared now")
    forced = await client.post(url, headers=TOKEN, json={"why": "I can wait", "force": True})
    assert forced.status_code == 200, forced.text
    assert (await predict(client))["version"] == made.number


async def test_what_an_arm_would_have_earned_is_refused_without_a_choice(client: httpx.AsyncClient) -> None:
    reply = (await client.get("/admin/models/m/off-policy/new?metric=loss", headers=TOKEN)).json()
    assert reply["ips"]["refused"]
    refused(await client.get("/admin/models/m/off-policy/new?metric=money", headers=TOKEN), 422, "label or loss")


async def test_a_forecast_says_how_long_before_anything_has_begun(
    client: httpx.AsyncClient, platform: tuple[Trainer, RedisStore, httpx.AsyncClient]
) -> None:
    trainer = platform[0]
    for number in range(40):
        made = await predict(client, unit=f"u{number}")
        await client.post("/feedback", json={"events": [{"id": made["id"], "label": number % 2}]})
    body = {"experiment": {"name": "e", "kind": "ab", "shares": {"main": 0.5, "x": 0.5}, "judging": {"metric": "label"}}}
    async with asyncio.timeout(30):
        while True:
            await trainer.step(0.01)
            reply = (await client.post("/admin/models/m/experiments/forecast", headers=TOKEN, json=body)).json()
            if reply.get("units_needed") and reply["value"] == pytest.approx(0.5, abs=0.2):
                break
    assert 1000 < reply["units_needed"] < 100_000
    assert reply["seconds"] > 0


async def test_testers_get_the_arm_they_ask_for(
    client: httpx.AsyncClient, platform: tuple[Trainer, RedisStore, httpx.AsyncClient]
) -> None:
    version = await _second_version(platform)
    await _start(client, version, shares={"new": 0.0})
    body = {"instances": [{"features": GOOD}]}
    forced = TOKEN | {"x-tidemill-arm": "new"}
    [made] = (await client.post("/models/m/predict", headers=forced, json=body)).json()["predictions"]
    assert (made["variant"], made["version"]) == ("new", version)
    wrong = {"x-tidemill-arm": "nobody"} | TOKEN
    refused(await client.post("/models/m/predict", headers=wrong, json=body), 422, "no variant 'nobody'")
    for headers in ({"x-tidemill-arm": "new"}, {"x-tidemill-arm": "new", "authorization": "Bearer wrong"}):
        refused(await client.post("/models/m/predict", headers=headers, json=body), 401, "Authorization")


async def test_targets_choose_by_features_units_and_headers(
    client: httpx.AsyncClient, platform: tuple[Trainer, RedisStore, httpx.AsyncClient]
) -> None:
    version = await _second_version(platform)
    target = [{"by": "header", "name": "X-Country", "values": ["VN"]}, {"by": "feature", "name": "colour", "values": ["red"]}]
    await _start(client, version, shares={"new": 1.0}, target=target)

    async def variant(colour: str, country: str) -> str:
        body = {"instances": [{"features": GOOD | {"colour": colour}, "unit": "u"}]}
        reply = await client.post("/models/m/predict", headers={"x-country": country}, json=body)
        return reply.json()["predictions"][0]["variant"]

    assert await variant("red", "VN") == "new"
    assert await variant("blue", "VN") == await variant("red", "SE") == "main"


@pytest.mark.parametrize(
    ("path", "status", "says"),
    [
        ("experiments/nobody/promote", 422, "no experiment is named 'nobody'; running: none"),
        ("experiments/nobody/explode", 404, "one of stop, pause, resume, promote, rollback"),
        ("versions/x/promote", 422, "a number"),
        ("versions/99999/promote", 422, "version 99999"),
    ],
)
async def test_what_is_not_there_is_named(client: httpx.AsyncClient, path: str, status: int, says: str) -> None:
    before = (await _policy(client))["epoch"]
    refused(await client.post(f"/admin/models/m/{path}", headers=TOKEN), status, says)
    refused(await client.get("/admin/models/m/experiments/nobody", headers=TOKEN), 404, "never had")
    assert (await _policy(client))["epoch"] == before


async def test_an_expired_epoch_is_refused_by_the_store_too(
    client: httpx.AsyncClient, platform: tuple[Trainer, RedisStore, httpx.AsyncClient]
) -> None:
    _, store, _ = platform
    snapshot = await store.snapshot("m")
    await _set(client, {"variants": [{"name": "main"}], "default": "main"})
    with pytest.raises(EpochConflict):
        await store.set_policy("m", snapshot.policy, snapshot.epoch)


async def test_what_was_tried_stays_tried_whatever_an_operator_sends(
    client: httpx.AsyncClient, platform: tuple[Trainer, RedisStore, httpx.AsyncClient]
) -> None:
    _, store, _ = platform
    snapshot = await store.snapshot("m")
    await store.set_policy("m", snapshot.policy.model_copy(update={"tried": 7, "tried_at": 5.0}), snapshot.epoch)
    after = await _set(client, {"variants": [{"name": "main"}], "default": "main"})
    assert (after["policy"]["tried"], after["policy"]["tried_at"]) == (7, 5.0)


async def test_a_rejected_version_is_nobodys_choice_not_even_of_one_who_has_it_pinned(
    client: httpx.AsyncClient, platform: tuple[Trainer, RedisStore, httpx.AsyncClient]
) -> None:
    version = await _second_version(platform)
    await _set(client, {"variants": [{"name": "main"}, {"name": "kept", "version": version}], "default": "main"})
    await _start(client, version)
    assert (await _act(client, "rollback")).status_code == 200
    promote = f"/admin/models/m/versions/{version}/promote"
    refused(await client.post(promote, headers=TOKEN), 422, "is rejected")
    _, store, _ = platform
    await store.forget_weights("m", [version])
    refused(await client.post(promote, headers=TOKEN), 422, "is rejected")  # which is more to know than that they are gone


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"name": "a/b c"}, "name"),
        ({"target": [{"by": "feature", "name": "nope", "values": ["x"]}]}, "there is no feature 'nope' among x, name"),
        ({"steps": [{"share": 0.1, "target": [{"by": "feature", "name": "no", "pattern": "x"}]}]}, "no feature 'no'"),
    ],
    ids=str,
)
async def test_an_experiment_that_could_never_be_reached_or_taken_is_refused(
    client: httpx.AsyncClient,
    platform: tuple[Trainer, RedisStore, httpx.AsyncClient],
    changes: dict[str, Any],
    says: str,
) -> None:
    refused(await _start(client, 1, **changes), 422, says)
