"""Clears away what is left of a local Ray when the process that started it is gone, however it went.

Every process of that Ray writes to a file in the run's directory, if only its log: that is how they are known. (Their
environment would not do: Ray's workers write their titles over it.) Run as a script, this file waits for its parent to
end, kills those processes and removes the directory; it imports only the standard library's small modules.
"""

import contextlib
import os
import shutil
import signal
import stat
import sys
import time
from collections.abc import Sequence

_LOOK = 0.2
_PATIENCE = 5.0


def sweep(directory: str, keep_logs: str = "") -> list[int]:
    """Kill the run's processes and remove its directory, its logs moved to `keep_logs`; return who would not die."""
    deadline = time.monotonic() + _PATIENCE
    while (left := _writers(directory)) and time.monotonic() < deadline:
        for process in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.02)
    if keep_logs:
        _keep_logs(directory, keep_logs)
    shutil.rmtree(directory, ignore_errors=True)
    return left


def _writers(directory: str) -> list[int]:
    """Who writes below `directory`, without this process. Needs /proc: elsewhere Ray's own reaper must do."""
    everybody = os.listdir("/proc") if os.path.isdir("/proc/self/fd") else []
    return [int(name) for name in everybody if name.isdigit() and int(name) != os.getpid() and _writes(name, directory)]


def _writes(process: str, directory: str) -> bool:
    # Other users' processes cannot be looked into, and any may end at any moment.
    with contextlib.suppress(OSError), os.scandir(f"/proc/{process}/fd") as files:
        for file in files:
            with contextlib.suppress(OSError):
                # Somebody who only reads a log, with a pager perhaps, is no part of the run.
                if os.readlink(file.path).startswith(f"{directory}/") and os.lstat(file.path).st_mode & stat.S_IWUSR:
                    return True
    return False


def _keep_logs(directory: str, keep_logs: str) -> None:
    logs = os.path.join(directory, "ray", "session_latest", "logs")
    if os.path.isdir(logs):
        with contextlib.suppress(OSError):
            shutil.rmtree(keep_logs, ignore_errors=True)
            shutil.move(os.path.realpath(logs), keep_logs)


def _main(arguments: Sequence[str]) -> None:
    parent, directory, keep_logs = int(arguments[0]), *arguments[1:]
    # Whoever stops the parent may well stop the whole group: this is the one that stays to the end.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while os.getppid() == parent:
        time.sleep(_LOOK)
    sweep(directory, keep_logs)


if __name__ == "__main__":
    _main(sys.argv[1:])
