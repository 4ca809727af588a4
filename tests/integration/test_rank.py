"""Ranked lists over HTTP: one variant's, several variants' together, page by page, and what is logged of them."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from safetensors.numpy import load

from router.accounts import DuelAccount
from router.rollout import find
from serving.hosted import Hosted
from serving.testing import GOOD, TOKEN, refused
from store.artefact import pack_weights
from store.names import log_stream
from store.protocols import START
from store.publishing import publish
from store.records import Failures, Outcomes, Predictions, Rankings, unpack_log, unpack_outcomes
from store.redis_store import RedisStore
from trainer.loop import Trainer

pytestmark = pytest.mark.anyio
Place = tuple[Trainer, RedisStore, httpx.AsyncClient]
ITEMS = [f"item {number}" for number in range(30)]


def _candidates(count: int = 30) -> list[dict[str, Any]]:
    return [{"item": item, "features": {"x": float(number % 7) - number / 10}} for number, item in enumerate(ITEMS[:count])]


def _body(**more: Any) -> dict[str, Any]:
    context = {name: value for name, value in GOOD.items() if name != "x"}
    return {"unit": "traveller", "context": context, "candidates": _candidates(), "k": 10} | more


async def _rank(client: httpx.AsyncClient, **more: Any) -> dict[str, Any]:
    reply = await client.post("/models/m/rank", json=_body(**more))
    assert reply.status_code == 200, reply.text
    return reply.json()


async def _interleave(platform: Place, **more: Any) -> int:
    """Let the first version, upside down, draft together with it."""
    _, store, client = platform
    first = await store.version("m", 1)
    graph = await store.graph("m", first.graph)

    weights = load(await store.weights("m", 1))
    turned = {name: tensor if "standardise" in name else -tensor for name, tensor in weights.items()}
    version = (await publish(store, "m", graph, pack_weights(turned), "other")).number
    experiment = {"name": "duel", "kind": "interleave", "shares": {"main": 0.5, "new": 0.5}} | more
    body = {"experiment": experiment, "variants": [{"name": "new", "version": version}]}
    reply = await client.post("/admin/models/m/experiments", headers=TOKEN, json=body)
    assert reply.status_code == 200, reply.text
    return version


@pytest.fixture
async def client(platform: Place) -> AsyncIterator[httpx.AsyncClient]:
    client = platform[2]
    yield client
    etag = (await client.get("/admin/models/m/policy", headers=TOKEN)).headers["etag"]
    policy = {"variants": [{"name": "main"}], "default": "main"}
    await client.put("/admin/models/m/policy", headers=TOKEN | {"if-match": etag}, json=policy)


async def _logged(store: RedisStore) -> list[Any]:
    return [unpack_log(entry.payload) for entry in await store.read(log_stream("m"), START, 10_000)]


async def test_one_variant_ranks_by_its_score_and_pages_go_on(client: httpx.AsyncClient, platform: Place) -> None:
    pages = [await _rank(client)]
    while pages[-1]["cursor"]:
        pages.append(await _rank(client, cursor=pages[-1]["cursor"]))
    items = [item for page in pages for item in page["items"]]
    assert sorted(item["item"] for item in items) == sorted(ITEMS)
    assert [item["position"] for item in items] == list(range(1, 31))
    assert [item["score"] for item in items] == sorted((item["score"] for item in items), reverse=True)
    assert {page["id"] for page in pages} == {pages[0]["id"]}
    records = await _logged(platform[1])
    rankings = [record for record in records if isinstance(record, Rankings) and record.id == pages[0]["id"]]
    assert [record.start for record in rankings] == [0, 10, 20]
    shown = [record for record in records if isinstance(record, Predictions) and record.ids[0].startswith(pages[0]["id"])]
    assert [len(record.ids) for record in shown] == [10, 10, 10]


async def test_two_variants_draft_one_list_and_clicks_credit_them(client: httpx.AsyncClient, platform: Place) -> None:
    trainer, store, _ = platform
    await _interleave(platform)
    first = await _rank(client)
    second = await _rank(client, cursor=first["cursor"])
    items = [item["item"] for page in (first, second) for item in page["items"]]
    assert len(set(items)) == 20
    assert {item["variant"] for item in first["items"]} == {"main", "new"}
    clicked = next(item["item"] for item in first["items"] if item["variant"] == "new")
    events = [{"id": first["id"], "item": clicked, "label": 1}]
    assert (await client.post("/feedback", json={"events": events})).status_code == 202
    async with asyncio.timeout(30):
        while not (clicks := [o for o in await _outcomes(store) if o.id == f"{first['id']}#{clicked}"]):
            await trainer.step(0.01)
    policy = (await store.snapshot("m")).policy
    account = DuelAccount(find(policy, "duel"), (await store.models())["m"])
    account.begin(find(policy, "duel"), (await store.snapshot("m")).epoch)
    account.outcome(clicks[0])  # the click may be read first
    for record in await _logged(store):
        if isinstance(record, Rankings):
            account.rankings(record)
    account.close(1e12)
    assert (account.lists, account.duels.pairs[0, 1].wins_b) == (1, 1)


async def _outcomes(store: RedisStore) -> list[Any]:
    entries = await store.read("m:outcomes", START, 10_000)
    records = [unpack_outcomes(entry.payload) for entry in entries]
    return [outcome for record in records if isinstance(record, Outcomes) for outcome in record.outcomes]


@pytest.mark.parametrize("strategy", ["team_draft", "probabilistic", "optimised"])
async def test_every_strategy_makes_lists_of_all_rankers(client: httpx.AsyncClient, platform: Place, strategy: str) -> None:
    await _interleave(platform, strategy=strategy)
    seen = [item for number in range(5) for item in (await _rank(client, unit=f"u{number}", k=6))["items"]]
    assert len(seen) == 30
    assert {item["variant"] for item in seen} == {"main", "new"}


async def test_where_one_ranker_fails_the_others_list_is_served(
    client: httpx.AsyncClient, platform: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = await _interleave(platform)
    plain = await _rank(client, unit="before")
    score = Hosted.score

    def fails(self: Hosted, live: Any, rows: Any) -> Any:
        if live.number == version:
            raise self._failed(live, "it broke")  # pyright: ignore[reportPrivateUsage]
        return score(self, live, rows)

    monkeypatch.setattr(Hosted, "score", fails)
    rescued = await _rank(client)
    assert {item["variant"] for item in rescued["items"]} == {"main"}
    assert [item["score"] for item in rescued["items"]] == sorted((item["score"] for item in rescued["items"]), reverse=True)
    assert plain["items"] != rescued["items"]
    records = await _logged(platform[1])
    assert [record.teams for record in records if isinstance(record, Rankings)][-1] == [-1] * 10
    [failure] = [record for record in records if isinstance(record, Failures)]
    assert (failure.variant, failure.experiments, failure.rescued) == ("new", ("duel",), True)


async def test_candidates_that_went_away_leave_the_order_of_the_rest(client: httpx.AsyncClient) -> None:
    first = await _rank(client)
    full = await _rank(client, cursor=first["cursor"])
    gone = full["items"][0]["item"]
    left = [one for one in _candidates() if one["item"] != gone]
    again = await _rank(client, cursor=first["cursor"], candidates=left)
    assert [one["item"] for one in again["items"]][:9] == [one["item"] for one in full["items"]][1:]


@pytest.mark.parametrize(
    ("changes", "status", "says"),
    [
        ({"candidates": []}, 400, "candidates"),
        ({"candidates": 1}, 400, "candidates"),
        ({"candidates": [{"features": {}}]}, 422, "candidates.0.item"),
        ({"candidates": [{"item": "a", "features": {"x": "b"}}]}, 422, "candidates.0.x"),
        ({"candidates": [{"item": "a", "features": {"x": 1.0, "z": 1}}]}, 422, "candidates.0.z"),
        ({"candidates": [{"item": "a", "features": {"x": 1.0}}] * 2}, 422, "twice"),
        ({"k": 0}, 422, "k"),
        ({"k": 10**9}, 422, "k"),
        ({"unit": ""}, 422, "unit"),
        ({"surprise": 1}, 422, "surprise"),
        ({"cursor": "nonsense"}, 422, "cursor"),
        ({"cursor": "AAAA" * 20}, 422, "cursor"),
        ({"cursor": "\u00e4"}, 422, "cursor"),
        ({"context": {"limited": 2.0, "name": "n", "colour": "red"}}, 422, "limited"),
    ],
    ids=str,
)
async def test_a_list_that_cannot_be_made_is_refused(
    client: httpx.AsyncClient, changes: dict[str, Any], status: int, says: str
) -> None:
    refused(await client.post("/models/m/rank", json=_body(**changes)), status, says)
    refused(await client.post("/models/nobody/rank", json=_body()), 404, "nobody")


async def test_a_cursor_is_of_its_unit_and_cannot_be_made_up(client: httpx.AsyncClient) -> None:
    cursor = (await _rank(client))["cursor"]
    refused(await client.post("/models/m/rank", json=_body(cursor=cursor, unit="another")), 422, "unit 'traveller'")
    changed = cursor[:40] + ("A" if cursor[40] != "A" else "B") + cursor[41:]
    refused(await client.post("/models/m/rank", json=_body(cursor=changed)), 422, "none that was given here")
