"""Child processes that die with their parent, even when the parent is killed with SIGKILL.

On Linux the kernel delivers a signal to the child when its parent goes (PR_SET_PDEATHSIG). The setting is made in the
child by a launcher, this very file run as a script, which then becomes the command by exec: the process id stays the
same and nothing of ours remains in it. Elsewhere the launcher only execs.

The kernel means the *thread* that forked: start long-lived children from a thread that lives as long as they should.
This file imports only the standard library's small modules, because it starts within milliseconds and without site
packages.
"""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, NoReturn, cast

_PR_SET_PDEATHSIG = 1
_NOT_STARTED = 127


def command(parent: int, arguments: Sequence[str]) -> list[str]:
    """The command line that runs `arguments` tied to the process `parent`, which must be the one that starts it."""
    return [sys.executable, "-I", "-S", os.path.abspath(__file__), str(parent), "--", *arguments]


def spawn(arguments: Sequence[str], **options: Any) -> "subprocess.Popen[bytes]":
    """Start a child tied to this process; `options` are those of subprocess.Popen."""
    return cast("subprocess.Popen[bytes]", subprocess.Popen(command(os.getpid(), arguments), **options))


def tie_to(parent: int) -> None:
    """Have the kernel kill this process when `parent` dies; exits at once if that has happened already."""
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl(PR_SET_PDEATHSIG) failed: {os.strerror(number)}")
    # A parent that died before the call above never triggers the signal: by then this process has another parent.
    if os.getppid() != parent:
        os._exit(_NOT_STARTED)


def _main(arguments: Sequence[str]) -> NoReturn:
    if len(arguments) < 3 or arguments[1] != "--":
        sys.exit("usage: tether.py PARENT_PID -- COMMAND [ARGUMENT…]")
    tie_to(int(arguments[0]))
    try:
        os.execvp(arguments[2], list(arguments[2:]))
    except OSError as error:
        print(f"{arguments[2]} cannot be started: {error}", file=sys.stderr)
        sys.exit(_NOT_STARTED)


if __name__ == "__main__":
    _main(sys.argv[1:])
