"""However a platform ends, nothing of it stays behind, and another can start at once in its place."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import psutil
import pytest

from deploy.haproxy import corrected
from deploy.serve_settings import find_haproxy, free_ports
from deploy.testing import alive

pytestmark = pytest.mark.chaos

_ROOT = Path(__file__).parents[2]
_START_SECONDS = 180.0
_STOP_SECONDS = 15.0
_DRIVER = """
import signal, sys
from pathlib import Path
from deploy.cluster import start_ray, start_serve, stop_ray

cluster = start_ray(port=int(sys.argv[1]), use_haproxy=None if sys.argv[2] == "haproxy" else False)
start_serve(cluster)
from ray import serve
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

def build():
    import words  # lies in the working directory of the driver
    async def answer(request):
        return PlainTextResponse(words.ANSWER)
    return Starlette(routes=[Route("/", answer)])

@serve.deployment(ray_actor_options={"num_cpus": 0.1})
@serve.ingress(build)
class Answers:
    pass

serve.run(Answers.bind())
print(cluster.run_directory, flush=True)
try:
    sys.stdin.read()
except KeyboardInterrupt:
    pass
stop_ray(cluster)
"""


_spawned: "list[subprocess.Popen[str]]" = []


@dataclass(frozen=True)
class Platform:
    driver: "subprocess.Popen[str]"
    port: int
    run_directory: Path
    processes: list[psutil.Process]


def _eventually(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


def _answer(port: int) -> str | None:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as response:
            return response.read().decode()
    except (urllib.error.URLError, ConnectionError):
        return None


def _spawn(directory: Path, port: int, proxy: str) -> "subprocess.Popen[str]":
    (directory / "words.py").write_text('ANSWER = "at your service"\n')
    driver = subprocess.Popen(
        [sys.executable, "-c", _DRIVER, str(port), proxy],
        cwd=directory,
        env=os.environ | {"PYTHONPATH": str(_ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    _spawned.append(driver)
    return driver


@pytest.fixture(autouse=True)
def no_survivors() -> Iterator[None]:
    """Whatever a failed test leaves running must not disturb the next."""
    yield
    while _spawned:
        driver = _spawned.pop()
        driver.kill()
        with driver:
            driver.wait()


def _start(directory: Path, port: int, proxy: str = "haproxy") -> Platform:
    driver = _spawn(directory, port, proxy)
    assert driver.stdout is not None
    assert driver.stderr is not None
    run_directory = driver.stdout.readline().strip()
    assert run_directory, driver.stderr.read()
    assert _eventually(lambda: _answer(port) == "at your service", _START_SECONDS)
    return Platform(driver, port, Path(run_directory), psutil.Process(driver.pid).children(recursive=True))


def _assert_nothing_is_left(platform: Platform) -> None:
    assert _eventually(lambda: not alive(platform.processes), _STOP_SECONDS), alive(platform.processes)
    assert _eventually(lambda: not platform.run_directory.exists(), _STOP_SECONDS), platform.run_directory
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", platform.port)) != 0


def _end(platform: Platform) -> None:
    platform.driver.communicate(timeout=60)


def _processes(platform: Platform) -> list[psutil.Process]:
    driver = psutil.Process(platform.driver.pid)
    return [*driver.children(recursive=True), driver]


def _ports(processes: list[psutil.Process]) -> set[int]:
    return {port for _, port in _listening(processes)}


def _listening(processes: list[psutil.Process]) -> dict[tuple[str, int], str]:
    found: dict[tuple[str, int], str] = {}
    for process in alive(processes):
        with contextlib.suppress(psutil.NoSuchProcess):  # Ray's short-lived ones come and go
            for connection in process.net_connections("inet"):
                if connection.status == psutil.CONN_LISTEN:
                    found[connection.laddr.ip, connection.laddr.port] = process.name()
    return found


def _names(processes: list[psutil.Process]) -> set[str]:
    found: set[str] = set()
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            found.add(process.name())
    return found


def _is_loopback(address: str) -> bool:
    parsed = ip_address(address)
    mapped = getattr(parsed, "ipv4_mapped", None)
    return (mapped or parsed).is_loopback


@pytest.mark.parametrize("proxy", ["haproxy", "own"])
def test_all_of_it_listens_on_loopback_and_ends_with_stop(tmp_path: Path, proxy: str) -> None:
    if proxy == "haproxy" and find_haproxy() is None:
        pytest.skip("no HAProxy for this platform")
    platform = _start(tmp_path, free_ports(1)[0], proxy)
    # Its processes as they are now: HAProxy hands its sockets to a new one whenever it is told of a replica.
    assert _eventually(lambda: platform.port in _ports(_processes(platform)), _START_SECONDS)
    own = _processes(platform)
    listening = _listening(own)
    assert {where: name for where, name in listening.items() if not _is_loopback(where[0])} == {}
    assert ("haproxy" in _names(own)) is (proxy == "haproxy")
    sockets = [path for path in platform.run_directory.rglob("*") if path.is_socket()]
    assert sockets
    assert platform.run_directory.stat().st_mode & 0o077 == 0
    _end(platform)
    assert platform.driver.returncode == 0
    assert _eventually(lambda: not alive(own), _STOP_SECONDS), alive(own)
    _assert_nothing_is_left(platform)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    platform = _start(tmp_path, free_ports(1)[0])
    platform.driver.send_signal(number)
    _end(platform)
    _assert_nothing_is_left(platform)


def test_a_kill_leaves_nothing_and_the_next_starts_at_once(tmp_path: Path) -> None:
    first = _start(tmp_path, free_ports(1)[0])
    first.driver.kill()
    _end(first)
    second = _start(tmp_path, first.port)
    assert not alive(first.processes)
    assert not first.run_directory.exists()
    second.driver.kill()
    _end(second)
    _assert_nothing_is_left(second)


def test_a_port_in_use_is_named_before_ray_starts(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        driver = _spawn(tmp_path, port, "haproxy")
        _, errors = driver.communicate(timeout=60)
    assert driver.returncode != 0
    assert f"port {port} on 127.0.0.1 cannot be used" in errors
    assert "GCS" not in errors


def test_every_port_but_the_applications_goes_to_loopback() -> None:
    given = """global
    log 127.0.0.1:514 local0 info
    stats socket /run/a.sock mode 666 level admin expose-fd listeners
