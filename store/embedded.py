"""A Redis of our own for one machine: found, started, kept running and stopped together with this process.

Every write is on disk before Redis answers (`appendfsync always`), so killing the server, this process or the machine
loses nothing that was acknowledged. Under that setting Redis exits when the disk is full; it is then started again,
with growing pauses, on the same socket.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import stat
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from store import tether
from store.errors import StoreError
from store.redis_server import Server, find_server

_FIRST_BACKOFF, _LONGEST_BACKOFF = 0.1, 5.0
# A server that lived this long failed for a new reason: the pauses start small again.
_SETTLED = 30.0
_LOCK_PATIENCE = 2.0
_STOP_PATIENCE = 10.0
_LOG_LIMIT = 8 * 2**20
_LOG_TAIL = 8


class DataDirectoryInUse(StoreError):
    """Another server works on this data directory."""


class ServerFailed(StoreError):
    """The server ended instead of answering."""


def socket_directory(name: str) -> Path:
    """A directory for sockets, private to this user and with a short path, as socket paths end at about 104 bytes.

    The same name gives the same directory, so what a killed process left there is found and cleared by its successor.
    """
    digest = hashlib.sha256(name.encode()).hexdigest()[:12]
    base = Path("/tmp") if os.access("/tmp", os.W_OK) else Path(tempfile.gettempdir())
    directory = base / f"tidemill-{os.getuid()}-{digest}"
    with contextlib.suppress(FileExistsError):
        directory.mkdir(mode=0o700)
    about = directory.lstat()
    # In a directory that everybody may write to, somebody else could have made this one first.
    if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.getuid() or about.st_mode & 0o077:
        raise StoreError(f"{directory} must be a directory that only this user can enter: remove it and start again")
    return directory


class EmbeddedRedis:
    """A server on one data directory, from `start` to `stop`; also a context manager.

    A thread of its own starts the server, because the kernel ties a child to the thread that started it.
    """

    def __init__(
        self,
        data_directory: Path,
        *,
        server: Server | None = None,
        on_progress: Callable[[str], None] | None = None,
    ) -> None:
        self._data = data_directory
        self._server = server
        self._on_progress = on_progress
        self._lock: IO[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._keeper: threading.Thread | None = None
        self._stopping = threading.Event()
        self._started = threading.Event()
        self._failure: BaseException | None = None
        self._answered = False
        self._log_offset = 0
        self.restarts = 0

    @property
    def log(self) -> Path:
        return self._data / "redis.log"

    @property
    def socket(self) -> Path:
        return socket_directory(str(self._data.resolve())) / "redis.sock"

    @property
    def url(self) -> str:
        """What redis.from_url takes; the same before and after a restart."""
        return f"unix://{self.socket}"

    @property
    def pid(self) -> int | None:
        """The server's process, or None while there is none."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the server and wait until it answers, however long it takes to load its log."""
        if self._keeper is not None:
            return
        self._data.mkdir(parents=True, exist_ok=True)
        self._server = self._server or find_server()
        self._refuse_newer_data(self._server)
        self._lock = _lock(self._data)
        self._stopping.clear()
        self._started.clear()
        self._failure, self._answered = None, False
        self._keeper = threading.Thread(target=self._keep, name="embedded-redis", daemon=True)
        self._keeper.start()
        try:
            self._started.wait()
            if self._failure is not None:
                raise self._failure
            self.ensure_running(timeout=None)
        except BaseException:
            self.stop()
            raise

    def ensure_running(self, timeout: float | None = 30.0) -> None:
        """Wait until the server answers; fails when it ended during its first start, or after `timeout` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        told = ""
        with contextlib.closing(self._client()) as client:
            while (state := _state(client)) != "":
                if self._stopping.is_set() or self._failure is not None:
                    raise self._failure or ServerFailed(f"the Redis on {self._data} has been stopped")
                if deadline is not None and time.monotonic() > deadline:
                    raise ServerFailed(f"the Redis on {self._data} does not answer: {state}{self._last_words()}")
                if self._on_progress is not None and state not in ("starting", told):
                    self._on_progress(state)
                    told = state
                time.sleep(0.02)
        self._answered = True

    def stop(self) -> None:
        """End the server and remove its socket; what was acknowledged stays in the data directory."""
        self._stopping.set()
        if self._keeper is not None:
            self._keeper.join()
            self._keeper = None
            # Only the owner of the lock may clear the socket: without it, this is another server's.
            shutil.rmtree(self.socket.parent, ignore_errors=True)
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _refuse_newer_data(self, server: Server) -> None:
        # Redis 6 would not look into the folder that Redis 7 and Valkey keep their log in, and start empty.
        if server.version < (7, 0) and (self._data / "appendonlydir").exists():
            raise ServerFailed(
                f"{self._data} was written by Redis 7 or Valkey, and {server.program} is version "
                f"{server.version[0]}.{server.version[1]}: put the newer server on PATH, or use another data directory"
            )

    def _keep(self) -> None:
        """Run the server until `stop`: one pass of the loop is one life of it."""
        backoff = _FIRST_BACKOFF
        try:
            while not self._stopping.is_set():
                born = time.monotonic()
                self._process = self._spawn()
                self._started.set()
                self._watch(self._process)
                if self._stopping.is_set():
                    return
                if not self._answered:
                    raise ServerFailed(
                        f"the Redis on {self._data} ended with status {self._process.returncode} before it answered: "
                        f"see {self.log} and mend what its last lines name{self._last_words()}"
                    )
                backoff = _FIRST_BACKOFF if time.monotonic() - born > _SETTLED else backoff
                self._stopping.wait(backoff)
                backoff = min(2 * backoff, _LONGEST_BACKOFF)
                self.restarts += 1
        except BaseException as error:
            self._failure = error
        finally:
            self._started.set()

    def _watch(self, process: "subprocess.Popen[bytes]") -> None:
        """Return when the server has ended, by itself or because of `stop`."""
        while process.poll() is None and not self._stopping.wait(0.05):
            pass
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(_STOP_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _spawn(self) -> "subprocess.Popen[bytes]":
        assert self._lock is not None and self._server is not None  # noqa: PT018 - `start` has set both
        socket = self.socket
        socket.unlink(missing_ok=True)
        if self.log.exists() and self.log.stat().st_size > _LOG_LIMIT:
            self.log.replace(self.log.with_suffix(".log.1"))
        with self.log.open("ab") as log:
            self._log_offset = log.tell()
            # The server inherits the lock: while it lives, even longer than this process, nobody else gets in.
            return tether.spawn(
                self._arguments(self._server.program, socket),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[self._lock.fileno()],
                # A Ctrl-C in the terminal is for this process, which stops the server in its own time.
                start_new_session=True,
            )

    def _arguments(self, program: Path, socket: Path) -> Sequence[str]:
        settings = {
            "port": "0",
            "unixsocket": str(socket),
            "unixsocketperm": "700",
            "dir": str(self._data.resolve()),
            "logfile": str(self.log.resolve()),
            "daemonize": "no",
            "save": "",
            "appendonly": "yes",
            "appendfsync": "always",
            # A log cut off by a power failure ends in half an entry, which nobody was told had been written.
            "aof-load-truncated": "yes",
            "auto-aof-rewrite-min-size": "512mb",
            "maxmemory-policy": "noeviction",
        }
        return [str(program), *(part for name, value in settings.items() for part in (f"--{name}", value))]

    def _client(self) -> Any:
        return redis.Redis(
            unix_socket_path=str(self.socket),
            socket_timeout=5.0,
            retry=Retry(NoBackoff(), 0),
            decode_responses=True,
        )

    def _last_words(self) -> str:
        with contextlib.suppress(OSError), self.log.open("rb") as log:
            log.seek(self._log_offset)
            lines = log.read()[-4096:].decode(errors="replace").splitlines()[-_LOG_TAIL:]
            return "".join(f"\n    {line}" for line in lines)
        return ""


def _lock(data: Path) -> IO[str]:
    """Hold the data directory; a killed process and its server let go of it within moments, so wait for those."""
    lock = (data / "tidemill.lock").open("a+")
    deadline = time.monotonic() + _LOCK_PATIENCE
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except OSError:
            if time.monotonic() > deadline:
                lock.seek(0)
                holder = lock.read().strip()
                lock.close()
                raise DataDirectoryInUse(
                    f"a Redis started by process {holder or '(unknown)'} works on {data}: stop it, or name another "
                    "data directory"
                ) from None
            time.sleep(0.05)
    lock.truncate(0)
    lock.write(f"{os.getpid()}\n")
    lock.flush()
    return lock


def _state(client: Any) -> str:
    """Empty when the server answers, else what it is doing."""
    try:
        client.ping()
        return ""
    except redis.BusyLoadingError:
        with contextlib.suppress(redis.RedisError, KeyError):  # KeyError: it has just finished
            return f"loading its log, {float(client.info('persistence')['loading_loaded_perc']):.0f} %"
        return "loading its log"
    except (redis.ConnectionError, redis.TimeoutError):
        return "starting"
    except redis.RedisError as error:
        return str(error)
