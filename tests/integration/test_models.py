"""Models come and go while others are asked: nothing of the others is lost, and nothing of those that went is left."""

import asyncio
import gc
import sys
import weakref
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving.foreign.testing import logistic
from serving.testing import TOKEN, refused
from store.names import CONTROL, log_stream
from store.redis_store import RedisStore
from store.spec import load_spec
from tests.integration.models import Place, models_in
from trainer.loop import Trainer

pytestmark = pytest.mark.anyio

BROKEN = {
    "no_such:spec": "cannot import no_such",
    "many_models:nothing": "no ModelSpec named 'nothing'",
    "many_models:number": "no ModelSpec named 'number'",
    "many_models": "write it as package.module:attribute",
    "../many_models:click": "write it as package.module:attribute",
    "/etc/passwd:click": "write it as package.module:attribute",
    "os.system('true'):click": "write it as package.module:attribute",
    "many_models_broken:spec": "ZeroDivisionError: division by zero",
    "many_models_syntax:spec": "SyntaxError",
    "many_models_ends:spec": "ended with status 3",
}


@pytest.fixture
async def place(tmp_path: Path, redis_url: str, prefix: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Place]:
    (tmp_path / "many_models_broken.py").write_text("1 / 0")
    (tmp_path / "many_models_syntax.py").write_text("spec = (")
    (tmp_path / "many_models_ends.py").write_text("import sys; sys.exit(3)")
    async with models_in(tmp_path, redis_url, prefix, monkeypatch) as place:
        yield place


async def _everything(store: RedisStore) -> tuple[Any, ...]:
    return await store.models(), await store.removed(), await store.last("audit"), await store.last(CONTROL)


@pytest.mark.parametrize("spec", list(BROKEN))
async def test_what_cannot_be_added_is_said_at_once_and_leaves_nothing(place: Place, spec: str) -> None:
    before = await _everything(place.store)
    reply = await place.add(spec=spec)
    assert reply.status_code == 422, reply.text
    assert BROKEN[spec] in reply.json()["error"]
    assert await _everything(place.store) == before
    assert (await place.ask("first")).status_code == 200
    assert "many_models" not in sys.modules, "the replica never imports what it is named"


async def test_a_body_names_a_spec_or_a_model(place: Place) -> None:
    for body in ({}, {"spec": "a:b", "model": "c"}):
        refused(await place.add(**body), 422, "one of them")
    refused(await place.add(model="never"), 404, "no model 'never' was removed here")
    refused(await place.add(model="first"), 409, "there is a model 'first' already")
    refused(await place.remove("first", purge="maybe"), 422, "purge: true or false")


async def test_a_spec_is_added_trained_removed_and_goes_on_where_it_was(place: Place) -> None:
    added = await place.add(spec="many_models:click", why="for the shop")
    assert added.status_code == 201, added.text
    assert (added.json()["model"], added.json()["spec"], added.json()["version"]) == ("click", "many_models:click", None)
    refused(await place.add(spec="many_models:click"), 409, "there is a model 'click' already")
    assert (await place.client.get("/readyz")).json()["ready"], "the others do not wait for its first version"
    trainer = Trainer(load_spec("many_models:click"), place.store, register=False)
    await trainer.start()
    made = (await place.until("click", 200, {"x": 1.0})).json()["predictions"][0]
    assert (await place.store.models())["click"].source == "many_models:click"
    policy = {"variants": [{"name": "main"}, {"name": "old", "version": made["version"]}], "default": "old"}
    etag = (await place.client.get("/admin/models/click/policy", headers=TOKEN)).headers["etag"]
    set_ = await place.client.put("/admin/models/click/policy", headers=TOKEN | {"if-match": etag}, json=policy)
    assert set_.status_code == 200, set_.text

    gone = await place.remove("click", why="summer")
    assert gone.json() == {"model": "click", "purged": False}
    refused(await place.ask("click", {"x": 1.0}), 404, "no model 'click'; this platform serves: first")
    refused(await place.remove("click"), 404, "was removed already, and its data are kept: --purge drops them")
    refused(await place.remove("nothing"), 404, "no model 'nothing'")
    refused(await place.add(spec="many_models:other"), 422, "weights do not fit")
    headers = TOKEN | {"content-type": "application/octet-stream"}
    imported = await place.client.post("/admin/models/click/versions", headers=headers, content=logistic())
    refused(imported, 422, "its data are kept: 'tidemill model add click'")
    assert [one["model"] for one in (await place.listed())["removed"]] == ["click"]

    again = await place.add(model="click")
    assert (again.status_code, again.json()["spec"], again.json()["version"]) == (201, "many_models:click", 1)
    answer = (await place.until("click", 200, {"x": 1.0})).json()["predictions"][0]
    assert (answer["version"], answer["variant"]) == (1, "old")
    resumed = Trainer(load_spec("many_models:click"), place.store, register=False)
    await resumed.start()
    assert (await place.store.versions("click", 10))[0].number == 1, "its learner has started no second time"
    assert await place.audit("click") == ["add model", "remove model", "set", "add model"]


