"""Models come and go while others are asked: nothing of the others is lost, and nothing of those that went is left."""

import asyncio
import gc
import sys
import threading
import weakref
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from deploy.supervisor import Supervisor
from serving.app import build
from serving.foreign.testing import logistic
from serving.hosted import Hosted
from serving.replica import Replica
from serving.settings import ServingSettings
from serving.testing import TOKEN, refused
from store.names import CONTROL, log_stream
from store.redis_store import RedisStore
from store.spec import load_spec
from trainer.joiner import Joiner
from trainer.loop import Trainer

pytestmark = pytest.mark.anyio

SPECS = """
from pydantic import BaseModel
from store.keys import Limits
from store.spec import ModelSpec, Schedule

print("a module may print")

class Features(BaseModel):
    x: float

class Others(BaseModel):
    y: float

by_hand = Schedule(seconds=None)
click = ModelSpec(name="click", features=Features, schedule=by_hand)
other = ModelSpec(name="click", features=Others, schedule=by_hand)
sale = ModelSpec(name="sale", features=Features, schedule=by_hand, limits=Limits(concurrency=1))
number = 5
"""
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
IRIS = {"x": [1.0, 2.0, 3.0]}


@dataclass
class Place:
    store: RedisStore
    client: httpx.AsyncClient
    replica: Replica

    async def add(self, **body: str) -> httpx.Response:
        return await self.client.post("/admin/models", headers=TOKEN, json=body)

    async def remove(self, model: str, **how: str) -> httpx.Response:
        return await self.client.delete(f"/admin/models/{model}", headers=TOKEN, params=how)

    async def bring(self, model: str) -> None:
        """Import a small model."""
        headers = TOKEN | {"content-type": "application/octet-stream"}
        reply = await self.client.post(f"/admin/models/{model}/versions", headers=headers, content=logistic())
        assert reply.status_code == 201, reply.text

    async def ask(self, model: str, features: dict[str, Any] | None = None, **instance: Any) -> httpx.Response:
        body = {"instances": [{"features": features or IRIS, **instance}]}
        return await self.client.post(f"/models/{model}/predict", json=body)

    async def until(self, model: str, status: int, features: dict[str, Any] | None = None) -> httpx.Response:
        async with asyncio.timeout(60):
            while (reply := await self.ask(model, features)).status_code != status:  # noqa: ASYNC110 - asked as any client asks
                await asyncio.sleep(0.02)
        return reply

    async def listed(self) -> dict[str, Any]:
        return (await self.client.get("/admin/models", headers=TOKEN)).json()

    async def audit(self, model: str) -> list[str]:
        records = (await self.client.get(f"/admin/audit?model={model}", headers=TOKEN)).json()["audit"]
        return [record["action"] for record in records]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("specs")
    (folder / "many_models.py").write_text(SPECS)
    (folder / "many_models_broken.py").write_text("1 / 0")
    (folder / "many_models_syntax.py").write_text("spec = (")
    (folder / "many_models_ends.py").write_text("import sys; sys.exit(3)")
    return folder


@pytest.fixture
async def place(redis_url: str, prefix: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Place]:
    monkeypatch.syspath_prepend(str(folder))  # pyright: ignore[reportUnknownMemberType]
    store = RedisStore(redis_url, prefix)
    replicas: list[Replica] = []

    def made(settings: ServingSettings, *others: Any) -> Replica:
        replicas.append(Replica(settings, *others))
        return replicas[0]

    monkeypatch.setattr("serving.app.Replica", made)
    edge = build(ServingSettings(redis_url=redis_url, prefix=prefix, token="secret", max_ongoing=40))
    transport = httpx.ASGITransport(edge)
    async with (
        edge.app.router.lifespan_context(edge.app),
        httpx.AsyncClient(transport=transport, base_url="http://platform", timeout=60) as client,
    ):
        place = Place(store, client, replicas[0])
        await place.bring("first")
        await place.until("first", 200)
        yield place
    await store.close()


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


async def test_a_model_with_an_experiment_is_removed_by_force_alone(place: Place) -> None:
    await place.bring("tried")
    await place.bring("tried")
    body = {"experiment": {"name": "trial", "kind": "ab", "shares": {"main": 0.5, "new": 0.5}}}
    body["variants"] = [{"name": "new", "version": 1}]  # pyright: ignore[reportArgumentType]
    started = await place.client.post("/admin/models/tried/experiments", headers=TOKEN, json=body)
    assert started.status_code == 200, started.text
    refused(await place.remove("tried"), 409, "'trial'")
    assert (await place.ask("tried")).status_code == 200
    assert (await place.remove("tried", force="true")).status_code == 200
    refused(await place.ask("tried"), 404)


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


