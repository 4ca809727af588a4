"""Outcomes kept for good, as Parquet that any tool reads: one folder for a model, in it one for each day of the predictions.

    model=click/day=2026-11-22/1763800000000-0_1763800600000-3.1-of-2.parquet

A file's name says which stretch of the outcome stream it holds, from the first entry to the last; a stretch with predictions of
several days is several files, numbered. Names appear when their content is on disk, so a stretch is there whole or not at all,
whatever dies: a part without the others is being written, or is what a crash left; nobody reads it, and the next who writes
drops what a crash left.
"""

import contextlib
import fcntl
import os
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from store.errors import ArchiveBusy
from store.protocols import START, position_key
from store.records import Label, Outcome, Vote
from store.schema import FeatureField, Schema, Value

FORMAT = "2"
"""Of the columns; it stands in each file's metadata under `tidemill.format`."""

PREFIX = "x_"
"""What a feature's column begins with: features may be called anything."""

_PART = re.compile(r"(\d+-\d+)_(\d+-\d+)\.(\d+)-of-(\d+)\.parquet")
_YEARS_S = (-62_135_596_800.0, 253_402_300_799.0)
"""The first and the last second of the years that a date can have."""
MOMENT = pa.timestamp("us", tz="UTC")
_TYPES: dict[str, pa.DataType] = {
    "number": pa.float64(),
    "boolean": pa.bool_(),
    "category": pa.string(),
    "timestamp": pa.timestamp("us"),
    "vector": pa.list_(pa.float32()),
}


Placed = tuple[str, Outcome]
"""An outcome behind its position in its model's outcome stream."""

_Row = tuple[int, Placed]
"""An outcome behind its place in a stretch."""
PIECE = 4096
"""Rows that are written at a time, which are a row group of their file."""


def columns(features: Schema, text_labels: bool) -> Any:
    """Return the columns of a model's archive, a `pyarrow.Schema`. `position` and `place` give the order of the stream.

    Args:
        text_labels: labels are the names of classes; else numbers.
    """
    label = pa.string() if text_labels else pa.float64()
    votes = pa.list_(pa.struct([("label", label), ("source", pa.string()), ("confidence", pa.float64())]))
    fixed: list[tuple[str, pa.DataType]] = [
        ("position", pa.string()), ("place", pa.int64()), ("id", pa.string()), ("unit", pa.string()),
        ("output", pa.list_(pa.float64())), ("label", label), ("kind", pa.string()), ("final", pa.bool_()),
        ("source", pa.string()), ("confidence", pa.float64()), ("predicted_at", MOMENT), ("labelled_at", MOMENT),
        ("received_at", MOMENT), ("variant", pa.string()), ("version", pa.int64()), ("propensity", pa.float64()),
        ("experiments", pa.list_(pa.string())), ("latency_s", pa.float64()), ("epoch", pa.int64()),
        ("replaces", label), ("votes", votes), ("learned", votes),
    ]  # fmt: skip
    own = [(PREFIX + field.name, _TYPES[field.kind]) for field in features.fields]
    metadata = {"tidemill.format": FORMAT, "tidemill.features": features.model_dump_json()}
    return pa.schema([pa.field(name, kind) for name, kind in fixed + own], metadata=metadata)


