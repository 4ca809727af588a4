"""Long work beside serving gives way to it: it is nice, and naps while others have work for the processors."""

import atexit
import os
import signal
import sys
import threading
from time import monotonic, sleep

import psutil

NICENESS = 10

_TURN_S = 0.01
"""How long is worked, and how long a nap is. A processor that never rests has its host, where it is a virtual one, make it wait
for others at a time of the host's choosing, and what is served waits with it: beside a process that only counts, at whatever
niceness, the p99 of predictions is about twice that alone; beside one with naps of 10 ms it is a tenth or two more. Those of
50 ms come too seldom."""

_LOOK_S = 0.25
_OTHERS = 0.2
"""Processors that others keep busy: a platform that nobody calls takes less."""


def give_way() -> None:
    """Let serving go first from now on: this process, and what it starts has its niceness.

    Naps are taken in the main thread, and where there are timers of processor time (Linux); elsewhere there are none.
    """
    os.setpriority(os.PRIO_PROCESS, 0, NICENESS)
    if sys.platform == "linux" and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGVTALRM, Naps())
        signal.siginterrupt(signal.SIGVTALRM, False)
        # The interpreter takes its handlers down before it ends, and what the timer says then would kill it.
        atexit.register(signal.setitimer, signal.ITIMER_VIRTUAL, 0.0)
        signal.setitimer(signal.ITIMER_VIRTUAL, _TURN_S, _TURN_S)


class Naps:
    """What the timer calls after each turn of processor time: sleeps as long, if others have work for the processors."""

    def __init__(self) -> None:
        self._others = False
        self._at, self._busy_s = monotonic(), _busy_s()

    def __call__(self, *_: object) -> None:
        if (now := monotonic()) - self._at > _LOOK_S:
            busy_s = _busy_s()
            self._others = busy_s - self._busy_s > _OTHERS * (now - self._at)
            self._at, self._busy_s = now, busy_s
        if self._others:
            sleep(_TURN_S)


def _busy_s() -> float:
    """Processor seconds of all that is not nice, as this process and its like are."""
    times = psutil.cpu_times()
    return times.user + times.system + times.irq + times.softirq