async def test_many_models_each_have_their_own_and_come_and_go_under_load(place: Place) -> None:
    names = [f"many-{number}" for number in range(20)]
    for name in names:
        await place.bring(name)
    trained = ["click", "sale"]
    for name in trained:
        assert (await place.add(spec=f"many_models:{name}")).status_code == 201
        await Trainer(load_spec(f"many_models:{name}"), place.store, register=False).start()
    for name in trained:
        await place.until(name, 200, {"x": 1.0})
    await place.bring("many-3")
    policies = {name: (await place.store.snapshot(name)).epoch for name in names}
    etag = (await place.client.get("/admin/models/many-5/policy", headers=TOKEN)).headers["etag"]
    wanted = {"variants": [{"name": "main", "line": "imported"}, {"name": "b", "version": 1}], "default": "b"}
    put = await place.client.put("/admin/models/many-5/policy", headers=TOKEN | {"if-match": etag}, json=wanted)
    assert put.status_code == 200, put.text
    changed = {name: (await place.store.snapshot(name)).epoch for name in names}
    assert {name for name in names if changed[name] != policies[name]} == {"many-5"}
    assert (await place.ask("many-3")).json()["predictions"][0]["version"] == 2
    assert (await place.ask("many-4")).json()["predictions"][0]["version"] == 1
    assert (await place.ask("many-5")).json()["predictions"][0]["variant"] == "b"

    staying, going = names[:15], names[15:]
    enough = asyncio.Event()
    answers: list[httpx.Response] = []

    async def keep_asking(model: str, features: dict[str, Any]) -> None:
        while not enough.is_set():
            answers.append(await place.ask(model, features))

    asked = [*((name, IRIS) for name in staying), ("click", {"x": 1.0})]
    asking = [asyncio.create_task(keep_asking(model, features)) for model, features in asked]
    for name in going:
        assert (await place.remove(name)).status_code == 200
        refused(await place.ask(name), 404, "many-1")
    assert (await place.remove("sale", purge="true")).status_code == 200
    for name in going:
        assert (await place.add(model=name)).status_code == 201
        await place.until(name, 200)
    enough.set()
    await asyncio.gather(*asking)
    assert {reply.status_code for reply in answers} == {200}
    assert len(answers) > 100
    shown = (await place.listed())["models"]
    assert [one["model"] for one in shown if one["replicas"] != {"serving": 1, "of": 1}] == []


async def test_a_model_at_its_limits_and_a_slow_one_leave_others_alone(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The slow one's runs stay in their threads until the other's have been answered."""
    await place.bring("slow")
    go, score = threading.Event(), Hosted.score

    def held(self: Hosted, *args: Any) -> Any:
        if self.record.name == "slow":
            go.wait(60)
        return score(self, *args)

    monkeypatch.setattr(Hosted, "score", held)
    for name in ("slow", "first"):
        for live in place.replica.models[name].state.live.values():
            live.run_s = 1.0  # both go to threads
    slow = [asyncio.create_task(place.ask("slow")) for _ in range(50)]
    try:
        async with asyncio.timeout(60):
            while place.replica.models["slow"].ongoing < 20:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            for _ in range(20):
                assert (await place.ask("first")).status_code == 200
    finally:
        go.set()
    statuses = [(await one).status_code for one in slow]
    assert statuses.count(200) == 20, "of the 40 places one model gets half"
    assert statuses.count(503) == 30


async def test_labels_of_removed_models_are_joined_no_more(place: Place) -> None:
    joiner = Joiner(place.store)
    await place.bring("joined")
    await joiner.refresh()
    assert set(joiner._tasks) == {"first", "joined"}  # pyright: ignore[reportPrivateUsage]
    joiner.problems["joined"] = "it has one"
    await place.remove("joined")
    await joiner.refresh()
    assert set(joiner._tasks) == {"first"}  # pyright: ignore[reportPrivateUsage]
    assert joiner.problems == {}
    await joiner.close()


async def test_the_supervisor_starts_and_stops_trainers_as_the_record_says(place: Place) -> None:
    running: list[tuple[str, str]] = []

    def start(model: str, source: str) -> tuple[str, str]:
        running.append((model, source))
        return running[-1]

    declared = [load_spec("many_models:sale").record.model_copy(update={"source": "many_models:sale"})]
    supervisor = Supervisor(place.store, start, running.remove, declared)  # pyright: ignore[reportArgumentType]
    await supervisor.refresh()
    assert running == [("sale", "many_models:sale")]
    await place.add(spec="many_models:click")
    await supervisor.refresh()
    await supervisor.refresh()
    assert sorted(running) == [("click", "many_models:click"), ("sale", "many_models:sale")]
    await place.remove("sale")
    await supervisor.refresh()
    assert running == [("click", "many_models:click")]
    # One that starts after this does not bring back what was removed, though its config names it.
    again = Supervisor(place.store, start, running.remove, declared)  # pyright: ignore[reportArgumentType]
    running.clear()
    await again.refresh()
    assert running == [("click", "many_models:click")]
