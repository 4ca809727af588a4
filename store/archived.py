"""The way back from the archive: what there is, and outcomes as the trainer takes them, with times in whole microseconds."""

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, Self

import pyarrow as pa
import pyarrow.parquet as pq

from store.archive import MOMENT, PREFIX, Placed, stretches
from store.errors import SchemaError, first_line
from store.protocols import position_key
from store.records import Outcome, Served, Vote
from store.schema import FeatureField, Schema, Value
from store.spec import ModelRecord

ROWS = 2_000
"""That are Python's objects at a time."""


def read(folder: Path, model: str, since: datetime | None = None, until: datetime | None = None) -> Any:
    """Return a model's archived outcomes, a `pyarrow.Table` in the order of the stream.

    Args:
        since, until: of the predictions' times, with a time zone; `until` is left out.

    Raises:
        FileNotFoundError: nothing of this model is archived.
        SchemaError: a column is of one type in some files and of another in others.
    """
    import pyarrow.dataset as ds  # noqa: PLC0415 - takes pandas with it, which those who write do without

    root = folder / f"model={model}"
    paths = [path for path in _whole(root) if _within(path, since, until)]
    if not paths:
        raise FileNotFoundError(f"no outcomes of model '{model}' are archived in {folder} for that time")
    # Features may have been added: what older files do not have is missing in them.
    try:
        schema = pa.unify_schemas([pq.read_schema(path).remove_metadata() for path in paths])
    except pa.ArrowTypeError as error:
        raise SchemaError(
            f"the archive in {root} holds outcomes of two declarations ({first_line(error, 200)}): move the older files away"
        ) from None
    wanted: Any = ds.scalar(True)
    if since is not None:
        wanted &= ds.field("predicted_at") >= pa.scalar(since, MOMENT)
    if until is not None:
        wanted &= ds.field("predicted_at") < pa.scalar(until, MOMENT)
    table: Any = ds.dataset([str(path) for path in paths], schema=schema, format="parquet").to_table(filter=wanted)
    places = zip(table["position"].to_pylist(), table["place"].to_pylist(), strict=True)
    keys = [(position_key(position), place) for position, place in places]
    return table.take(pa.array(sorted(range(len(keys)), key=keys.__getitem__), pa.int64()))  # also where there are none


class Day(NamedTuple):
    """A day of predictions in an archive."""

    day: str
    outcomes: int
    bytes: int
    files: int


def days(folder: Path, model: str) -> list[Day]:
    """Return what is archived of a model, the first day first; nothing where there is no archive."""
    by_day: dict[str, list[Path]] = {}
    for path in _whole(folder / f"model={model}"):
        by_day.setdefault(path.parent.name.removeprefix("day="), []).append(path)
    return [
        Day(day, sum(pq.read_metadata(path).num_rows for path in paths), sum(path.stat().st_size for path in paths), len(paths))
        for day, paths in sorted(by_day.items())
    ]


def placed(table: Any, features: Schema) -> Iterator[Placed]:
    """Yield the outcomes of a table that `read` returned, in its order, each behind its position.

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
        return [outcome._replace(learned=()) for _, outcome in placed(self._table.take(list(rows)), self._features)]


def _settled(table: Any) -> Any:
    uses = zip(table["id"].to_pylist(), table["predicted_at"].to_pylist(), strict=True)  # an id may be used again
    last = {use: place for place, use in enumerate(uses)}
    known = [
        kind != "default" or final for kind, final in zip(table["kind"].to_pylist(), table["final"].to_pylist(), strict=True)
    ]
    return table.take(pa.array(sorted(place for place in last.values() if known[place]), pa.int64()))


def _whole(root: Path) -> list[Path]:
    return [path for (_, _, parts), paths in stretches(root).items() if len(paths) == parts for path in paths]


def _within(path: Path, since: datetime | None, until: datetime | None) -> bool:
    day = path.parent.name.removeprefix("day=")
    after = since is None or day >= since.astimezone(UTC).date().isoformat()
    return after and (until is None or day <= until.astimezone(UTC).date().isoformat())