async def test_a_purged_model_leaves_nothing_and_its_name_is_free(place: Place) -> None:
    await place.add(spec="many_models:click")
    await Trainer(load_spec("many_models:click"), place.store, register=False).start()
    await place.until("click", 200, {"x": 1.0})
    assert (await place.remove("click")).status_code == 200
    assert (await place.remove("click", purge="true")).json() == {"model": "click", "purged": True}
    assert await place.store.last(log_stream("click")) == "0-0"
    assert (await place.listed())["removed"] == []
    refused(await place.remove("click", purge="true"), 404, "no model 'click'")
    assert (await place.add(spec="many_models:other")).status_code == 201
    await Trainer(load_spec("many_models:other"), place.store, register=False).start()
    assert (await place.until("click", 200, {"y": 1.0})).json()["predictions"][0]["version"] == 1


async def test_a_trainer_that_has_not_heard_of_it_does_not_bring_a_removed_model_back(place: Place) -> None:
    await place.add(spec="many_models:click")
    trainer = Trainer(load_spec("many_models:click"), place.store, register=False)
    await place.remove("click")
    with pytest.raises(Exception, match="no model 'click'"):
        await trainer.start()
    assert "click" not in await place.store.models()


async def _try(place: Place, model: str) -> httpx.Response:
    """Start an experiment, `trial`, with the first version of a model."""
    trial = {"name": "trial", "kind": "ab", "shares": {"main": 0.5, "new": 0.5}}
    body = {"experiment": trial, "variants": [{"name": "new", "version": 1}]}
    return await place.client.post(f"/admin/models/{model}/experiments", headers=TOKEN, json=body)


async def test_a_model_with_an_experiment_is_removed_by_force_alone(place: Place) -> None:
    await place.bring("tried")
    await place.bring("tried")
    started = await _try(place, "tried")
    assert started.status_code == 200, started.text
    refused(await place.remove("tried"), 409, "'trial'")
    assert (await place.ask("tried")).status_code == 200
    assert (await place.remove("tried", force="true")).status_code == 200
    refused(await place.ask("tried"), 404)


