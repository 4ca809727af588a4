"""The embedded Redis: nothing acknowledged is lost, nothing is left behind, and nobody shares a data directory."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import redis

from store.embedded import DataDirectoryInUse, EmbeddedRedis, ServerFailed
from store.redis_server import NoServer, Server, find_server

_PARENT = """
import sys, time
from pathlib import Path
from store.embedded import EmbeddedRedis
server = EmbeddedRedis(Path(sys.argv[1]))
server.start()
print(server.pid, flush=True)
time.sleep(600)
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "a data directory with 'quotes' and a name longer than what fits into the path of a socket" / "r"


@pytest.fixture
def server(data: Path) -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis(data) as running:
        yield running


def _eventually(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def _write(server: EmbeddedRedis, key: str, value: str) -> None:
    with redis.Redis.from_url(server.url) as client:
        client.set(key, value)


def _read(server: EmbeddedRedis, key: str) -> object:
    with redis.Redis.from_url(server.url, decode_responses=True) as client:
        return client.get(key)


def _append_only_log(data: Path) -> Path:
    """The file that holds the entries: the one log of Redis 6, the increments to a newer server's base."""
    parts = [path for path in data.rglob("*.aof*") if path.is_file() and not path.name.endswith(".manifest")]
    (entries,) = [path for path in parts if path.name.endswith(".incr.aof")] or parts
    return entries


def test_it_answers_on_its_socket_alone_and_fsyncs_always(server: EmbeddedRedis) -> None:
    with redis.Redis.from_url(server.url, decode_responses=True) as client:
        assert client.ping()
        assert client.config_get("appendfsync") == {"appendfsync": "always"}
        assert client.config_get("appendonly") == {"appendonly": "yes"}
        assert client.config_get("save") == {"save": ""}
    assert server.pid is not None
    listening = [c for c in psutil.Process(server.pid).net_connections("inet") if c.status == psutil.CONN_LISTEN]
    assert listening == []
    assert server.socket.parent.stat().st_mode & 0o077 == 0


def test_stop_leaves_the_data_and_nothing_else(data: Path) -> None:
    server = EmbeddedRedis(data)
    server.start()
    pid, directory = server.pid, server.socket.parent
    assert pid is not None
    _write(server, "k", "v")
    server.stop()
    assert not psutil.pid_exists(pid)
    assert not directory.exists()
    with EmbeddedRedis(data) as again:
        assert _read(again, "k") == "v"


def test_a_second_server_on_the_same_data_is_refused(server: EmbeddedRedis, data: Path) -> None:
    with pytest.raises(DataDirectoryInUse, match=f"process {os.getpid()}"):
        EmbeddedRedis(data).start()
    _write(server, "k", "still here")
    assert _read(server, "k") == "still here"


def test_a_killed_server_comes_back_with_all_it_acknowledged(server: EmbeddedRedis) -> None:
    _write(server, "k", "v")
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    assert _eventually(lambda: server.restarts == 1)
    server.ensure_running()
    assert _read(server, "k") == "v"


def test_it_comes_back_in_a_thread_that_outlives_the_caller(server: EmbeddedRedis) -> None:
    first = server.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    assert _eventually(lambda: server.pid not in (None, first))
    server.ensure_running()
    second = server.pid
    time.sleep(0.2)
    assert server.pid == second


def test_a_killed_parent_takes_the_server_along(data: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", _PARENT, str(data)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert psutil.pid_exists(pid)
        parent.kill()
    assert _eventually(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    # The socket and the lock of the killed one do not stand in the way.
    with EmbeddedRedis(data) as again:
        _write(again, "k", "v")


def test_a_stale_socket_is_replaced(data: Path) -> None:
    server = EmbeddedRedis(data)
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(server.socket))
    assert server.socket.exists()
    with server:
        _write(server, "k", "v")


def test_a_log_cut_off_in_the_middle_of_an_entry_loads(data: Path) -> None:
    with EmbeddedRedis(data) as server:
        _write(server, "k", "v")
    log = _append_only_log(data)
    with log.open("ab") as tail:
        tail.write(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$100\r\nhalf")
    with EmbeddedRedis(data) as again:
        assert _read(again, "k") == "v"


def test_a_damaged_log_is_an_error_with_the_servers_own_words(data: Path) -> None:
    with EmbeddedRedis(data) as server:
        for number in range(3):
            _write(server, f"k{number}", "v")
    log = _append_only_log(data)
    content = log.read_bytes()
    log.write_bytes(content[:10] + b"garbage" + content[10:])
    broken = EmbeddedRedis(data)
    with pytest.raises(ServerFailed, match="Bad file format"):
        broken.start()
    assert not broken.socket.exists()
    log.write_bytes(content)
    with EmbeddedRedis(data) as mended:
        assert _read(mended, "k2") == "v"


def test_an_older_server_does_not_start_empty_beside_newer_data(data: Path) -> None:
    (data / "appendonlydir").mkdir(parents=True)
    old = Server(find_server().program, (6, 2))
    with pytest.raises(ServerFailed, match="written by Redis 7 or Valkey"):
        EmbeddedRedis(data, server=old).start()


def test_no_server_at_all_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("store.redis_server._candidates", list[Path])
    with pytest.raises(NoServer, match="install valkey-server or redis-server"):
        find_server()
