"""One run at a time in a folder."""

import contextlib
import fcntl
from collections.abc import Generator
from pathlib import Path

from tuning.errors import TuningError


@contextlib.contextmanager
def alone(folder: Path, otherwise: str) -> Generator[None]:
    """Work in a folder that nobody else works in; the lock ends with the process.

    Raises:
        TuningError: somebody does; it says what to do `otherwise`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "a", encoding="ascii") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise TuningError(f"another run works in {folder}: wait for it, or {otherwise}") from None
        yield
