"""A soak: one platform, two models, everything at once."""

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Thread
from time import monotonic, sleep

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

from deploy.testing import TestPlatform, alive, as_described, open_inference, platform_in
from tests.bench.soak.traffic import Traffic
from tests.bench.soak.vitals import Probe, Vitals
from tests.bench.verdict import Verdict, say

SAMPLE_S, REST_S, COMPRESS_S, GRACE_S = 10.0, 15.0, 120.0, 10.0
LOOKS, LOOK_S = 5, 2.0
MOST_GROWTH = 0.05
PUBLISHED = Path(__file__).parents[2] / "integration/descriptions/open_inference.json"
SPECS = """
from dataclasses import replace

from pydantic import BaseModel

from examples.vector import spec as example
from store.spec import LabelPolicy, ModelSpec, Schedule


class Features(BaseModel):
    country: str
    price: float
    age: float | None = None


# A trainer remembers each prediction for as long as its label may come, and as long again: here it forgets, and must.
usual = {"schedule": Schedule(seconds=2), "labels": LabelPolicy(window_s=WINDOW)}
vector = replace(example, **usual)
shop = ModelSpec(name="shop", features=Features, **usual)
"""
_WINDOW_SHARE = 0.25
"""Label window, and seconds from one archive file to the next, in this part of the time that is left out of the comparison:
what is remembered is level by then."""

console = Console(width=130)


def soak(minutes: float = 20.0) -> None:
    """Memory must not grow after the first minutes, nothing valid may fail, and nothing may be left."""
    # What comes once in ten minutes comes often here, and first before the comparison begins.
    os.environ["TIDEMILL_ARCHIVE_EVERY_S"] = f"{_WINDOW_SHARE * 60 * _warm(minutes):g}"
    with TemporaryDirectory(prefix="tidemill-soak-") as folder:
        (Path(folder) / "soaked.py").write_text(SPECS.replace("WINDOW", f"{_WINDOW_SHARE * 60 * _warm(minutes):g}"))
        with platform_in(Path(folder)) as platform:
            platform.start("soaked:vector", "soaked:shop", replicas=2)
            probe = Probe(platform)
            run = _Run(platform, probe, minutes)
            run.go()
            probe.close()
            platform.command("down")
        _, late = psutil.wait_procs(probe.processes, timeout=GRACE_S)
        left = [f"left: {process.pid} {' '.join(process.cmdline())}" for process in alive(late)]
    run.report(left)


def _warm(minutes: float) -> float:
    """Minutes that are left out of the comparison, and that its two sides have."""
    return min(3.0, minutes / 4)


