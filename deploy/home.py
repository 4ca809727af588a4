"""A platform's home directory: who runs it now, and the operators' token."""

import contextlib
import fcntl
import os
import secrets
from pathlib import Path
from typing import IO

from pydantic import BaseModel, ConfigDict

from store.keys import Key

_NEW_KEYS = "new-keys"


class AlreadyRunning(RuntimeError):
    """A platform works in this home directory."""


class NotRunning(RuntimeError):
    """No platform works in this home directory."""


class Running(BaseModel):
    """What `up` leaves for the other commands."""

    model_config = ConfigDict(frozen=True)

    pid: int
    url: str
    redis_url: str
    specs: tuple[str, ...]
    stage: str = "starting"
    ready: bool = False


class Home:
    """The directory; whoever holds its lock is the platform, and the lock ends with the process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: IO[str] | None = None

    def take(self) -> None:
        """Become the platform of this home.

        Raises:
            AlreadyRunning: another process is.
        """
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = open(self.path / "lock", "a")  # noqa: SIM115 - held until the process ends
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            handle.close()
            running = self.running()
            where = f" at {running.url}, process {running.pid}" if running else ""
            raise AlreadyRunning(f"a platform is already running in {self.path}{where}; 'tidemill down' stops it") from None
        self._lock = handle
        self._state.unlink(missing_ok=True)

    def leave(self) -> None:
        """Be the platform no longer; does nothing for whoever is not."""
        if self._lock is not None:
            self._state.unlink(missing_ok=True)
            self._lock.close()
            self._lock = None

    def tell(self, running: Running) -> None:
        """Let the other commands know, whole or not at all."""
        draft = self._state.with_suffix(".new")
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:  # a Redis URL has its password
            file.write(running.model_dump_json())
        draft.replace(self._state)

    def running(self) -> Running | None:
        """What the running platform told, or None where none runs."""
        if not self._state.exists() or not self._locked():
            return None
        try:
            return Running.model_validate_json(self._state.read_text())
        except (OSError, ValueError):
            return None

    def expect(self) -> Running:
        running = self.running()
        if running is None:
            raise NotRunning(f"no platform is running in {self.path}; 'tidemill up' starts one")
        return running

    def token(self) -> str:
        """The operators' token; made at first use, readable by this user alone."""
        path = self.path / "token"
        try:
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(secrets.token_urlsafe(32))
        except FileExistsError:
            pass
        return path.read_text().strip()

    def keep_key(self, key: Key) -> None:
        """Keep a key, which has no text of its own, until the platform starts and takes it."""
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        with open(os.open(self.path / _NEW_KEYS, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "w") as file:
            file.write(key.model_dump_json() + "\n")

    def kept_keys(self) -> list[Key]:
        """The keys that were made before the platform started; `drop_kept_keys` when it has them."""
        with contextlib.suppress(FileNotFoundError):
            return [Key.model_validate_json(line) for line in (self.path / _NEW_KEYS).read_text().splitlines()]
        return []

    def drop_kept_keys(self) -> None:
        (self.path / _NEW_KEYS).unlink(missing_ok=True)

    def _locked(self) -> bool:
        try:
            with open(self.path / "lock") as handle:
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except OSError:
            return True
        return False

    @property
    def _state(self) -> Path:
        return self.path / "platform.json"
