"""What a trainer learns in a second on one core, and where its time goes, beside a bare torch loop on the same tensors."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from time import perf_counter, process_time, time
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from examples.flights import spec as flights
from store import garbage
from store.learning import Adam, ClassBalanced, Importance, Replay
from store.memory import MemoryStore
from store.names import log_stream
from store.records import Cut, Feedback, FeedbackBatch, Outcome, Predictions, Served, pack_log
from store.schema import Row
from store.spec import Learning, ModelSpec, Schedule
from trainer.learner import Learner
from trainer.loop import Trainer
from trainer.network import TabularNetwork
from trainer.rows import Rows

BATCH, BATCHES, WARM = 1024, 40, 5
REQUEST = 32
"""Predictions in a request, and labels in a post."""

SETTINGS: dict[str, dict[str, Any]] = {
    "as it comes": {},
    "one pass": {"passes": 1},
    "replay": {"replay": Replay()},
    "stratified replay": {"replay": Replay(kind="stratified")},
    "half of the rows, by importance": {"sampling": Importance()},
    "class-balanced loss, Adam, decay": {"loss": ClassBalanced(), "optimiser": Adam(), "half_life_s": 3600.0},
}
PLAIN = replace(flights, streaming=())
VARIANTS = {name: replace(PLAIN, learning=Learning(**settings)) for name, settings in SETTINGS.items()} | {
    "as the example has it, no streaming": PLAIN,
    "as the example has it, streaming features, too": flights,
}
console = Console(width=150)


def learning_figures() -> None:
    torch.set_num_threads(1)
    table = Table(
        "",
        "outcomes/s on a core",
        "join",
        "encode",
        "steps",
        "publish",
        "rest",
        "of a bare loop",
        "checkpoint",
        title="Learning",
    )
    for name, variant in VARIANTS.items():
        spec = replace(variant, schedule=Schedule(outcomes=BATCH, seconds=None))
        taken, shares, checkpoint = asyncio.run(_taught(spec))
        rate = BATCH * BATCHES / taken
        bare = _bare(spec)
        cells = [f"{shares[stage]:.0%}" for stage in ("join", "encode", "steps", "publish", "rest")]
        table.add_row(name, f"{rate:,.0f}", *cells, f"{rate / bare:.2f} ({bare:,.0f})", f"{checkpoint / 1024:,.0f} KiB")
    console.print(table)
    console.print(
        f"the flights' network, {BATCHES} micro-batches of {BATCH:,} in requests of {REQUEST}, one thread, a store in memory, "
        "per second of the processor; the bare loop has its "
        "tensors ready, takes plain steps as often, and neither checks, undoes nor publishes"
    )


async def _taught(spec: ModelSpec) -> tuple[float, dict[str, float], int]:
    """Return the processor's seconds that all took, the stages' shares of the time, and the size of the last checkpoint."""
    store = MemoryStore()
    trainer = Trainer(spec, store)
    await trainer.start()
    encoded_s, rows_of = [0.0], trainer.learner._rows  # pyright: ignore[reportPrivateUsage]

    def timed(outcomes: Any) -> Rows:
        started = perf_counter()
        rows = rows_of(outcomes)
        encoded_s[0] += perf_counter() - started
        return rows

    trainer.learner._rows = timed  # pyright: ignore[reportPrivateUsage]
    draw = np.random.default_rng(0)
    await _logged(store, spec, _requests(WARM, 0, draw, len(spec.streaming)))
    await _learned(trainer, WARM)
    before = {**trainer.busy_s, "encode": encoded_s[0]}
    await _logged(store, spec, _requests(BATCHES, WARM, draw, len(spec.streaming)))
    garbage.begin()  # as the trainer's actor does
    began = process_time()
    taken = await _learned(trainer, WARM + BATCHES)
    worked = process_time() - began
    spent = {**trainer.busy_s, "encode": encoded_s[0]}
    spent = {stage: seconds - before[stage] for stage, seconds in spent.items()}
    spent["steps"] = spent["learn"] - spent["encode"]
    shares = {stage: seconds / taken for stage, seconds in spent.items()}
    shares["rest"] = 1.0 - sum(shares[stage] for stage in ("join", "learn", "publish"))
    return worked, shares, len(trainer.learner.checkpoint())


async def _logged(store: MemoryStore, spec: ModelSpec, requests: Iterator[Predictions | FeedbackBatch | Cut]) -> None:
    await store.append([(log_stream(spec.name), pack_log(record)) for record in requests])


async def _learned(trainer: Trainer, until: int) -> float:
    """Return the seconds from the first read of what is asked and labelled to the last version, which is number `until` + 1."""
    started = perf_counter()
    while trainer.progress["version"] != until + 1:
        await trainer.step(0.0)
    return perf_counter() - started


def _requests(
    batches: int, first: int, draw: np.random.Generator, streamed: int
) -> Iterator[Predictions | FeedbackBatch | Cut]:
    """Requests, and labels a batch of requests later."""
    served = [Served("main", 1, 1.0)]
    for batch in range(first, first + batches):
        posts: list[FeedbackBatch] = []
        for number in range(BATCH // REQUEST):
            ids = [f"{batch}:{number}:{row}" for row in range(REQUEST)]
            rows, now = [_row(draw, streamed) for _ in ids], time()
            yield Predictions(now, ids, ids, rows, [[0.2]] * REQUEST, served, [0] * REQUEST, 0.001, [now] * REQUEST)
            posts.append(FeedbackBatch(now, [Feedback(id_, int(draw.random() < 0.2)) for id_ in ids]))
        yield from posts


def _row(draw: np.random.Generator, streamed: int) -> Row:
    name, carrier = ("EWR", "JFK", "LGA")[draw.integers(3)], f"C{draw.integers(16)}"
    when = [f"{name} 2013-{draw.integers(365)}", f"{name} {draw.integers(24)}"]
    categories = [name, *when, f"D{draw.integers(100)}", carrier, f"{carrier} {draw.integers(3000)}"]
    weather = [float(value) if draw.random() < 0.9 else None for value in draw.normal(50.0, 10.0, 9)]
    numbers = [*draw.normal(900.0, 300.0, 2).tolist(), *weather, *draw.random(streamed).tolist()]
    return [*categories, 1.36e9 + 60.0 * float(draw.integers(500_000)), *numbers]


def _bare(spec: ModelSpec) -> float:
    """Outcomes a second of a loop that has its tensors ready."""
    draw, served, features = np.random.default_rng(0), Served("main", 1, 1.0), spec.record.features
    outcomes = [
        Outcome("", "", _row(draw, len(spec.streaming)), [0.2], served, int(draw.random() < 0.2), "label", True, 0.0, 0.0, 0.0)
        for _ in range(BATCH)
    ]
    rows = Learner(spec)._rows(outcomes)  # pyright: ignore[reportPrivateUsage]
    network = TabularNetwork(features.numbers, features.buckets, 1, shape=spec.shape)
    optimiser = torch.optim.Adagrad(network.parameters(), lr=0.02, weight_decay=1e-3, fused=True)
    started = 0.0
    for batch in range(WARM + BATCHES):
        if batch == WARM:
            started = process_time()
        network.observe(rows.numbers)
        for _ in range(spec.learning.passes):
            optimiser.zero_grad()
            logits = network(rows.numbers, rows.categories)[:, 0]
            torch.nn.functional.binary_cross_entropy_with_logits(logits, rows.labels).backward()
            optimiser.step()
    return BATCH * BATCHES / (process_time() - started)
