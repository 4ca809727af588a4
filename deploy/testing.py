"""A platform for tests: in a folder of its own, in the background, on a free port; ended however the test ends."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import psutil

from deploy.client import ApiError, Client
from deploy.home import Home, Running
from deploy.serve_settings import free_ports

PATIENCE_S = 120.0


@dataclass
class TestPlatform:
    """A running platform. `folder` is where its user works: spec files lie there, and `.tidemill` is its home."""

    __test__ = False

    folder: Path
    port: int

    @property
    def home(self) -> Home:
        return Home(self.folder / ".tidemill")

    @property
    def running(self) -> Running:
        return self.home.expect()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self) -> Client:
        return Client(self.url, self.home.token())

    def command(self, *arguments: str, check: bool = True) -> str:
        """Run `tidemill …` as a user would; return what it printed."""
        done = subprocess.run(
            [sys.executable, "-m", "deploy.cli", *arguments],
            cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        if check and done.returncode:
            raise AssertionError(f"tidemill {' '.join(arguments)} failed:\n{done.stdout}\n{done.stderr}")
        return done.stdout + done.stderr

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "TIDEMILL_PORT": str(self.port), "COLUMNS": "200"}

    def start(self, *specs: str, replicas: int = 1) -> None:
        self.command("up", "--detach", f"--replicas={replicas}", *(f"--spec={spec}" for spec in specs))

    def ready(self) -> bool:
        with self.client() as client:
            return client.ready()["ready"]

    def pids(self, role: str) -> list[int]:
        """The processes that report under this role: 'replicas' or 'trainers'."""
        with self.client() as client:
            return [report["pid"] for report in client.status()[role]]

    def redis_pid(self) -> int:
        """The process of its Redis; one that has just been killed is started again soon."""
        found: list[int] = []

        def there() -> bool:
            found[:] = [one.pid for one in alive(self.processes()) if "redis-server" in one.name()]
            return bool(found)

        until(there, "a Redis runs")
        return found[0]

    def kill_redis(self) -> None:
        """Kill its Redis, and wait until another is there and answers."""
        victim = self.redis_pid()
        os.kill(victim, signal.SIGKILL)
        with self.client() as client:
            until(lambda: self.redis_pid() != victim and client.status(), "another Redis")

    def processes(self) -> list[psutil.Process]:
        """The platform's driver and everything that it started."""
        driver = psutil.Process(self.running.pid)
        return [driver, *driver.children(recursive=True)]


class Clients:
    """Threads with a client each, which take turns of their own again and again until the block ends."""

    url: str
    threads: int

    def __enter__(self) -> Self:
        self._stop = threading.Event()
        self._running = [threading.Thread(target=self._live, args=(number,)) for number in range(self.threads)]
        for thread in self._running:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._running:
            thread.join()

    def _live(self, number: int) -> None:
        with Client(self.url, timeout_s=30.0) as client:
            while not self._stop.is_set():
                self.turn(client, number)

    def turn(self, client: Client, number: int) -> None:
        """What the thread of this number does again and again."""
        raise NotImplementedError


@dataclass
class Users(Clients):
    """Clients that ask one question again and again and give feedback, and remember what was acknowledged.

    `answers` has what each version answered, `refusals` the HTTP status of what failed.
    """

    url: str
    model: str
    instance: dict[str, Any]
    threads: int = 4
    predicted: set[str] = field(default_factory=set[str])
    labelled: set[str] = field(default_factory=set[str])
    refusals: set[int] = field(default_factory=set[int])
    answers: dict[int, set[float]] = field(default_factory=dict[int, set[float]])

    def more(self, count: int = 200) -> None:
        """Wait until that many more predictions are acknowledged."""
        wanted = len(self.predicted) + count
        until(lambda: len(self.predicted) >= wanted, f"{count} more predictions")

    def turn(self, client: Client, number: int) -> None:
        id_ = uuid.uuid4().hex
        try:
            [made] = client.predict(self.model, [{**self.instance, "id": id_}])
            self.predicted.add(id_)
            self.answers.setdefault(made["version"], set()).add(made["output"]["probability"])
            client.feedback([{"id": id_, "model": self.model, "label": 1}])
            self.labelled.add(id_)
        except ApiError as error:
            self.refusals.add(error.status)


@contextmanager
def platform_in(folder: Path) -> Generator[TestPlatform]:
    """A place to start a platform in; what still runs at the end is stopped."""
    [port] = free_ports(1)
    platform = TestPlatform(folder, port)
    try:
        yield platform
    finally:
        if platform.home.running():
            platform.command("down", check=False)


def alive(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Those that still run; one that is dead and not yet reaped does not."""
    found: list[psutil.Process] = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def until(condition: Callable[[], object], what: str, patience_s: float = PATIENCE_S) -> None:
    """Wait until a condition holds; a platform that does not answer for a while is no failure."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            if condition():
                return
        except (ApiError, psutil.Error, StopIteration):
            pass
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {patience_s:g} s in vain: {what}")
        time.sleep(0.05)


def as_described(url: str, description: str | Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Let Schemathesis make requests of an OpenAPI description, sound and broken ones, and look at every answer.

    Args:
        url: where the platform is; `description`: a file, or where it is to be had.
        arguments: of `st run`, such as how much: `--max-examples` for each operation, `--max-time` in seconds.

    The result's code is 0 where the platform did all that the description says and answered nothing with 5xx.
    """
    checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
    command = [Path(sys.executable).with_name("st"), "run", str(description), "--url", url, "--checks", checks, "--no-color"]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)


def open_inference(published: Path, models: Sequence[str], example: dict[str, Any]) -> dict[str, Any]:
    """Return the published description of the Open Inference Protocol, for a platform that serves these models.

    Args:
        published: the description as MLServer has it. What it adds to the protocol (generation, streams) is left out, and its
            type `bytes`, which no schema knows.
        example: an inference request that the first of the models answers.
    """
    document: dict[str, Any] = json.loads(published.read_text())
    paths = {path: item for path, item in document["paths"].items() if not path.endswith(("_stream", "/generate"))}
    versions = {"type": "string", "pattern": "^[0-9]{1,18}$"}
    for path, item in paths.items():
        for parameter in item.get("parameters", ()):
            parameter["schema"] = {"type": "string", "enum": [*models]} if parameter["name"] == "model_name" else versions
        for operation in [operation for method, operation in item.items() if method in ("get", "post")]:
            # It names what answers a good request, and few of the refusals that every server has.
            refusal = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/InferenceErrorResponse"}}}}
            operation["responses"]["4XX"] = {"description": "refused"} | refusal
        if path == "/v2/models/{model_name}/infer":
            item["post"]["requestBody"]["content"]["application/json"]["example"] = example
            item["parameters"][0]["example"] = models[0]
    document["paths"] = paths
    document["components"]["schemas"]["TensorData"] = {"type": "array"}
    return document
