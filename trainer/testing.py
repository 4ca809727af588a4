"""A log as a test writes it: entries made of what people do, at the times they do it."""

from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING
from unittest import mock

from pydantic import BaseModel

from store.protocols import Entry, Graph
from store.records import Cut, Feedback, FeedbackBatch, Label, LogRecord, Outcome, OutcomeRecord, Predictions, Served
from store.records import pack_log as pack
from store.schema import Row, Schema
from store.spec import LabelPolicy, ModelRecord, ModelSpec, Schedule
from trainer.join import LabelJoin

if TYPE_CHECKING:
    from trainer.export import Scorer

DAY_1 = 1_700_000_000.0
"""When a written log begins, in seconds since 1970."""


class OneNumber(BaseModel):
    """The smallest features that a model can have."""

    x: float


def binary_model(
    labels: LabelPolicy, *, clock: str = "log", every: int | None = None, max_skew_s: float = 86_400.0
) -> ModelRecord:
    """Return the record of a binary model on one number."""
    spec = ModelSpec(
        name="m",
        features=OneNumber,
        labels=labels,
        schedule=Schedule(outcomes=every, seconds=None),
        clock="event" if clock == "event" else "log",
        max_skew_s=max_skew_s,
    )
    return spec.record


def predicted(at: float, *ids: str, event_times: Sequence[float] | None = None) -> Predictions:
    """One request's predictions; every number in them follows from the id and the time, so that mistakes show."""
    served = [Served("main", 1, 1.0)]
    rows: list[Row] = [[at % 1000.0] for _ in ids]
    outputs = [[0.5] for _ in ids]
    units = [f"unit of {id_}" for id_ in ids]
    times = list(event_times) if event_times is not None else None
    return Predictions(at, list(ids), units, rows, outputs, served, [0] * len(ids), 0.0, times)


def labelled(at: float, id_: str, label: Label = 1, source: str = "") -> FeedbackBatch:
    return FeedbackBatch(at, [Feedback(id_, label, None, source)])


def written(records: Iterable[tuple[float, LogRecord]]) -> list[Entry]:
    """Return log entries from (arrival in seconds after DAY_1, record) pairs."""
    return [
        Entry(f"{int((DAY_1 + arrival) * 1000)}-{number}", pack(record)) for number, (arrival, record) in enumerate(records)
    ]


def flat(records: Iterable[OutcomeRecord]) -> list[Outcome | Cut]:
    """Return outcomes and cuts one by one: how outcomes are grouped says nothing."""
    found: list[Outcome | Cut] = []
    for record in records:
        found += [record] if isinstance(record, Cut) else record.outcomes
    return found


def joined(model: ModelRecord, *records: tuple[float, LogRecord]) -> tuple[list[Outcome | Cut], LabelJoin]:
    """Return what a new join makes of records, and the join."""
    join = LabelJoin(model)
    return flat(join.feed(written(records))), join


def outcomes(found: Sequence[Outcome | Cut]) -> list[Outcome]:
    return [one for one in found if isinstance(one, Outcome)]


def counted(join: LabelJoin) -> dict[str, int]:
    """The counters that are not zero."""
    return {name: count for name, count in asdict(join.state.counts).items() if count}


@contextmanager
def exporting_once() -> Generator[None]:
    """Let the first export do for all in the block, whose models have one network: it takes longer than all else."""
    from trainer import learner  # noqa: PLC0415 - torch, which logs can do without
    from trainer.export import export  # noqa: PLC0415

    made: list[Graph] = []

    def once(scorer: "Scorer", schema: Schema) -> Graph:
        made.extend([] if made else [export(scorer, schema)])
        return made[0]

    with mock.patch.object(learner, "export", once):
        yield