async def test_a_removal_sees_the_experiment_that_begins_while_it_looks(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    await place.bring("tried")
    remove, begun = RedisStore.remove, list[httpx.Response]()

    async def late(self: RedisStore, model: str, *how: Any) -> str:
        if not begun:
            begun.append(await _try(place, model))
        return await remove(self, model, *how)

    monkeypatch.setattr(RedisStore, "remove", late)
    refused(await place.remove("tried"), 409, "'trial'")
    assert begun[0].status_code == 200, begun[0].text
    assert (await place.ask("tried")).status_code == 200
    assert await place.audit("tried") == ["enter", "import"]
    assert (await place.remove("tried", force="true")).status_code == 200


async def test_no_experiment_begins_on_a_model_that_goes_meanwhile(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    await place.bring("tried")
    set_policy, removed = RedisStore.set_policy, list[httpx.Response]()

    async def late(self: RedisStore, model: str, *how: Any) -> int:
        removed.append(await place.remove(model))
        return await set_policy(self, model, *how)

    with monkeypatch.context() as patched:
        patched.setattr(RedisStore, "set_policy", late)
        refused(await _try(place, "tried"), 404, "model 'tried' was removed")
    assert removed[0].status_code == 200, removed[0].text
    assert (await place.add(model="tried")).json()["experiments"] == []
    assert await place.audit("tried") == ["add model", "remove model", "import"]


async def test_nothing_of_a_removed_model_is_left_in_its_replica(place: Place) -> None:
    await place.add(spec="many_models:sale")
    await Trainer(load_spec("many_models:sale"), place.store, register=False).start()
    made = (await place.until("sale", 200, {"x": 1.0})).json()["predictions"][0]
    await place.client.post("/feedback", json={"events": [{"id": made["id"], "label": 1}]})
    shadowed = {
        "experiment": {"name": "dark", "kind": "shadow", "shares": {"copy": 1.0}},
        "variants": [{"name": "copy", "version": 1}],
    }
    reply = await place.client.post("/admin/models/sale/experiments", headers=TOKEN, json=shadowed)
    assert reply.status_code == 200, reply.text
    for _ in range(5):
        await place.ask("sale", {"x": 1.0})
    replica = place.replica
    hosted = weakref.ref(replica.models["sale"])
    assert 'model="sale"' in replica.metrics.exposition()
    assert (await place.remove("sale", force="true")).status_code == 200
    assert 'model="sale"' not in replica.metrics.exposition()
    for kept in (replica.models, replica.applied, replica.access._meters, replica.shadow_queue._queues):  # pyright: ignore[reportPrivateUsage]
        assert not [name for name in kept if "sale" in name]
    async with asyncio.timeout(20):
        while hosted() is not None:  # and with it its sessions
            gc.collect()
            await asyncio.sleep(0.02)


async def test_models_are_listed_by_who_reads_and_changed_by_admins_alone(place: Place) -> None:
    """Naming a module runs it; an operator's key is for the models that there are."""
    client, keys = place.client, dict[str, dict[str, str]]()
    wanted: dict[str, Any] = {role: {"name": role, "role": role} for role in ("predict", "viewer", "operator", "admin")}
    wanted["bound"] = {"name": "bound", "role": "admin", "models": ["first"]}
    for name, body in wanted.items():
        keys[name] = {"x-api-key": (await client.post("/admin/keys", headers=TOKEN, json=body)).json()["key"]}
    async with asyncio.timeout(60):
        while (await client.get("/admin/models/first/policy", headers=keys["bound"])).status_code == 401:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    await place.bring("second")
    before = await _everything(place.store)
    says = {name: f"role {name}; this needs admin" for name in ("predict", "viewer", "operator")}
    for name, words in (says | {"bound": "not for"}).items():
        refused(await client.post("/admin/models", headers=keys[name], json={"spec": "many_models:click"}), 403, words)
        refused(await client.delete("/admin/models/second", headers=keys[name]), 403, words)
    for name in ("predict", "viewer"):
        sent = await client.post("/admin/models/second/versions", headers=keys[name], content=logistic())
        refused(sent, 403, "this needs admin or operator")
    for name, status in {"predict": 403, "viewer": 200, "operator": 200, "admin": 200, "bound": 403}.items():
        assert (await client.get("/admin/models", headers=keys[name])).status_code == status, name
    assert await _everything(place.store) == before
    assert (await client.delete("/admin/models/second", headers=keys["admin"])).status_code == 200
    assert (await client.post("/admin/models", headers=keys["admin"], json={"model": "second"})).status_code == 201
    audit = (await client.get("/admin/audit?model=second", headers=TOKEN)).json()["audit"]
    assert [one["who"] for one in audit[:2]] == ["admin", "admin"]


async def test_what_is_at_work_ends_as_it_would_have(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    await place.bring("slow")
    reached, go = asyncio.Event(), asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b'{"instances": [{"features": '
        reached.set()
        await go.wait()
        yield b'{"x": [1, 2, 3]}}]}'

    asking = asyncio.create_task(place.client.post("/models/slow/predict", content=body()))
    await reached.wait()
    async with asyncio.timeout(60):
        while not place.replica.models["slow"].ongoing:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    removing = asyncio.create_task(place.remove("slow", purge="true"))
    await place.until("slow", 404)
    assert not removing.done(), "its data must not go before its last prediction is logged"
    go.set()
    assert (await asking).status_code == 200
    assert (await removing).status_code == 200
    assert await place.store.last(log_stream("slow")) == "0-0"


async def test_a_model_removed_and_added_by_name_serves_what_was_imported(place: Place) -> None:
    await place.bring("iris")
    await place.remove("iris")
    assert (await place.add(model="iris")).status_code == 201
    assert (await place.until("iris", 200)).json()["predictions"][0]["version"] == 1
