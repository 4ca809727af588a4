"""What a running search does to the latency of what is served beside it, on the same processors."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from time import sleep

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

from deploy.demo import MODEL as FLIGHTS
from deploy.demo import SPEC
from deploy.home import Running
from deploy.tuning import tried
from store import tether
from store.spec import load_spec
from tests.bench import open_loop
from tests.bench.logged import KEPT, at, replayed
from tests.bench.open_loop import Answers
from tests.bench.serving import BODY, MODEL
from tests.bench.verdict import Verdict, say
from tuning.plan import SearchPlan
from tuning.trial import REPLAY, TRIALS

UNTIL, FOLDER = "2013-03-31", KEPT
CONNECTIONS, PART_S, ROUNDS = 32, 4.0, 20
SHARE, CPUS = 0.3, 1
BOUND = 2.0
console = Console(width=120)


def log() -> None:
    """Have what a search learns at hand, before a platform is started that is measured."""
    replayed(UNTIL, FOLDER)


def beside(running: Running) -> None:
    """An even stream beside a search that is stopped and goes on in turn: a shared machine is not as fast in one half minute as
    in the next. Whether the bound is kept the typical part says, because a machine that stands still once for a tenth of a
    second decides the p99 of all answers together; the table has both."""
    url = f"{running.url}/models/{MODEL}/predict"
    open_loop.run(url, BODY, 3.0, connections=CONNECTIONS)
    rate = SHARE * len(open_loop.run(url, BODY, 10.0, connections=CONNECTIONS).good.status) / 10.0
    idle, busy = list[Answers](), list[Answers]()
    with _searching() as search:
        for _ in range(ROUNDS):
            with _stopped(search):
                idle.append(open_loop.run(url, BODY, PART_S, rate=rate))
            busy.append(open_loop.run(url, BODY, PART_S, rate=rate))
    table = Table(
        "", "p50 ms", "p99 ms", "p99 of the parts, ms", "failed", title=f"A search beside {SHARE:.0%} of the saturated rate"
    )
    for name, parts in (("stopped", idle), ("searching", busy)):
        failed = sum(len(part.status) - len(part.good.status) for part in parts)
        quarters = np.quantile([part.quantile_ms(0.99) for part in parts], [0.25, 0.5, 0.75])
        spread = f"{quarters[1]:.1f} ({quarters[0]:.1f} to {quarters[2]:.1f})"
        table.add_row(name, f"{_quantile_ms(parts, 0.5):.1f}", f"{_quantile_ms(parts, 0.99):.1f}", spread, str(failed))
    console.print(table)
    ratio = median(part.quantile_ms(0.99) for part in busy) / median(part.quantile_ms(0.99) for part in idle)
    say(Verdict("p99 beside a search, of that alone (medians of the parts)", ratio, "under", BOUND))


def _quantile_ms(parts: list[Answers], q: float) -> float:
    """Of all their answers together."""
    return float(np.quantile(np.concatenate([part.good.latency_s for part in parts]), q)) * 1000.0


@contextmanager
def _searching() -> Generator[psutil.Process]:
    """A search, which has begun to learn, as `tidemill tune` runs it."""
    place = FOLDER / "beside"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    shutil.copy(at(FOLDER, UNTIL), place / REPLAY)
    process = tether.spawn([sys.executable, "-W", "ignore", "-m", "tests.bench.beside", str(place)], env=os.environ)
    try:
        while not any((place / TRIALS).glob("*.1")):
            if process.poll() is not None:
                raise RuntimeError("the search ended before it had learned anything")
            sleep(0.2)
        yield psutil.Process(process.pid)
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(30.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def _stopped(search: psutil.Process) -> Generator[None]:
    """Stop a search and all that is of it, and let it go on."""
    if not search.is_running() or search.status() == psutil.STATUS_ZOMBIE:
        raise RuntimeError("the search ended before the measurement did")
    everyone = [search, *search.children(recursive=True)]
    for one in everyone:
        one.suspend()
    try:
        yield
    finally:
        for one in reversed(everyone):
            one.resume()


if __name__ == "__main__":
    plan = SearchPlan(model=FLIGHTS, source=SPEC, trials=1000, cpus=CPUS)
    try:
        tried(plan, load_spec(SPEC), Path(sys.argv[1]))
    except KeyboardInterrupt:
        sys.exit(1)