class Archive:
    """One model's archive, for the one who writes it: a second writer is refused until the first has closed or died.

    Args:
        folder: of all models' archives; made where it is missing.

    Raises:
        ArchiveBusy: somebody writes it.
        OSError: the folder cannot be written.
    """

    def __init__(self, folder: Path, model: str, features: Schema, text_labels: bool = False) -> None:
        self._folder = folder / f"model={model}"
        self._features, self._columns = features, columns(features, text_labels)
        self._text_labels = text_labels
        self._folder.mkdir(parents=True, exist_ok=True)
        # Closed with the object at the latest, however that ends.
        self._lock = open(self._folder / ".lock", "a", encoding="ascii")  # noqa: SIM115
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise ArchiveBusy(f"somebody else writes the archive at {self._folder}") from error
        try:
            self.last = self._settle()
            """The last position that is archived."""
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._lock.close()

    def write(self, first: str, last: str, placed: Iterable[Placed]) -> list[Path]:
        """Keep the outcomes of a stretch of the stream; when this returns they are on disk. They are taken, and written, in
        pieces of `PIECE` rows: what they are made of may be much larger than they are here.

        Raises:
            OSError: they could not be written, such as to a full disk; nothing of them is there.
        """
        drafts: dict[str, pq.ParquetWriter] = {}
        names: list[Path] = []
        try:
            self._fill(drafts, f"{first}_{last}", placed)
            ends = [f"{number}-of-{len(drafts)}.parquet" for number in range(1, len(drafts) + 1)]
            names = [self._folder / f"day={day}" / f"{first}_{last}.{end}" for day, end in zip(drafts, ends, strict=True)]
            for name, draft in zip(names, drafts.values(), strict=True):
                draft.where.replace(name)
            for folder in {self._folder, *(name.parent for name in names)}:
                _sync(folder)
        except BaseException:
            for path in (*names, *(draft.where for draft in drafts.values())):
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)
            raise
        self.last = last
        return names

    def _fill(self, drafts: dict[str, pq.ParquetWriter], name: str, placed: Iterable[Placed]) -> None:
        """Write a draft for each day, and to the disk; those that were begun are in `drafts`, and closed, whatever fails."""
        rows = enumerate(placed)
        with contextlib.ExitStack() as closed:
            while piece := list(islice(rows, PIECE)):
                for day, of_day in _by_day(piece).items():
                    if day not in drafts:
                        drafts[day] = closed.enter_context(self._draft(day, f"{name}.{len(drafts) + 1}"))
                    drafts[day].write_table(self._table(of_day))  # pyright: ignore[reportUnknownMemberType]
        for draft in drafts.values():
            _sync(draft.where)

    def _draft(self, day: str, name: str) -> pq.ParquetWriter:
        path = self._folder / f"day={day}" / f".{name}.tmp"
        path.parent.mkdir(exist_ok=True)
        return pq.ParquetWriter(path, self._columns, compression="zstd")

    def _settle(self) -> str:
        """Drop what a crash left; return the last position that is archived."""
        for path in self._folder.glob("day=*/.*.tmp"):
            path.unlink()
        last = START
        for (_, end, parts), paths in stretches(self._folder).items():
            if len(paths) == parts:
                last = max(last, end, key=position_key)
            else:
                for path in paths:
                    path.unlink()
        return last

    def _table(self, rows: Sequence[_Row]) -> Any:
        outcomes = [outcome for _, (_, outcome) in rows]
        served = [outcome.served for outcome in outcomes]
        values: list[Sequence[Any]] = [
            [position for _, (position, _) in rows],
            [place for place, _ in rows],
            [outcome.id for outcome in outcomes],
            [outcome.unit for outcome in outcomes],
            [outcome.output for outcome in outcomes],
            [self._label(outcome.label) for outcome in outcomes],
            [outcome.kind for outcome in outcomes],
            [outcome.final for outcome in outcomes],
            [outcome.source for outcome in outcomes],
            [outcome.confidence for outcome in outcomes],
            *(
                _microseconds(times)
                for times in (
                    [outcome.predicted_at for outcome in outcomes],
                    [outcome.labelled_at for outcome in outcomes],
                    [outcome.received_at for outcome in outcomes],
                )
            ),
            [arm.variant for arm in served],
            [arm.version for arm in served],
            [arm.propensity for arm in served],
            [list(arm.experiments) for arm in served],
            [arm.latency_s for arm in served],
            [arm.epoch for arm in served],
            [None if outcome.replaces is None else self._label(outcome.replaces) for outcome in outcomes],
            [self._votes(outcome.votes) for outcome in outcomes],
            [self._votes(outcome.learned) for outcome in outcomes],
        ]
        for index, field in enumerate(self._features.fields):
            # What was predicted before a feature was added has none.
            values.append(_feature(field, [one.row[index] if index < len(one.row) else None for one in outcomes]))
        arrays = [pa.array(column, kind) for column, kind in zip(values, self._columns.types, strict=True)]
        return pa.Table.from_arrays(arrays, schema=self._columns)

    def _label(self, label: Label) -> Label:
        return str(label) if self._text_labels else float(label)

    def _votes(self, votes: Iterable[Vote]) -> list[dict[str, Any]]:
        return [{"label": self._label(vote.label), "source": vote.source, "confidence": vote.confidence} for vote in votes]


def stretches(root: Path) -> dict[tuple[str, str, int], list[Path]]:
    """Return the parts that are there of each stretch: by its first position, its last, and how many parts it has."""
    found: dict[tuple[str, str, int], list[Path]] = {}
    for path in root.glob("day=*/*.parquet"):
        if part := _PART.fullmatch(path.name):
            found.setdefault((part[1], part[2], int(part[4])), []).append(path)
    return found


def _by_day(rows: Iterable[_Row]) -> dict[str, list[_Row]]:
    days: dict[str, list[_Row]] = {}
    for row in rows:
        days.setdefault(_day(row[1][1].predicted_at), []).append(row)
    return days


def _day(at: float) -> str:
    """The day of a time of the stream's clock; one before all years, or after them, is in the first or the last."""
    return datetime.fromtimestamp(min(max(at, _YEARS_S[0]), _YEARS_S[1]), UTC).date().isoformat()


def _feature(field: FeatureField, values: Iterable[Value]) -> list[Any]:
    match field.kind:
        case "timestamp":
            return [None if value is None else round(float(value) * 1e6) for value in values]
        case "vector":
            return [None if value is None else memoryview(value).cast("f").tolist() for value in values]  # pyright: ignore[reportArgumentType]
        case "number":
            return [None if value is None else float(value) for value in values]
        case "boolean":
            return [None if value is None else bool(value) for value in values]
        case "category":
            return list(values)


def _microseconds(times: Iterable[float]) -> list[int]:
    return [round(time * 1e6) for time in times]


def _sync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