class _Run:
    def __init__(self, platform: TestPlatform, probe: Probe, minutes: float) -> None:
        self._platform, self._probe, self._minutes = platform, probe, minutes
        self._warm = _warm(minutes)
        self._traffic = Traffic(platform)
        self._samples: list[tuple[float, Vitals]] = []
        self._rests: list[Vitals] = []
        self._disagreements: list[str] = []
        self._ended = Event()

    def go(self) -> None:
        self._traffic.start()
        self._platform.command("compress", "vector", "--method", "dynamic_int8")
        began = monotonic()
        self._load(began, self._warm)
        self._rest()
        beside = [Thread(target=work, daemon=True) for work in (self._describe, self._compress)]
        for thread in beside:
            thread.start()
        self._load(began, self._minutes)
        self._ended.set()
        for thread in beside:
            thread.join()
        self._rest()
        self._traffic.stop()

    def _load(self, began: float, until_minutes: float) -> None:
        said = int((monotonic() - began) / 60)
        while (passed := (monotonic() - began) / 60) < until_minutes:
            self._samples.append((passed, self._probe.sample()))
            if int(passed) > said:
                said = int(passed)
                self._tell(said)
            sleep(SAMPLE_S)

    def _tell(self, minute: int) -> None:
        now = self._samples[-1][1]
        parts = ", ".join(
            f"{role} {now.get(f'{role} unshared MiB', 0):.0f}" for role in ("replica", "trainer", "controller", "joiner")
        )
        traffic = self._traffic
        console.print(
            f"minute {minute} of {self._minutes:g}: {sum(traffic.sent.values()):,} requests, {len(traffic.failures)} failures; "
            f"unshared MiB: {parts}; {now['processes']:.0f} processes"
        )

    def _rest(self) -> None:
        """What is held while nothing is asked: descriptors and threads that work would explain are gone then. HAProxy keeps
        a connection or two to a replica for the next request: the least of several looks has none of them."""
        self._traffic.rest()
        sleep(REST_S)
        looks: list[Vitals] = []
        for _ in range(LOOKS):
            looks.append(self._probe.sample())
            sleep(LOOK_S)
        self._rests.append({name: min(look.get(name, 0.0) for look in looks) for name in looks[-1]})
        self._traffic.resume()

    def _compress(self) -> None:
        while not self._ended.wait(min(COMPRESS_S, self._minutes * 10)):
            self._platform.command("compress", "vector", "--method", "dynamic_int8")

    def _describe(self) -> None:
        """Schemathesis beside it, for half of the time: of our own description, and of the published one."""
        seconds = str(max(5, int(self._minutes * 60 / 4)))
        tensor = {"name": "x", "shape": [1, 32], "datatype": "FP32", "data": [[0.5] * 32]}
        published = self._platform.folder / "published.json"
        published.write_text(json.dumps(open_inference(PUBLISHED, ["vector", "shop"], {"inputs": [tensor]})))
        for description in (f"{self._platform.url}/openapi.json", published):
            done = as_described(self._platform.url, description, "--max-time", seconds)
            if done.returncode:
                self._disagreements.append(done.stdout[-4000:])

    def report(self, left: Sequence[str]) -> None:
        traffic = self._traffic
        console.print(self._table())
        console.print("requests: " + ", ".join(f"{kind} {count:,}" for kind, count in sorted(traffic.sent.items())))
        for text in [*traffic.failures[:10], *self._disagreements, *left]:
            console.print(text, markup=False, highlight=False)
        # What Redis holds grows with what it retains; what of it that does not explain must not.
        held = [name for name in self._samples[-1][1] if name.endswith(" unshared MiB") and not name.startswith("redis")]
        unexplained = self._change("redis unexplained MiB") / self._mean("redis used MiB", self._warm, 2 * self._warm)
        growth = float(np.max([unexplained, *(self._growth(name) for name in held)]))
        say(
            Verdict("growth of memory", growth, "under", MOST_GROWTH),
            Verdict("failed requests", len(traffic.failures), "under", 0),
            Verdict("answers that are not as described", len(self._disagreements), "under", 0),
            Verdict("leaked keys, descriptors and processes", len(self._leaks()), "under", 0),
            Verdict("processes left after the end", len(left), "under", 0),
        )

    def _table(self) -> Table:
        warm, end = self._warm, self._minutes
        heads = (f"first {warm:g} min", f"next {warm:g} min", f"last {warm:g} min", "growth", "at rest", "at rest, end")
        table = Table("what", *heads, title=f"Soak of {end:g} minutes")
        for name in sorted(self._samples[-1][1]):
            means = (self._mean(name, 0.0, warm), self._mean(name, warm, 2 * warm), self._mean(name, end - warm, end + 1))
            rests = (rest.get(name, 0.0) for rest in self._rests)
            table.add_row(
                name, *(f"{mean:.1f}" for mean in means), f"{self._growth(name):+.1%}", *(f"{rest:.1f}" for rest in rests)
            )
        if leaks := self._leaks():
            console.print("More at rest than before: " + ", ".join(leaks))
        return table

    def _mean(self, name: str, since: float, until: float) -> float:
        values = [sample.get(name, 0.0) for at, sample in self._samples if since <= at < until]
        return float(np.mean(values)) if values else math.nan

    def _change(self, name: str) -> float:
        """From after the first minutes to the last."""
        return self._mean(name, self._minutes - self._warm, self._minutes + 1) - self._mean(name, self._warm, 2 * self._warm)

    def _growth(self, name: str) -> float:
        before = self._mean(name, self._warm, 2 * self._warm)
        return self._change(name) / before if before else math.nan

    def _leaks(self) -> list[str]:
        first, last = self._rests
        counted = [name for name in last if name.endswith(" descriptors") or name in ("processes", "API keys")]
        held = [name for name in last if name.startswith("keys: ") and name not in _GROWING]
        return [
            f"{name} {first.get(name, 0):.0f} to {last[name]:.0f}" for name in counted + held if last[name] > first.get(name, 0)
        ]


_GROWING = ("keys: weights", "keys: graph")
"""Kinds of which retention keeps some: so many versions."""
