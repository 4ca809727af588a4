"""Imports cut short: by a killed replica, which leaves no process and no file behind, and by a Redis that dies midway."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import httpx
import psutil
import pytest

from serving.foreign.testing import logistic
from serving.settings import ServingSettings
from serving.testing import TOKEN, refused, serving
from store.embedded import EmbeddedRedis
from store.redis_store import RedisStore
from tests.integration.conftest import SPEC
from trainer.loop import Trainer

_EXAMINE_FOR_EVER = """
import numpy as np
from onnx import TensorProto, helper
from serving.foreign.question import Question
from serving.foreign.sandbox import examine_apart
from serving.foreign.testing import model, value

body = helper.make_graph(
    [helper.make_node("Identity", ["going"], ["on"]), helper.make_node("Cos", ["v"], ["w"])],
    "turn",
    [value("turn", [], TensorProto.INT64), value("going", [], TensorProto.BOOL), value("v", ["N", 1])],
    [value("on", [], TensorProto.BOOL), value("w", ["N", 1])],
)
constants = {"turns": np.array(10**15), "go": np.array(True)}
nodes = [helper.make_node("Loop", ["turns", "go", "x"], ["p"], body=body)]
content = model(nodes, [value("x", ["N", 1])], [value("p", ["N", 1])], constants).SerializeToString()
examine_apart(content, Question(name="m"))
"""


def _at_work(process: psutil.Process) -> psutil.Process | None:
    """The process that examines, once it is where no file is."""
    for child in process.children():
        if "serving.foreign.child" in child.cmdline() and os.readlink(f"/proc/{child.pid}/cwd").endswith("(deleted)"):
            return child
    return None


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux says where a process works")
def test_an_examination_ends_with_the_replica_that_asked_for_it(tmp_path: Path) -> None:
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", _EXAMINE_FOR_EVER], env=environment) as replica:
        try:
            until, child = monotonic() + 30, None
            while child is None and monotonic() < until:
                child = _at_work(psutil.Process(replica.pid))
                sleep(0.05)
        finally:
            replica.kill()
    assert child is not None
    child.wait(timeout=30)
    assert not list(tmp_path.iterdir())


@dataclass
class Place:
    server: EmbeddedRedis
    store: RedisStore
    client: httpx.AsyncClient

    async def bring(self, model: str) -> httpx.Response:
        headers = TOKEN | {"content-type": "application/octet-stream"}
        return await self.client.post(f"/admin/models/{model}/versions", headers=headers, content=logistic())

    def kill(self) -> None:
        """Kill Redis, and let it stay away."""
        assert self.server.pid is not None
        os.kill(self.server.pid, signal.SIGKILL)
        self.server.stop()

    async def back(self) -> None:
        await asyncio.to_thread(self.server.start)
        async with asyncio.timeout(60):
            while (await self.client.get("/readyz")).json()["away"]:  # noqa: ASYNC110 - asked as any client asks
                await asyncio.sleep(0.02)

    async def answering(self, model: str) -> int:
        """The version that answers, once the model is known."""
        body = {"instances": [{"features": {"x": [1, 2, 3]}}]}
        async with asyncio.timeout(60):
            while (reply := await self.client.post(f"/models/{model}/predict", json=body)).status_code != 200:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        return reply.json()["predictions"][0]["version"]

    async def imports(self, model: str) -> list[str]:
        """What the record says that was imported, newest first."""
        audit = (await self.client.get(f"/admin/audit?model={model}", headers=TOKEN)).json()["audit"]
        return [one["after"] for one in audit if one["action"] == "import"]


@pytest.fixture(scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    with EmbeddedRedis(tmp_path_factory.mktemp("killed")) as server:
        store = RedisStore(server.url)
        await Trainer(SPEC, store).start()
        async with serving(ServingSettings(redis_url=server.url, token="secret")) as client:
            yield Place(server, store, client)
        await store.close()


def _dies(place: Place, step: str, monkeypatch: pytest.MonkeyPatch, *, done: bool) -> None:
    """Kill Redis at the first of these steps: before it, or when it is done and nobody has been told."""
    called = getattr(RedisStore, step)

    async def dying(self: RedisStore, *given: Any) -> Any:
        if done:
            await called(self, *given)
        await asyncio.to_thread(place.kill)
        return await called(self, *given)

    monkeypatch.setattr(RedisStore, step, dying)


@pytest.mark.anyio
@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", ["advance", "put_graph", "commit", "set_policy", "add"])
async def test_a_new_model_is_there_whole_or_not_at_all(
    place: Place, step: str, done: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = f"new-{step}-{done}".lower()
    with monkeypatch.context() as patched:
        _dies(place, step, patched, done=done)
        refused(await place.bring(model), 503)
    await place.back()
    there = (step, done) == ("add", True)
    assert (model in await place.store.models()) == there
    assert len(await place.imports(model)) == there
    if there:
        assert await place.answering(model) == 1
    made = await place.bring(model)
    assert made.status_code == 201, made.text
    assert (made.json()["new"], made.json()["answers"]) == (not there, ["main"])
    assert await place.answering(model) == made.json()["version"]
    assert (await place.imports(model))[0] == f"version {made.json()['version']} of line 'imported'"
    assert len(await place.imports(model)) == 1 + there


@pytest.mark.anyio
@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", ["put_graph", "commit"])
async def test_a_further_version_and_the_record_of_it_are_both_there_or_neither(
    place: Place, step: str, done: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = f"old-{step}-{done}".lower()
    assert (await place.bring(model)).status_code == 201
    assert await place.answering(model) == 1
    with monkeypatch.context() as patched:
        _dies(place, step, patched, done=done)
        refused(await place.bring(model), 503)
    await place.back()
    there = (step, done) == ("commit", True)
    assert len(await place.store.versions(model)) == 1 + there
    assert len(await place.imports(model)) == 1 + there
    assert (await place.bring(model)).json()["version"] == 2 + there
    assert await place.answering(model) == 2 + there
