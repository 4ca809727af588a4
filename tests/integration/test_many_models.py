"""Many models at once: each has limits of its own, and all who work on them follow the record."""

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from deploy.supervisor import Supervisor
from serving.hosted import Hosted
from serving.testing import TOKEN, refused
from store.spec import load_spec
from tests.integration.models import IRIS, Place, models_in
from trainer.joiner import Joiner
from trainer.loop import Trainer

pytestmark = pytest.mark.anyio


@pytest.fixture
async def place(tmp_path: Path, redis_url: str, prefix: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Place]:
    async with models_in(tmp_path, redis_url, prefix, monkeypatch) as place:
        yield place


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


async def test_a_model_is_held_to_its_own_limits_and_another_answers(place: Place) -> None:
    for name in ("sale", "rare"):
        assert (await place.add(spec=f"many_models:{name}")).status_code == 201
        await Trainer(load_spec(f"many_models:{name}"), place.store, register=False).start()
    async with asyncio.timeout(60):
        while not all(one["replicas"]["serving"] for one in (await place.listed())["models"]):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    reached, go = asyncio.Event(), asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b'{"instances": [{"features": '
        reached.set()
        await go.wait()
        yield b'{"x": 1.0}}]}'

    asking = asyncio.create_task(place.client.post("/models/sale/predict", content=body()))
    await reached.wait()
    async with asyncio.timeout(60):
        while not place.replica.models["sale"].ongoing:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert (await place.ask("rare", {"x": 1.0})).status_code == 200
    for model, says, wait_s in (("sale", "1 requests at work", 1), ("rare", "0.001 requests a second", 900)):
        reply = await place.ask(model, {"x": 1.0})
        refused(reply, 429, f"model '{model}'")
        assert says in reply.text
        assert wait_s <= int(reply.headers["retry-after"]) <= 1000
        assert (await place.ask("first")).status_code == 200
    go.set()
    assert (await asking).status_code == 200
    assert (await place.ask("sale", {"x": 1.0})).status_code == 200


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

    def start(model: str, source: str, _: str) -> tuple[str, str]:
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
