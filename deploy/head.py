"""What to do when Ray's head dies under a driver: Ray itself leaves it waiting, for a minute or for good, and says nothing."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Generator

import psutil

_LOOK_S, _PATIENCE_S = 0.5, 10.0
_HEAD = ("gcs_server", "raylet")


class HeadDied(RuntimeError):
    """A process of Ray's head has ended."""


@contextlib.contextmanager
def watched_head(advice: str) -> Generator[None]:
    """Watch the head that this process has started; only from the main thread, which is interrupted when the head dies.

    Where Ray does not let go of the main thread even then, the process says so and ends; its reaper ends what Ray left.

    Args:
        advice: what to do then, for the error's text.

    Raises:
        HeadDied: it died.
    """
    head = [one for one in psutil.Process().children() if one.name() in _HEAD]
    main, over, died = threading.get_ident(), threading.Event(), list[str]()

    def watch() -> None:
        while not over.wait(_LOOK_S):
            if gone := [one for one in head if _ended(one)]:
                died.append(f"Ray's head has died (process {gone[0].pid}): {advice}")
                signal.pthread_kill(main, signal.SIGINT)  # which wakes it where it sleeps
                if not over.wait(_PATIENCE_S):
                    print(died[0], file=sys.stderr, flush=True)
                    os._exit(1)
                return

    watching = threading.Thread(target=watch, daemon=True, name="ray-head")
    watching.start()
    try:
        yield
        if any(map(_ended, head)):  # what Ray made of that is no result
            died.append(f"Ray's head has died: {advice}")
            raise HeadDied(died[0])
    except BaseException as error:
        if died:
            raise HeadDied(died[0]) from error
        raise
    finally:
        over.set()
        watching.join()


def _ended(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
