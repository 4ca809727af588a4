"""Load at a constant rate, from processes of its own: a request leaves when its time has come, whatever became of those before.

Latencies are counted from the intended moment, so a server that stalls is charged for all who would have come meanwhile. The
file is also the program that each process runs; it imports little.
"""

import argparse
import asyncio
import math
import os
import subprocess
import sys
from array import array
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, process_time
from typing import Self, cast

import numpy as np
import uvloop

from tests.bench.wire import answered, asking

ROOT = Path(__file__).parents[2]
READY_S = 1.5
"""How long before the load begins its processes are started."""

_PATIENCE_S = 15.0
_MOST_CONNECTIONS = 600
"""Of one process; a request that finds none idle waits for one, and its latency counts from when it should have left."""


@dataclass(frozen=True)
class Answers:
    """What a load saw, in the order of the answers.

    Attributes:
        due_s: when each request was to leave, in seconds from the beginning.
        late_s: how much later its turn came: the load generator's own delay, without the wait for an idle connection.
        latency_s: from `due_s` to the whole answer.
        status: of HTTP; 0 where the connection broke or nothing came.
        retry: whether the answer said when to come again.
        busy: each process's share of a processor.
    """

    due_s: np.ndarray
    late_s: np.ndarray
    latency_s: np.ndarray
    status: np.ndarray
    retry: np.ndarray
    busy: np.ndarray

    @classmethod
    def together(cls, parts: "Sequence[Mapping[str, np.ndarray]]") -> Self:
        return cls(**{field.name: np.concatenate([part[field.name] for part in parts]) for field in fields(cls)})

    def only(self, rows: np.ndarray) -> "Answers":
        """Those of the requests [requests] that are marked."""
        return replace(self, **{field.name: getattr(self, field.name)[rows] for field in fields(self)[:-1]})

    @property
    def good(self) -> "Answers":
        return self.only(self.status // 100 == 2)

    def quantile_ms(self, q: float) -> float:
        return float(np.quantile(self.latency_s, q)) * 1000.0 if len(self.latency_s) else math.nan

    @property
    def generator_late(self) -> bool:
        """Whether the load was not what it was to be, because its own processes could not keep up."""
        return bool(np.quantile(self.late_s, 0.99) > 0.05 or self.busy.max() > 0.9)


class Running:
    """A load that runs in its processes."""

    def __init__(self, command: list[str], body: bytes, firsts: list[float]) -> None:
        self.begins = firsts[0]
        self._folder = TemporaryDirectory(prefix="tidemill-load-")
        self._seen = [Path(self._folder.name) / f"{number}.npz" for number in range(len(firsts))]
        asked = Path(self._folder.name) / "body"
        asked.write_bytes(body)
        self._processes: list[subprocess.Popen[bytes]] = []
        for seen, first in zip(self._seen, firsts, strict=True):
            with asked.open("rb") as content:
                own = [f"--begins={first!r}", f"--seen={seen}"]
                self._processes.append(subprocess.Popen([*command, *own], stdin=content, cwd=ROOT))

    def wait(self) -> Answers:
        with self._folder:
            if any([process.wait() for process in self._processes]):
                raise RuntimeError("a process of the load generator failed")
            return Answers.together([np.load(seen) for seen in self._seen])


def start(url: str, body: bytes, seconds: float, *, rate: float = 0.0, connections: int = 0, processes: int = 1,
          begins: float | None = None, niceness: int = 0) -> Running:  # fmt: skip
    """Start a load: `rate` requests a second, or, without one, `connections` that each send when they have their answer.

    Args:
        begins: by this machine's monotonic clock, at least READY_S from now; it is that by default.
        niceness: of the load's processes; what they are late by is part of the latencies.
    """
    begins = begins if begins is not None else perf_counter() + READY_S
    command = [
        sys.executable, "-m", "tests.bench.open_loop", url, f"--seconds={seconds}", f"--rate={rate / processes}",
        f"--connections={connections // processes}", f"--niceness={niceness}",
    ]  # fmt: skip
    # The processes take turns, so that together they are one even stream.
    return Running(command, body, [begins + (number / rate if rate else 0.0) for number in range(processes)])


def run(url: str, body: bytes, seconds: float, *, rate: float = 0.0, connections: int = 0, processes: int = 1) -> Answers:
    return start(url, body, seconds, rate=rate, connections=connections, processes=processes).wait()


class _Generator:
    """One process's share of a load. `seen` has a column for each of the answers' fields but `busy`."""

    def __init__(self, url: str, body: bytes, begins: float, ends: float, rate: float) -> None:
        self._address, self.bytes = asking(url, body)
        self.seen = {field.name: array("d") for field in fields(Answers)[:-1]}
        self._begins, self._ends, self._rate = begins, ends, rate
        self._connections: set[_Connection] = set()
        self._idle: list[_Connection] = []
        self._opening: set[asyncio.Task[None]] = set()
        self._waiting: deque[tuple[float, float]] = deque()

    async def pour(self) -> None:
        """Send at the rate until the end."""
        sent, count = 0, int((self._ends - self._begins) * self._rate)
        while sent < count:
            due = min(count, int((perf_counter() - self._begins) * self._rate) + 1)
            while sent < due:
                self._ask(self._begins + sent / self._rate)
                sent += 1
            await asyncio.sleep(max(0.001, self._begins + sent / self._rate - perf_counter()))

    async def circle(self, connections: int) -> None:
        """Keep so many connections busy until the end."""
        for _ in range(connections):
            self._ask(perf_counter())
        await asyncio.sleep(self._ends - perf_counter())

    async def settle(self) -> None:
        """Wait for the last answers; those that do not come are noted as such."""
        until = perf_counter() + _PATIENCE_S
        while (self._waiting or any(one.request for one in self._connections)) and perf_counter() < until:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        for request in [*self._waiting, *(one.request for one in self._connections if one.request)]:
            self.note(*request, 0, False)

    def _ask(self, due: float) -> None:
        request = due, perf_counter() - due
        if self._idle:
            self._idle.pop().send(request)
            return
        self._waiting.append(request)
        if len(self._opening) < len(self._waiting) and len(self._opening) + len(self._connections) < _MOST_CONNECTIONS:
            opening = asyncio.create_task(self._connect())
            self._opening.add(opening)
            opening.add_done_callback(self._opening.discard)

    async def _connect(self) -> None:
        try:
            await asyncio.get_running_loop().create_connection(lambda: _Connection(self), *self._address)
        except OSError:
            if self._waiting:
                self.note(*self._waiting.popleft(), 0, False)

    def opened(self, connection: "_Connection") -> None:
        self._connections.add(connection)
        self.free(connection)

    def free(self, connection: "_Connection") -> None:
        if self._waiting:
            connection.send(self._waiting.popleft())
        elif not self._rate and (now := perf_counter()) < self._ends:
            connection.send((now, 0.0))
        else:
            self._idle.append(connection)

    def lost(self, connection: "_Connection") -> None:
        self._connections.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        if not self._rate and (now := perf_counter()) < self._ends:
            self._ask(now)

    def note(self, due: float, late: float, status: int, retry: bool) -> None:
        row = (due - self._begins, late, perf_counter() - due, status, retry)
        for column, value in zip(self.seen.values(), row, strict=True):
            column.append(value)


class _Connection(asyncio.Protocol):
    """`request` is the one at work: when it was to leave, and how late it did."""

    def __init__(self, generator: _Generator) -> None:
        self._generator = generator
        self._buffer = b""
        self.request: tuple[float, float] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._generator.opened(self)

    def send(self, request: tuple[float, float]) -> None:
        self.request = request
        self._transport.write(self._generator.bytes)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if (answer := answered(self._buffer)) is None:
            return
        head, _ = answer
        self._buffer = b""
        if self.request is not None:
            self._generator.note(*self.request, int(head[9:12]), b"\r\nretry-after:" in head)
        self.request = None
        if b"\r\nconnection: close" in head:
            self._transport.close()
        else:
            self._generator.free(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.request is not None:
            self._generator.note(*self.request, 0, False)
        self._generator.lost(self)


async def _generate(generator: _Generator, begins: float, rate: float, connections: int) -> float:
    """Return the share of a processor that the load took."""
    await asyncio.sleep(begins - perf_counter())
    used, started = process_time(), perf_counter()
    await (generator.pour() if rate else generator.circle(connections))
    busy = (process_time() - used) / (perf_counter() - started)
    await generator.settle()
    return busy


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    for name in ("begins", "seconds", "rate"):
        parser.add_argument(f"--{name}", type=float, required=True)
    parser.add_argument("--connections", type=int, required=True)
    parser.add_argument("--niceness", type=int, default=0)
    parser.add_argument("--seen", required=True)
    given = parser.parse_args()
    os.nice(given.niceness)
    body = sys.stdin.buffer.read()

    async def generate() -> tuple[_Generator, float]:
        generator = _Generator(given.url, body, given.begins, given.begins + given.seconds, given.rate)
        return generator, await _generate(generator, given.begins, given.rate, given.connections)

    generator, busy = uvloop.run(generate())
    seen = {name: np.frombuffer(column) for name, column in generator.seen.items()}
    np.savez(given.seen, allow_pickle=False, busy=np.array([busy]), **seen)


if __name__ == "__main__":
    main()
