"""What the demo does once its platform is up: replay, watch, and say what was found."""

import asyncio
import contextlib
from collections import deque
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from time import perf_counter

import numpy as np
import psutil
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from deploy.client import Client
from deploy.home import Running
from deploy.quality import NOTHING, Books, Quality
from deploy.report import Findings, shown
from examples.flights.replay import MODEL, Replay, Step
from examples.flights.stream import Flight
from store.names import log_stream
from store.protocols import START
from store.records import Shadows, holds_shadows, unpack_log
from store.redis_store import RedisStore

FREEZE_AT = datetime(2013, 3, 1, 5, tzinfo=UTC)  # midnight in New York
console = Console()


@dataclass
class _Show:
    """What the screen shows while the replay runs."""

    total: int
    progress: Progress = field(init=False)
    recent: tuple[Quality, Quality] = (NOTHING, NOTHING)
    steps: deque[tuple[float, int, int]] = field(default_factory=lambda: deque[tuple[float, int, int]](maxlen=200))
    freshness_s: list[float] = field(default_factory=list[float])
    published: int = 0
    simulated: datetime | None = None

    def __post_init__(self) -> None:
        columns = (TextColumn("[bold]{task.description}"), BarColumn(None), TextColumn("{task.percentage:>3.0f}%"))
        self.progress = Progress(*columns, TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), expand=True)
        self.task = self.progress.add_task("replay", total=self.total)

    def step(self, step: Step) -> None:
        self.simulated = step.start
        self.steps.append((perf_counter(), len(step.predicted), step.labels))
        self.freshness_s.append(step.freshness_s)
        self.published += step.verdict == "published"
        self.progress.update(self.task, advance=len(step.predicted), description=f"{step.start:%d %b %Y}")

    def say(self) -> None:
        """Where nobody can see a picture move, a line every simulated week says the same."""
        if not console.is_terminal:
            predictions, labels = self._rates()
            live, frozen = self.recent
            console.print(
                f"{self.simulated:%d %b %Y}  {predictions:,.0f} predictions/s  {labels:,.0f} labels/s  "
                f"{self.published:,} versions  "
                f"last 4 weeks: live AUC {shown(live.auc)}, frozen {shown(frozen.auc)}",
                soft_wrap=True,
            )

    def _rates(self) -> tuple[float, float]:
        if len(self.steps) < 2:
            return 0.0, 0.0
        seconds = max(1e-9, self.steps[-1][0] - self.steps[0][0])
        return sum(s[1] for s in self.steps) / seconds, sum(s[2] for s in self.steps) / seconds

    def __rich__(self) -> Group:
        predictions, labels = self._rates()
        speed = Table.grid(padding=(0, 3))
        fresh = np.median(self.freshness_s[-200:]) * 1000 if self.freshness_s else 0.0
        speed.add_row(
            f"{predictions:,.0f} predictions/s", f"{labels:,.0f} labels/s", f"{self.published:,} versions",
            f"fresh in {fresh:.0f} ms",
        )  # fmt: skip
        quality = Table("last 4 simulated weeks", "AUC", "log loss", "flights", box=None)
        for name, side in zip(("live, learning", "frozen on 1 March"), self.recent, strict=True):
            quality.add_row(name, shown(side.auc), shown(side.log_loss), f"{side.rows:,}")
        return Group(self.progress, speed, quality)


async def replay(flights: list[Flight], running: Running, token: str, prefix: str) -> Findings:
    """Send the flights through a running platform, show what happens, and freeze a version on the way."""
    books, show = Books(), _Show(len(flights))
    store = RedisStore(running.redis_url, prefix)
    started, frozen_at, frozen_version, shadow_at = perf_counter(), None, 0, START
    shown_at = flights[0].departure
    try:
        async with Replay(running.url, token) as sending:
            with Live(show, console=console, refresh_per_second=4, transient=not console.is_terminal):
                async for step in sending.run(flights):
                    books.predicted(step.predicted, step.scores)
                    show.step(step)
                    if step.start - shown_at >= timedelta(days=7):
                        shown_at = step.start
                        shadow_at = await _read_shadows(store, shadow_at, books)
                        show.recent = books.recent(step.start)
                        show.say()
                    if frozen_at is None and step.start + timedelta(hours=1) >= FREEZE_AT:
                        frozen_at = step.start + timedelta(hours=1)
                        frozen_version = step.version
                        await asyncio.to_thread(_freeze, running.url, token, step.version)
                await _read_shadows(store, shadow_at, books)
        await _last_shadows(store, books, frozen_at)
    finally:
        await store.close()
    return replace(_findings(books, show, frozen_at, perf_counter() - started), frozen_version=frozen_version)


