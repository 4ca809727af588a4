"""The Serve config, the environment and the server's arguments of the manifests, run on a cluster of one node."""

import os
import secrets
import subprocess
import sys
import tempfile
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml

from deploy import reaper
from deploy.client import ApiError, Client
from deploy.kubernetes.manifests import platform, secret
from deploy.kubernetes.rayservice import API_PORT
from deploy.kubernetes.values import Values
from deploy.serve_settings import free_ports, serve_environment
from deploy.testing import alive, until
from store import tether
from store.redis_server import find_server

pytestmark = pytest.mark.ray

VALUES = Values(image="tidemill", specs=("clicks:spec",), trainer_cpu="0.5")  # a node has room for two
SPEC = """
from pydantic import BaseModel
from store.spec import ModelSpec, Schedule

class Features(BaseModel):
    x: float

spec = ModelSpec(name="click", features=Features, schedule=Schedule(seconds=None))
"""
AGENT_PORT = 52365


def _found(kind: str) -> dict[str, Any]:
    return next(manifest for manifest in platform(VALUES) if manifest["kind"] == kind)


RAY = _found("RayService")["spec"]
WORKERS = RAY["rayClusterConfig"]["workerGroupSpecs"][0]
WORKER = WORKERS["template"]["spec"]["containers"][0]
VALKEY = _found("StatefulSet")["spec"]["template"]["spec"]["containers"][0]


def _in_pod(words: dict[str, str], text: str) -> str:
    """What Kubernetes makes of $(NAME)."""
    for name, value in words.items():
        text = text.replace(f"$({name})", value)
    return text


def _environment(container: dict[str, Any], kept: dict[str, str]) -> dict[str, str]:
    """A container's environment, with the Secret's words in it."""
    made: dict[str, str] = {}
    for variable in container["env"]:
        of_secret = variable.get("valueFrom", {}).get("secretKeyRef", {}).get("key")
        made[variable["name"]] = kept[of_secret] if of_secret else _in_pod(made, variable["value"])
    return made


