"""Archived outcomes as the trainer takes them: the way back from Parquet. Times come back rounded to microseconds."""

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import pyarrow as pa

from store.archive import PREFIX, Placed, read
from store.protocols import position_key
from store.records import Outcome, Served, Vote
from store.schema import FeatureField, Schema, Value
from store.spec import ModelRecord

ROWS = 2_000
"""That are Python's objects at a time."""


def placed(table: Any, features: Schema) -> Iterator[Placed]:
    """Yield the outcomes of a table that `store.archive.read` returned, in its order, each behind its position.

    A feature that the table does not have is missing in each of them.
    """
    for chunk in table.to_batches(max_chunksize=ROWS):
        yield from _placed(chunk, features)


def _placed(chunk: Any, features: Schema) -> Iterator[Placed]:
    def column(name: str) -> list[Any]:
        return chunk.column(name).to_pylist()

    def times(name: str) -> Iterable[float]:
        return (moment / 1e6 for moment in chunk.column(name).cast(pa.int64()).to_pylist())

    arms = zip(
        *(column(name) for name in ("variant", "version", "propensity", "experiments", "latency_s", "epoch")), strict=True
    )
    served = [Served(name, version, share, tuple(among), took, epoch) for name, version, share, among, took, epoch in arms]
    rows = zip(*(_values(chunk, field) for field in features.fields), strict=True)
    parallel = zip(
        column("position"), column("id"), column("unit"), rows, column("output"), served, column("label"), column("kind"),
        column("final"), times("predicted_at"), times("labelled_at"), times("received_at"), column("source"),
        column("confidence"), strict=True,
    )  # fmt: skip
    amends = zip(*(_amends(chunk, name) for name in ("replaces", "votes", "learned")), strict=True)
    for one, (replaces, votes, learned) in zip(parallel, amends, strict=True):
        position, id_, unit, row, output, arm, label, kind, final, predicted, labelled, received, source, sure = one
        yield position, Outcome(
            id=id_, unit=unit, row=list(row), output=output, served=arm, label=label, kind=kind, final=final,
            predicted_at=predicted, labelled_at=labelled, received_at=received, source=source, confidence=sure,
            replaces=replaces, votes=_votes(votes), learned=_votes(learned),
        )  # fmt: skip


def _amends(chunk: Any, name: str) -> list[Any]:
    """What files of the first format do not have."""
    return chunk.column(name).to_pylist() if name in chunk.schema.names else [None] * chunk.num_rows


def _votes(votes: list[dict[str, Any]] | None) -> tuple[Vote, ...]:
    return tuple(Vote(vote["label"], vote["source"], vote["confidence"]) for vote in votes or ())


def _values(chunk: Any, field: FeatureField) -> list[Value]:
    name = PREFIX + field.name
    if name not in chunk.schema.names:
        return [None] * chunk.num_rows
    column = chunk.column(name)
    match field.kind:
        case "timestamp":
            return [None if value is None else value / 1e6 for value in column.cast(pa.int64()).to_pylist()]
        case "vector":
            return [None if value is None else array("f", value).tobytes() for value in column.to_pylist()]
        case _:
            return column.to_pylist()


class Window:
    """A window of a model's archive, in the order of the stream; its rows are outcomes only when they are asked for.

    Each prediction is there once, with the last that was said of it; one whose label nobody knows yet is not.
    """

    def __init__(self, table: Any, features: Schema) -> None:
        self._table, self._features = table, features

    @classmethod
    def of(cls, folder: Path, record: ModelRecord, since: datetime | None, until: datetime | None, through: str = "") -> Self:
        """Read it.

        Args:
            since, until: of the predictions' times; `until` is left out.
            through: the last position in the outcome stream that belongs to it; empty for all.

        Raises:
            FileNotFoundError: there is no archive, or none of that time.
        """
        table = read(folder, record.name, since, until)
        if through:
            positions: list[str] = table["position"].to_pylist()
            table = table.slice(0, bisect_right(positions, position_key(through), key=position_key))
        return cls(_settled(table), record.features)

    def __len__(self) -> int:
        return self._table.num_rows

    @property
    def last(self) -> str:
        """The position of its last outcome in the outcome stream."""
        return self._table["position"][-1].as_py()

    def outcomes(self, rows: range) -> list[Outcome]:
        """Return the outcomes of some rows."""
        return [replace(outcome, learned=()) for _, outcome in placed(self._table.take(list(rows)), self._features)]


def _settled(table: Any) -> Any:
    uses = zip(table["id"].to_pylist(), table["predicted_at"].to_pylist(), strict=True)  # an id may be used again
    last = {use: place for place, use in enumerate(uses)}
    known = [
        kind != "default" or final for kind, final in zip(table["kind"].to_pylist(), table["final"].to_pylist(), strict=True)
    ]
    return table.take(pa.array(sorted(place for place in last.values() if known[place]), pa.int64()))
