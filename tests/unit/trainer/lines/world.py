"""A model whose micro-batches are logged, learned by main and by lines beside it, and who may be killed meanwhile."""

from collections.abc import Callable
from typing import Any

import numpy as np

from store.gates import Gates
from store.lines import Line, added, change_lines, planned_line
from store.memory import MemoryStore
from store.names import log_stream
from store.records import Cut, Feedback, FeedbackBatch, Predictions, Served, pack_log
from store.schema import Row
from store.spec import ModelSpec, Schedule
from trainer.lines import LineTrainer
from trainer.loop import Trainer
from trainer.testing import OneNumber

ROWS = 60
SPEC = ModelSpec(name="m", features=OneNumber, schedule=Schedule(seconds=None), gates=Gates(rows=240, patience=240))


class Killed(BaseException):
    """The process is gone."""


async def log(store: MemoryStore, *batches: int, source: str = "") -> None:
    """Log micro-batches; labels from a source are wrong."""
    for batch in batches:
        draw = np.random.default_rng(batch)
        numbers = draw.normal(size=ROWS)
        rows: list[Row] = [[number] for number in numbers.tolist()]
        labels = (draw.random(ROWS) < 1.0 / (1.0 + np.exp(-3.0 * numbers))) ^ bool(source)
        ids = [f"{batch}-{row}" for row in range(ROWS)]
        asked = Predictions(1.0, ids, ids, rows, [[0.5]] * ROWS, [Served("main", 1, 1.0)], [0] * ROWS)
        said = FeedbackBatch(1.0, [Feedback(id_, float(label), None, source) for id_, label in zip(ids, labels, strict=True)])
        await store.append([(log_stream("m"), pack_log(record)) for record in (asked, said, Cut("hand"))])


def killer(killed_at: str, count: int) -> Callable[[str], None]:
    left = count

    def reached(stage: str) -> None:
        nonlocal left
        left -= stage == killed_at
        if not left:
            raise Killed

    return reached


async def train_main(store: MemoryStore, killed_at: str = "", count: int = 1) -> Trainer:
    """Let main's trainer learn the log to its end, or until it is killed."""
    main = Trainer(SPEC, store, reached=killer(killed_at, count))
    await main.start()
    while await main.step(0.01):
        pass
    return main


async def exhaust(running: Trainer) -> None:
    while await running.step(0.01):
        pass


async def train_line(store: MemoryStore, name: str = "x", killed_at: str = "", count: int = 1) -> LineTrainer:
    line = LineTrainer(SPEC, store, name, reached=killer(killed_at, count))
    await line.start()
    while await line.step(0.01):
        pass
    return line


async def add(
    store: MemoryStore, name: str = "x", start: str = "main", shape: dict[str, Any] | None = None, **learning: Any
) -> Line:
    planned = await planned_line(store, (await store.models())["m"], name, start, learning, shape or {})
    return (await change_lines(store, "m", lambda lines: added(lines, planned), b"added")).expect(name)


async def retire(store: MemoryStore, name: str = "x") -> None:
    await change_lines(store, "m", lambda lines: lines.ended(lines.expect(name), "retired", 1.0), b"retired")


def bits(one: Trainer | LineTrainer) -> tuple[bytes, bytes]:
    return one.learning.learner.weights(), one.learning.learner.checkpoint()
