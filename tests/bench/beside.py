"""What a running search does to the latency of what is served beside it, on the same processors."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from time import sleep

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
from tests.bench.serving import BODY, MODEL
from tests.bench.verdict import Verdict, say
from tuning.plan import SearchPlan
from tuning.trial import REPLAY, TRIALS

UNTIL, FOLDER = "2013-03-31", KEPT
CONNECTIONS, PART_S, ROUNDS = 32, 15.0, 3
SHARES, CPUS = (0.3,), 1
BOUND = 2.0
console = Console(width=120)


def log() -> None:
    """Have what a search learns at hand, before a platform is started that is measured."""
    replayed(UNTIL, FOLDER)


def beside(running: Running) -> None:
    """An even stream without and with a search beside it, in turn."""
    url = f"{running.url}/models/{MODEL}/predict"
    open_loop.run(url, BODY, 3.0, connections=CONNECTIONS)
    full = len(open_loop.run(url, BODY, 10.0, connections=CONNECTIONS).good.status) / 10.0
    table = Table("of the saturated rate", "", "p50 ms", "p99 ms", "failed", title="A search beside what is served")
    ratios = list[float]()
    for share in SHARES:
        idle, busy = list[open_loop.Answers](), list[open_loop.Answers]()
        for _ in range(ROUNDS):
            idle.append(open_loop.run(url, BODY, PART_S, rate=share * full))
            with _searching():
                busy.append(open_loop.run(url, BODY, PART_S, rate=share * full))
        for name, parts in (("alone", idle), ("beside a search", busy)):
            failed = sum(len(part.status) - len(part.good.status) for part in parts)
            quantiles = (", ".join(f"{part.quantile_ms(q):.1f}" for part in parts) for q in (0.5, 0.99))
            table.add_row(f"{share:.0%}", name, *quantiles, str(failed))
        ratios.append(_middle(busy) / _middle(idle))
    console.print(table)
    named = zip(SHARES, ratios, strict=True)
    say(*(Verdict(f"p99 beside a search, of that alone, at {share:.0%}", ratio, "under", BOUND) for share, ratio in named))


def _middle(parts: list[open_loop.Answers]) -> float:
    """The median of their 99th percentiles."""
    return sorted(part.quantile_ms(0.99) for part in parts)[len(parts) // 2]


@contextmanager
def _searching() -> Generator[None]:
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
        yield
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(30.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


if __name__ == "__main__":
    plan = SearchPlan(model=FLIGHTS, source=SPEC, trials=1000, cpus=CPUS)
    try:
        tried(plan, load_spec(SPEC), Path(sys.argv[1]))
    except KeyboardInterrupt:
        sys.exit(1)
