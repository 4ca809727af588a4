"""Work that gives way to what is served beside it."""

import signal
import subprocess
import sys
import threading
from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from trainer import giving_way
from trainer.giving_way import NICENESS, Naps

AT_WORK = f"""
import os, time
from trainer import giving_way
from trainer.giving_way import give_way

slept = []
giving_way._busy_s = lambda: time.monotonic()  # a processor is kept busy by others
giving_way.sleep = slept.append
give_way()
assert os.getpriority(os.PRIO_PROCESS, 0) == {NICENESS}
while len(slept) < 5:
    sum(range(1000))
print(set(slept) == {{giving_way._TURN_S}})
"""


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What time it is, how busy the processors were, and the naps that were taken."""
    machine = SimpleNamespace(now=0.0, busy_s=0.0, naps=0)

    def nap(_: float) -> None:
        machine.naps += 1

    monkeypatch.setattr(giving_way, "monotonic", lambda: machine.now)
    monkeypatch.setattr(giving_way, "_busy_s", lambda: machine.busy_s)
    monkeypatch.setattr(giving_way, "sleep", nap)
    return machine


@pytest.mark.parametrize(("others", "naps"), [(0.0, 0), (0.1, 0), (0.5, 84), (2.0, 84)])
def test_naps_are_taken_while_others_have_work(machine: SimpleNamespace, others: float, naps: int) -> None:
    naps_taken = Naps()
    for _ in range(100):  # naps begin with the first look, after a quarter of a second
        machine.now += 1 / 64
        machine.busy_s += others / 64
        naps_taken()
    assert machine.naps == naps


def test_naps_end_when_the_others_do(machine: SimpleNamespace) -> None:
    naps = Naps()
    for at in range(200):
        machine.now += 1 / 64
        machine.busy_s += 1 / 64 if at < 100 else 0.0
        naps()
        if at == 150:
            machine.naps = 0
    assert machine.naps == 0


@pytest.mark.skipif(sys.platform != "linux", reason="where there are timers of processor time")
def test_a_process_at_work_takes_naps() -> None:
    said = subprocess.run([sys.executable, "-c", AT_WORK], capture_output=True, text=True, check=True, timeout=60)
    assert said.stdout.strip() == "True"


def test_outside_the_main_thread_there_is_niceness_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(giving_way.os, "setpriority", Mock())
    before = signal.getsignal(signal.SIGVTALRM)
    thread = threading.Thread(target=giving_way.give_way)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGVTALRM) is before
