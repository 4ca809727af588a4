"""Models added to a platform that runs: through kills of their trainers and of Redis, and through a restart of it all."""

import json
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from deploy.client import ApiError, Client
from deploy.testing import TestPlatform, platform_in, until

pytestmark = pytest.mark.chaos

FIRST = "vector"
VECTOR = {"features": {"x": [0.5] * 32}}
SPECS = """
from pydantic import BaseModel
from store.spec import ModelSpec, Schedule

class Features(BaseModel):
    x: float

by_hand = Schedule(seconds=None)
""" + "\n".join(f'm{number} = ModelSpec(name="m{number}", features=Features, schedule=by_hand)' for number in range(20))
ASK = {"features": {"x": 1.0}}


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestPlatform]:
    folder = tmp_path_factory.mktemp("models")
    (folder / "mine.py").write_text(SPECS)
    with platform_in(folder) as place:
        place.start("examples.vector:spec", replicas=2)
        said = place.command("model", "add", "mine:m0", "--why", "the shop wants it")
        assert "waiting for the first version" in said
        assert "model m0 answers with version 1" in said
        yield place


def _listed(client: Client) -> dict[str, dict[str, Any]]:
    return {one["model"]: one for one in client.models()["models"]}


def _learned(client: Client, model: str) -> int:
    [answer] = client.predict(model, [ASK])
    client.feedback([{"id": answer["id"], "label": 1}])
    return client.retrain(model, 60.0)["version"]


def test_an_added_model_learns_and_its_killed_trainer_comes_back(platform: TestPlatform) -> None:
    with platform.client() as client:
        before = _learned(client, "m0")
        victim = _listed(client)["m0"]["trainer"]["pid"]
        os.kill(victim, signal.SIGKILL)
        assert _learned(client, "m0") > before
        until(lambda: _listed(client)["m0"]["trainer"]["pid"] != victim, "another trainer")


def test_the_supervisor_may_die_as_well(platform: TestPlatform) -> None:
    with platform.client() as client:
        [victim] = platform.pids("supervisors")
        os.kill(victim, signal.SIGKILL)
        until(lambda: platform.pids("supervisors") not in ([], [victim]), "another supervisor")
        before = client.versions("m0", 1)[0]["number"]
        until(lambda: _learned(client, "m0") > before, "it learns again")
        until(lambda: len(platform.pids("trainers")) == 2, "one trainer each")


def test_with_redis_killed_while_models_are_added_each_is_added_or_is_not(platform: TestPlatform) -> None:
    names = [f"m{number}" for number in range(1, 4)]
    said: dict[str, int] = {}

    def add() -> None:
        with platform.client() as client:
            for name in names:
                try:
                    client.add_model(f"mine:{name}")
                    said[name] = 201
                except ApiError as error:
                    said[name] = error.status

    adding = threading.Thread(target=add)
    adding.start()
    while adding.is_alive():
        platform.kill_redis()
        adding.join(0.3)
    with platform.client() as client:
        for name in names:
            there = name in _listed(client)
            assert there or said[name] != 201, f"{name} was acknowledged and is not there"
            if not there:
                client.add_model(f"mine:{name}")
            until(lambda name=name: client.predict(name, [ASK]), f"{name} answers")
            client.remove_model(name, purge=True)
        assert set(_listed(client)) == {FIRST, "m0"}


def test_no_request_to_others_is_lost_while_models_with_trainers_come_and_go(platform: TestPlatform) -> None:
    enough, refusals, answered = threading.Event(), list[str](), list[int]()

    def ask(model: str, instance: dict[str, Any]) -> None:
        with platform.client() as client:
            while not enough.is_set():
                try:
                    answered.append(client.predict(model, [instance])[0]["version"])
                except ApiError as error:
                    refusals.append(f"{model}: {error}")

    asking = [threading.Thread(target=ask, args=one) for one in ((FIRST, VECTOR), ("m0", ASK)) for _ in range(2)]
    for thread in asking:
        thread.start()
    try:
        added = json.loads(platform.command("model", "add", "mine:m5", "--json"))
        assert added["replicas"] == {"serving": 2, "of": 2}
        assert "and its data are kept" in platform.command("model", "remove", "m5")
        assert "removed" in platform.command("model", "list")
        assert json.loads(platform.command("model", "add", "m5", "--json"))["version"] == 1
        assert "its data are gone" in platform.command("model", "remove", "m5", "--purge")
    finally:
        enough.set()
        for thread in asking:
            thread.join()
    assert refusals == []
    assert len(answered) > 50
    until(lambda: len(platform.pids("trainers")) == 2, "its trainer has ended")


def test_what_is_wrong_is_said_in_one_line(platform: TestPlatform) -> None:
    (platform.folder / "broken.py").write_text("spec = nothing")
    for words, says in (
        (("add", "broken:spec"), "NameError: name 'nothing' is not defined"),
        (("add", "mine:m0"), "there is a model 'm0' already"),
        (("add", "never"), "no model 'never' was removed here"),
        (("remove", "never"), "no model 'never'"),
    ):
        said = platform.command("model", *words, check=False)
        assert "error:" in said
        assert says in said
        assert "Traceback" not in said


def test_after_a_restart_that_names_the_first_alone_the_added_one_is_there_and_learns(platform: TestPlatform) -> None:
    with platform.client() as client:
        before = client.versions("m0", 1)[0]["number"]
    platform.command("down")
    platform.start("examples.vector:spec")
    with platform.client() as client:
        until(lambda: client.predict("m0", [ASK])[0]["version"] == before, "it answers as it did")
        assert _learned(client, "m0") > before
        assert set(_listed(client)) == {FIRST, "m0"}
