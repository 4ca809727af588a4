"""Archived outcomes as the trainer takes them: the way back from Parquet. Times come back rounded to microseconds."""

from array import array
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa

from store.archive import PREFIX, Placed
from store.records import Outcome, Served
from store.schema import FeatureField, Schema, Value

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
    for position, id_, unit, row, output, arm, label, kind, final, predicted, labelled, received, source, sure in parallel:
        yield position, Outcome(
            id=id_, unit=unit, row=list(row), output=output, served=arm, label=label, kind=kind, final=final,
            predicted_at=predicted, labelled_at=labelled, received_at=received, source=source, confidence=sure,
        )  # fmt: skip


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
