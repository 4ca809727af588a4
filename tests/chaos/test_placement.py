"""A variant moves to a deployment of its own and back while it is asked: nobody notices, whoever is killed."""

import json
import os
import signal
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import psutil
import pytest

from deploy.client import ApiError
from deploy.testing import TestPlatform, Users, platform_in, until

pytestmark = pytest.mark.chaos

MODEL = "vector"
INSTANCE: dict[str, Any] = {"features": {"x": [0.5] * 32}}
SPEC = """
from dataclasses import replace

from examples.vector import spec as example
from store.spec import Schedule

spec = replace(example, schedule=Schedule(outcomes=None, seconds=None))
"""


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestPlatform]:
    folder = tmp_path_factory.mktemp("placement")
    (folder / "untaught.py").write_text(SPEC)
    with platform_in(folder) as place:
        place.start("untaught:spec", replicas=2)
        yield place


@pytest.fixture
def users(platform: TestPlatform) -> Iterator[Users]:
    """Eight clients at work for as long as the test lasts; nothing that they asked may have failed."""
    with Users(platform.url, MODEL, INSTANCE, threads=8) as users:
        users.more(50)
        yield users
        users.more(50)
    assert users.refusals == set()
    # One version has one answer, wherever it is asked; a batch may round the last bit differently.
    for answers in users.answers.values():
        assert max(answers) - min(answers) < 1e-6


def _place(platform: TestPlatform, *options: str) -> dict[str, Any]:
    return json.loads(platform.command("place", MODEL, *options, "--json"))


def _dedicated(platform: TestPlatform, *options: str) -> dict[str, Any]:
    return _place(platform, "--cpus=0.1", *options)


def _hosts(platform: TestPlatform) -> list[dict[str, Any]]:
    with platform.client() as client:
        return client.placement(MODEL, "main")["hosts"]


def _answers(platform: TestPlatform) -> list[float]:
    rows = np.random.default_rng(3).normal(size=(200, 32)).round(3).tolist()
    with platform.client() as client:
        made = client.predict(MODEL, [{"features": {"x": row}} for row in rows])
    return [one["output"]["probability"] for one in made]


def test_it_moves_there_and_back_and_nothing_fails(platform: TestPlatform, users: Users) -> None:
    before = _answers(platform)
    state = _dedicated(platform)
    assert state["moved"]
    assert set(state["replicas"].values()) == {state["application"]}
    assert [host["providers"] for host in state["hosts"]] == [["CPUExecutionProvider"]]
    there = psutil.Process(state["hosts"][0]["pid"])
    assert not any("libtorch" in mapped.path for mapped in there.memory_maps())
    users.more(100)
    np.testing.assert_allclose(_answers(platform), before, rtol=1e-5)

    def counted() -> bool:
        return 'tidemill_batch_rows_count{model="vector"' in httpx.get(f"{platform.url}/metrics").text

    until(counted, "the host's batches are among the metrics")
    other = _dedicated(platform, "--batch=1")
    assert other["moved"]
    assert other["application"] != state["application"]
    users.more(100)
    np.testing.assert_allclose(_answers(platform), before, rtol=1e-5)
    until(lambda: not there.is_running(), "the deployment that was left has ended")

    assert _place(platform, "--in-process")["moved"]
    users.more(100)
    np.testing.assert_allclose(_answers(platform), before, rtol=1e-5)
    until(lambda: not _hosts(platform), "no host is left")


def test_versions_are_swapped_there(platform: TestPlatform, users: Users) -> None:
    _dedicated(platform)
    with platform.client() as client:
        for _ in range(5):
            users.more(30)
            published = client.retrain(MODEL)["version"]
            assert client.predict(MODEL, [INSTANCE])[0]["version"] == published
    assert len(users.answers) >= 5


def test_a_killed_host_is_replaced_and_nothing_fails(platform: TestPlatform, users: Users) -> None:
    _dedicated(platform)
    for _ in range(2):
        [host] = _hosts(platform)
        os.kill(host["pid"], signal.SIGKILL)
        users.more(50)
        until(lambda gone=host["pid"]: [one["pid"] for one in _hosts(platform) if one["ready"]] not in ([], [gone]), "another")
        users.more(50)


def test_whoever_places_may_be_killed(platform: TestPlatform, users: Users) -> None:
    state = _dedicated(platform)
    [controller] = platform.pids("controllers")
    os.kill(controller, signal.SIGKILL)
    until(lambda: platform.pids("controllers") not in ([], [controller]), "another controller")
    assert _place(platform, "--in-process")["moved"]
    users.more(50)
    host = psutil.Process(state["hosts"][0]["pid"])
    until(lambda: not host.is_running(), "the deployment has ended")


def test_what_no_machine_has_is_said_and_answered_where_it_was(platform: TestPlatform, users: Users) -> None:
    told = platform.command("place", MODEL, "--gpus=2", "--resource=tape=1", "--wait-s=12", check=False)
    assert "has not moved" in told
    assert "is answered where it was" in told
    users.more(50)

    def said() -> bool:
        with platform.client() as client:
            return "tape" in client.placement(MODEL, "main")["problem"]

    until(said, "which resource is missing is said")
    assert _place(platform, "--in-process")["moved"]


@pytest.mark.parametrize(
    ("variant", "wanted", "says"),
    [
        ("none", {"kind": "dedicated"}, "no variant 'none' among main"),
        ("main", {"kind": "there"}, "kind"),
        ("main", {"kind": "in_process", "gpus": 1}, "gpus"),
        ("main", {"kind": "dedicated", "gpus": 1.5}, "a fraction of one, or a whole number"),
        ("main", {"kind": "dedicated", "min_replicas": 3, "max_replicas": 2}, "max_replicas, 2, must be at least"),
        ("main", {"kind": "dedicated", "max_batch_size": 0}, "max_batch_size"),
        ("main", {"kind": "dedicated", "providers": ["tpu"]}, "providers"),
        ("main", {"kind": "dedicated", "resources": {"disk": -1}}, "disk"),
        ("../main", {"kind": "dedicated"}, "no route"),
    ],
)
def test_what_makes_no_sense_is_refused(platform: TestPlatform, variant: str, wanted: dict[str, Any], says: str) -> None:
    with platform.client() as client:
        epoch = client.policy(MODEL)["epoch"]
        with pytest.raises(ApiError, match=says) as found:
            client.place(MODEL, variant, wanted)
        assert 400 <= found.value.status < 500
        assert client.policy(MODEL)["epoch"] == epoch
