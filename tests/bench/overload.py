"""Three times as many requests as can be answered: what is answered, how late, what becomes of the others, and afterwards."""

import asyncio
import math
from collections import Counter
from threading import Event, Thread
from time import perf_counter, sleep

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

from deploy.client import Client
from deploy.home import Running
from tests.bench import open_loop
from tests.bench.open_loop import Answers
from tests.bench.serving import BARE_BODY, BODY, MODEL, deploy_bare, first_artefact
from tests.bench.verdict import Verdict, say

CONNECTIONS = 32
PROCESSES = 2
NICENESS = 5
TIMES = 3.0
GOODPUT, ADMITTED, RECOVERY_S = 0.8, 4.0, 5.0
WINDOW_S, STEADY = 1.0, 2
"""Latencies are back at the first of so many windows in a row."""

console = Console(width=120)


def overload(running: Running, client: Client, seconds: float = 30.0) -> None:
    """Capacity at 32 connections; half of it; three times it; half of it again, from the moment at which the overload ends."""
    url = f"{running.url}/models/{MODEL}/predict"
    replicas = [psutil.Process(report["pid"]) for report in client.status()["replicas"]]
    open_loop.run(url, BODY, 3.0, connections=CONNECTIONS)
    full = open_loop.run(url, BODY, seconds / 3, connections=CONNECTIONS)
    capacity = _rate(full, seconds / 3)
    before = open_loop.run(url, BODY, seconds / 3, rate=capacity / 2)
    memory = _Memory(replicas)
    with memory:
        # A flood's clients have machines of their own: here they give way to what they flood, and it is said if they are late.
        flood = open_loop.start(url, BODY, seconds, rate=TIMES * capacity, processes=PROCESSES, niceness=NICENESS)
        ends = flood.begins + seconds
        sleep(max(0.0, ends - open_loop.READY_S - perf_counter()))
        calm = open_loop.start(url, BODY, 2 * RECOVERY_S, rate=capacity / 2, begins=ends)
        flooded, after = flood.wait(), calm.wait()
    again = open_loop.run(url, BODY, seconds / 3, connections=CONNECTIONS)
    _show(
        {
            "at capacity, 32 connections": full,
            "at half of it": before,
            f"at {TIMES:g} times": flooded,
            "half, after": after,
            "at capacity again": again,
        }
    )
    _refused(flooded)
    memory.show()
    _bare(running, seconds / 3)
    recovered = _recovered(before, after)
    if flooded.generator_late:
        console.print("[red]The load generator was itself late: the overload was less than it was to be.[/red]")
    slower = flooded.good.quantile_ms(0.99) / full.quantile_ms(0.99)
    # A shared machine is not as fast in one half minute as in the next.
    around = (capacity + _rate(again, seconds / 3)) / 2
    say(
        Verdict("goodput against capacity, before and after", _rate(flooded, seconds) / around, "over", GOODPUT),
        Verdict("p99 of what was admitted against that at capacity", slower, "under", ADMITTED),
        Verdict("seconds until latencies are back", recovered, "under", RECOVERY_S),
    )


def _bare(running: Running, seconds: float) -> None:
    """What the machine leaves of a deployment that neither logs nor refuses, under three times its own rate."""
    deploy_bare("bare", *asyncio.run(first_artefact(running)))
    url = f"{running.url}/bare"
    open_loop.run(url, BARE_BODY, 3.0, connections=CONNECTIONS)
    capacity = _rate(open_loop.run(url, BARE_BODY, seconds, connections=CONNECTIONS), seconds)
    flood = open_loop.start(url, BARE_BODY, seconds, rate=TIMES * capacity, processes=PROCESSES, niceness=NICENESS)
    flooded = flood.wait()
    console.print(
        f"A bare deployment that refuses nothing, at {TIMES:g} times its own {capacity:.0f} requests/s: "
        f"{_rate(flooded, seconds) / capacity:.2f} of that, p99 {flooded.good.quantile_ms(0.99):.0f} ms"
    )


def _show(loads: dict[str, Answers]) -> None:
    table = Table("load", "asked/s", "answered/s", "p50 ms", "p99 ms", "left late, p99 ms", "generators", title="Overload")
    for name, load in loads.items():
        seconds, good = float(load.due_s.max()), load.good
        late = float(np.quantile(load.late_s, 0.99)) * 1000
        busy = ", ".join(f"{share:.0%}" for share in load.busy)
        rates = (f"{len(load.status) / seconds:.0f}", f"{len(good.status) / seconds:.0f}")
        table.add_row(name, *rates, f"{good.quantile_ms(0.5):.1f}", f"{good.quantile_ms(0.99):.1f}", f"{late:.1f}", busy)
    console.print(table)


def _refused(load: Answers) -> None:
    refused = load.only(load.status // 100 != 2)
    counts = Counter(int(status) for status in refused.status)
    polite = np.isin(refused.status, (429, 503)) & (refused.retry == 1)
    what = ", ".join(f"{status or 'nothing'}: {count:,}" for status, count in sorted(counts.items())) or "none"
    console.print(
        f"Refused: {what}; {polite.mean() if len(polite) else 1.0:.1%} with 429 or 503 and Retry-After, "
        f"p50 {refused.quantile_ms(0.5):.1f} ms, p99 {refused.quantile_ms(0.99):.1f} ms"
    )


def _rate(load: Answers, seconds: float) -> float:
    return len(load.good.status) / seconds


def _windows(load: Answers) -> list[Answers]:
    window = (load.due_s / WINDOW_S).astype(int)
    return [load.only(window == number) for number in range(int(window.max()) + 1)]


def _recovered(before: Answers, after: Answers) -> float:
    """Seconds from the overload's end until the median and 90th percentile are what they were before, and none fails.

    What they were: up to 1.5 times those of nine in ten of the seconds before.
    """
    bounds = [1.5 * float(np.quantile([part.quantile_ms(q) for part in _windows(before)], 0.9)) for q in (0.5, 0.9)]
    steady = 0
    for number, part in enumerate(_windows(after)):
        slow = any(part.quantile_ms(q) > bound for q, bound in zip((0.5, 0.9), bounds, strict=True))
        steady = 0 if slow or np.any(part.status != 200) else steady + 1
        if steady == STEADY:
            return (number + 1 - STEADY) * WINDOW_S
    return math.inf


class _Memory:
    """The replicas' resident memory, looked at all the time."""

    def __init__(self, processes: list[psutil.Process]) -> None:
        self._processes, self._stop = processes, Event()
        self._thread = Thread(target=self._watch, daemon=True)
        self._mib: list[float] = []

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.2):
            self._mib.append(sum(process.memory_info().rss for process in self._processes) / 2**20)

    def show(self) -> None:
        first, most, last = self._mib[0], max(self._mib), self._mib[-1]
        console.print(f"Resident memory of the replicas: {first:.0f} MiB before, {most:.0f} at most, {last:.0f} after")