def _freeze(url: str, token: str, version: int) -> None:
    """Pin the live version as a shadow of all traffic."""
    with Client(url, token) as client:
        epoch = client.policy(MODEL)["epoch"]
        policy = {
            "variants": [{"name": "main"}, {"name": "frozen", "version": version}],
            "experiments": [{"name": "frozen", "kind": "shadow", "shares": {"frozen": 1.0}}],
        }
        client.set_policy(MODEL, policy, epoch)


async def _read_shadows(store: RedisStore, after: str, books: Books) -> str:
    while entries := await store.read(log_stream(MODEL), after, 2000):
        after = entries[-1].position
        for entry in entries:
            record = unpack_log(entry.payload) if holds_shadows(entry.payload) else None
            if isinstance(record, Shadows):
                for id_, output in zip(record.ids, record.outputs, strict=True):
                    books.shadowed(id_, output[0])
    return after


async def _last_shadows(store: RedisStore, books: Books, frozen_at: datetime | None) -> None:
    """Shadows come after their answers: give the last of them a moment."""
    after = START
    for _ in range(50):
        if frozen_at is None or not books.unshadowed:
            return
        after = await _read_shadows(store, after, books)
        await asyncio.sleep(0.1)


def _findings(books: Books, show: _Show, frozen_at: datetime | None, seconds: float) -> Findings:
    weeks = books.weeks()
    live, frozen = books.since(frozen_at) if frozen_at else (NOTHING, NOTHING)
    overall, _ = books.since(weeks[0].start)
    fresh = np.asarray(show.freshness_s)
    processor, memory = _cost()
    totals = {
        "flights predicted": f"{len(books):,}",
        "versions published": f"{show.published:,}",
        "time of the replay": f"{seconds:,.0f} s",
        "predictions a second": f"{len(books) / seconds:,.0f}",
        "freshness, median": f"{np.median(fresh) * 1000:.0f} ms",
        "freshness, 95th percentile": f"{np.quantile(fresh, 0.95) * 1000:.0f} ms",
        "processor time, the whole platform": f"{processor:,.0f} s",
        "memory, the whole platform": f"{memory / 2**20:,.0f} MiB",
    }
    last = show.simulated or weeks[-1].start
    return Findings(weeks[0].start, last, frozen_at, weeks, live, frozen, overall, show.freshness_s, totals)


def _cost() -> tuple[float, float]:
    """Processor seconds and resident bytes of this process and all that it started."""
    seconds = resident = 0.0
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            seconds += times.user + times.system
            resident += process.memory_info().rss
    return seconds, resident


def print_findings(findings: Findings) -> None:
    table = Table("week of", "flights", "live AUC", "log loss", "frozen AUC", "log loss", title="Quality by week")
    for week in findings.weeks:
        cells = [shown(value) for side in (week.live, week.frozen) for value in (side.auc, side.log_loss)]
        table.add_row(f"{week.start:%d %b}", f"{week.live.rows:,}", *cells)
    table.add_section()
    if findings.frozen_at:
        sides = [shown(value) for side in (findings.live, findings.frozen) for value in (side.auc, side.log_loss)]
        table.add_row(f"from {findings.frozen_at:%d %b}", f"{findings.live.rows:,}", *sides)
    overall = findings.overall
    table.add_row("all", f"{overall.rows:,}", shown(overall.auc), shown(overall.log_loss), "", "")
    console.print(table)
    cost = Table.grid(padding=(0, 3))
    for name, value in findings.totals.items():
        cost.add_row(name, value)
    console.print(cost)
