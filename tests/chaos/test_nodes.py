"""Several nodes on one machine, with GPUs that are only said to be there: variants land where what they ask for is."""

import json
import os
import subprocess
import sys
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import psutil
import pytest

from deploy.testing import TestPlatform, Users, platform_in, until
from store import tether

pytestmark = pytest.mark.chaos

MODEL = "vector"
INSTANCE: dict[str, Any] = {"features": {"x": [0.5] * 32}}


JOIN = """
import json, sys, threading
from ray._private.node import Node
from ray._private.parameter import RayParams

params = RayParams(
    gcs_address=sys.argv[1], num_cpus=4, num_gpus=int(sys.argv[2]), resources=json.loads(sys.argv[3]), temp_dir=sys.argv[4],
    node_ip_address="127.0.0.1", object_store_memory=80_000_000, include_log_monitor=False,
    node_manager_port=0, min_worker_port=0, max_worker_port=0,
)
params.dashboard_agent_listen_port = None
Node(params, head=False, shutdown_at_exit=True, spawn_reaper=True)
print("joined", flush=True)
threading.Event().wait()
"""
"""What `ray start --address` does, but for looking for an address that other machines know."""


@contextmanager
def _node(platform: TestPlatform, gpus: int = 0, **resources: float) -> Generator[None]:
    """One more node of the platform's Ray."""
    replica = psutil.Process(platform.pids("replicas")[0])
    raylet = replica.parent()
    assert raylet is not None
    parts = [word.removeprefix("--").partition("=") for word in raylet.cmdline()]
    said = {name: value for name, _, value in parts}
    words = [said["gcs-address"], str(gpus), json.dumps(resources), said["temp_dir"]]
    environment = {**os.environ, **replica.environ(), "RAY_raylet_start_wait_time_s": "60"}
    node = tether.spawn([sys.executable, "-c", JOIN, *words], env=environment, stdout=subprocess.PIPE)
    try:
        assert node.stdout is not None
        assert node.stdout.readline() == b"joined\n"
        yield
    finally:
        node.kill()
        node.communicate()


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestPlatform]:
    with platform_in(tmp_path_factory.mktemp("nodes")) as place:
        place.start("examples.vector:spec")
        with ExitStack() as nodes:
            nodes.enter_context(_node(place, gpus=1))
            nodes.enter_context(_node(place, shelf=4))
            nodes.enter_context(_node(place, shelf=4))
            yield place


def _place(platform: TestPlatform, *options: str) -> dict[str, Any]:
    state = json.loads(platform.command("place", MODEL, *options, "--json"))
    assert state["moved"]
    return state


def _hosts(platform: TestPlatform, count: int) -> list[dict[str, Any]]:
    def hosts() -> list[dict[str, Any]]:
        with platform.client() as client:
            return [host for host in client.placement(MODEL, "main")["hosts"] if host["ready"]]

    until(lambda: len(hosts()) == count, f"{count} hosts")
    return hosts()


def test_gpu_variants_share_the_gpu_of_its_node_and_say_that_it_is_none(platform: TestPlatform) -> None:
    with Users(platform.url, MODEL, INSTANCE) as users:
        _place(platform, "--gpus=0.5", "--min-replicas=2")
        hosts = _hosts(platform, 2)
        users.more(50)
    assert users.refusals == set()
    assert len({host["node"] for host in hosts}) == 1
    assert [host["gpus"] for host in hosts] == [["0"], ["0"]]
    assert all("CUDAExecutionProvider is not here" in host["away"]["provider"] for host in hosts)
    with platform.client() as client:
        replica = client.status()["replicas"][0]
        assert replica["applied"][MODEL]["placed"]


def test_replicas_are_spread_over_the_nodes_that_have_what_they_ask_for(platform: TestPlatform) -> None:
    with Users(platform.url, MODEL, INSTANCE) as users:
        _place(platform, "--resource=shelf=1", "--cpus=0.5", "--min-replicas=2")
        hosts = _hosts(platform, 2)
        assert len({host["node"] for host in hosts}) == 2
        users.more(50)
    assert users.refusals == set()


def test_more_replicas_come_while_batches_wait_and_go_again(platform: TestPlatform) -> None:
    with platform.client() as client:
        epoch = client.policy(MODEL)
        [variant] = epoch["policy"]["variants"]
        variant["placement"] = {
            "kind": "dedicated", "cpus": 0.1, "max_replicas": 2, "max_batch_size": 1, "target_batches": 0.3, "up_after_s": 0.5,
            "down_after_s": 2.0,
        }  # fmt: skip
        client.set_policy(MODEL, epoch["policy"], epoch["epoch"])
        _hosts(platform, 1)
        with Users(platform.url, MODEL, INSTANCE, threads=8) as users:
            _hosts(platform, 2)
            users.more(50)
        _hosts(platform, 1)
    assert users.refusals == set()