@dataclass(frozen=True)
class RayCluster:
    """One node, with the manifest's environment and start parameters; only ports and sockets are a test's."""

    folder: Path
    environment: dict[str, str]
    ports: dict[int, int]
    """The ports of this test, by those of the manifest."""
    dashboard: str
    token: str

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports[API_PORT]}"

    def client(self) -> Client:
        return Client(self.url, self.token)

    def deploy(self, arguments: dict[str, Any] | None = None) -> None:
        """`serve deploy` the manifest's config, with other arguments in it if given."""
        config = yaml.safe_load(RAY["serveConfigV2"])
        config["http_options"] = {"host": "127.0.0.1", "port": self.ports[API_PORT]}
        config["applications"][0]["args"] |= arguments or {}
        file = self.folder / "serve.yaml"
        file.write_text(yaml.safe_dump(config))
        self.run("serve", "deploy", str(file), "--address", self.dashboard)

    def status(self) -> dict[str, Any]:
        said = yaml.safe_load(self.run("serve", "status", "--address", self.dashboard))
        return said["applications"].get("tidemill", {"status": "NOT_STARTED", "deployments": {}})

    def replicas(self) -> int:
        """Ingress replicas that run; none are told of while Serve builds the application."""
        return self.status()["deployments"].get("ingress", {"replica_states": {}})["replica_states"].get("RUNNING", 0)

    def run(self, program: str, *arguments: str) -> str:
        done = subprocess.run(
            [Path(sys.executable).with_name(program), *arguments],
            cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{program} {' '.join(arguments)} failed:\n{done.stdout}\n{done.stderr}"
        return done.stdout


@contextmanager
def _valkey(folder: Path, kept: dict[str, str], port: int) -> Generator[None]:
    """The manifest's server, as far as this machine has it: some Redis or Valkey with the same arguments."""
    given = [_in_pod(_environment(VALKEY, kept), argument) for argument in VALKEY["args"]]
    given[given.index("--dir") + 1] = str(folder)
    server = tether.spawn(
        [str(find_server().program), *given, "--port", str(port), "--bind", "127.0.0.1"], stdout=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        server.terminate()
        server.wait(30)


@contextmanager
def _ray(folder: Path, environment: dict[str, str], ports: dict[int, int], token: str) -> Generator[RayCluster]:
    run = Path(tempfile.mkdtemp(prefix="tidemill-", dir="/tmp"))
    mine = serve_environment(run, use_haproxy=True) | environment
    gcs, dashboard, agent_grpc, metrics, client = free_ports(5)
    started = {f"--{name}={value}" for name, value in WORKERS["rayStartParams"].items()}
    command = [
        str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", *started,
        "--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1", f"--temp-dir={run / 'ray'}",
        f"--port={gcs}", f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={ports[AGENT_PORT]}",
        f"--dashboard-agent-grpc-port={agent_grpc}", f"--metrics-export-port={metrics}",
        f"--ray-client-server-port={client}",
    ]  # fmt: skip
    with (folder / "ray.out").open("wb") as printed:
        node = tether.spawn(command, cwd=folder, env=os.environ | mine, stdout=printed, stderr=subprocess.STDOUT)
    try:
        yield RayCluster(folder, os.environ | mine, ports, f"http://127.0.0.1:{dashboard}", token)
    finally:
        # Asked to end, a node drains for half a minute.
        node.kill()
        node.wait()
        assert not reaper.sweep(str(run), str(folder / "logs")), "something of Ray would not end"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    folder = tmp_path_factory.mktemp("cluster")
    (folder / "clicks.py").write_text(SPEC)
    kept: dict[str, str] = secret(VALUES)["stringData"]
    redis, api, agent = free_ports(3)
    environment = _environment(WORKER, kept)
    environment["TIDEMILL_REDIS_URL"] = environment["TIDEMILL_REDIS_URL"].replace("tidemill-valkey:6379", f"127.0.0.1:{redis}")
    # What KubeRay adds, and the image.
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    environment["PYTHONPATH"] = os.pathsep.join([str(folder), str(Path(__file__).parents[2])])
    with (
        _valkey(folder, kept, redis),
        _ray(folder, environment, {API_PORT: api, AGENT_PORT: agent}, kept["token"]) as cluster,
    ):
        until(lambda: _answers(f"{cluster.dashboard}/api/gcs_healthz"), "Ray's dashboard answers")
        cluster.deploy()
        until(lambda: _answers(f"{cluster.url}/readyz"), "every model can answer", patience_s=300)
        yield cluster


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def _learned(client: Client) -> int:
    """Ask, say what was true, have it learned; return the version that came of it."""
    [answer] = client.predict("click", [{"features": {"x": 1.0}}])
    client.feedback([{"id": answer["id"], "label": 1}])
    client.retrain("click")
    return client.versions("click", 1)[0]["number"]


def test_it_answers_and_learns(cluster: RayCluster) -> None:
    with cluster.client() as client:
        before = client.versions("click", 1)[0]["number"]
        assert _learned(client) == before + 1
    until(lambda: cluster.status()["status"] == "RUNNING", "Serve calls the application running")
    assert set(cluster.status()["deployments"]) == {"ingress", "controller", "joiner", "supervisor"}
    assert cluster.replicas() == VALUES.replicas.min


def test_a_model_is_added_beside_those_of_the_config_and_removed_again(cluster: RayCluster) -> None:
    (cluster.folder / "sales.py").write_text(SPEC.replace("click", "sale"))
    with cluster.client() as client:
        client.add_model("sales:spec")
        until(lambda: client.predict("sale", [{"features": {"x": 1.0}}]), "it answers")
        assert {report["name"] for report in client.status()["trainers"]} == {"trainer:click", "trainer:sale"}
        assert client.remove_model("sale", purge=True) == {"model": "sale", "purged": True}
        until(lambda: [report["name"] for report in client.status()["trainers"]] == ["trainer:click"], "its trainer has ended")


def test_only_operators_get_to_the_operators_routes(cluster: RayCluster) -> None:
    assert httpx.get(f"{cluster.url}/admin/status").status_code == 401


@pytest.mark.parametrize("role", ["head", "worker"])
def test_the_probes_are_answered(cluster: RayCluster, role: str) -> None:
    groups = {"head": RAY["rayClusterConfig"]["headGroupSpec"], "worker": WORKERS}
    [container] = groups[role]["template"]["spec"]["containers"]
    for kind in ("livenessProbe", "readinessProbe"):
        asked = container[kind]["httpGet"]
        assert _answers(f"http://127.0.0.1:{cluster.ports[asked['port']]}{asked['path']}"), asked


@pytest.mark.parametrize("role", ["trainers", "controllers", "replicas"])
def test_what_is_killed_comes_back(cluster: RayCluster, role: str) -> None:
    with cluster.client() as client:
        killed = psutil.Process(client.status()[role][0]["pid"])
        killed.kill()
        until(lambda: not alive([killed]), "it is dead")
        until(
            lambda: killed.pid not in [it["pid"] for it in client.status()[role]] and client.status()[role], "there is another"
        )
        before = client.versions("click", 1)[0]["number"]
        until(lambda: _learned(client) > before, "it learns again")


def test_a_changed_config_is_taken_on_and_replicas_follow_the_predictions_at_work(cluster: RayCluster) -> None:
    scaling = {
        "min_replicas": 1,
        "max_replicas": 2,
        "target_at_work": 0.2,
        "look_back_s": 4,
        "up_after_s": 0,
        "down_after_s": 2,
    }
    cluster.deploy({"replicas": scaling})
    until(lambda: cluster.status()["status"] == "RUNNING" and cluster.replicas() == 1, "nobody asks, so one is enough")
    enough = threading.Event()

    def ask() -> None:
        with cluster.client() as client:
            while not enough.is_set():
                # A replica that is being replaced may cut off what it has at work.
                with suppress(ApiError, httpx.HTTPError):
                    client.predict("click", [{"features": {"x": 1.0}}] * 200)

    asking = [threading.Thread(target=ask) for _ in range(4)]
    for thread in asking:
        thread.start()
    try:
        until(lambda: cluster.replicas() == 2, "many ask, so there are two")
    finally:
        enough.set()
        for thread in asking:
            thread.join()
    until(lambda: cluster.replicas() == 1, "nobody asks any more")


def test_a_spec_that_cannot_be_imported_is_said_by_serve(cluster: RayCluster) -> None:
    cluster.deploy({"specs": ["nowhere:spec"]})
    until(lambda: cluster.status()["status"] == "DEPLOY_FAILED", "Serve refuses")
    assert "spec 'nowhere:spec': cannot import nowhere" in cluster.status()["message"]
    assert _answers(f"{cluster.url}/readyz"), "what ran before goes on"