defaults
    log global
frontend prometheus
    bind :9101
frontend http_frontend
    bind 127.0.0.1:8000
backend b
    server s 10.0.0.1:30000 check
    server t 10.0.0.2:30000 check
    server standing-in 10.0.0.1:9500 check backup
backend none
    http-request return status 404
frontend grpc_frontend
    bind *:9000 proto h2
listen stats
  bind *:8404
"""
    lines = [line.strip() for line in corrected(given, "0.0.0.0", 64, processors=4).splitlines()]
    assert [line for line in lines if line.startswith("bind")] == [
        "bind 127.0.0.1:9101",
        "bind 0.0.0.0:8000",
        "bind 0.0.0.0:9000 proto h2",
        "bind 127.0.0.1:8404",
    ]
    assert "stats socket /run/a.sock mode 600 level admin expose-fd listeners" in lines
    assert not any("514" in line for line in lines)
    assert "server s 10.0.0.1:30000 check" in lines
    bounds = [line for line in lines if "be_conn" in line]
    asks = "if METH_POST !{ path_beg /admin/ }"
    assert bounds[0].endswith(f"{asks} {{ be_conn le 128 }}")
    assert all(f"{asks} {{ be_conn gt 128 }}" in line for line in bounds[1:])
    assert bounds[-1].endswith("{ be_conn gt 1024 }")
    assert lines[lines.index(bounds[0]) - 3] == "backend b"
    assert not any(line.startswith("use-server") for line in lines), "each has a processor, and one for those around it"
    shared = [line.strip() for line in corrected(given, "0.0.0.0", 64, processors=2).splitlines()]
    assert [line for line in shared if line.startswith("use-server")] == [
        "use-server s if { srv_conn(s) lt 3 }",
        "use-server t if { srv_conn(t) lt 3 }",
    ]
    assert next(line for line in shared if "be_conn" in line).endswith("{ be_conn le 64 }"), "they share the places, too"
    assert lines[lines.index("frontend http_frontend") + 1] == "http-request wait-for-body time 30s if METH_POST"
