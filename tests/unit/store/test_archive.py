"""The archive: what is read is what was written, by any tool; a stretch is there once and whole, whatever dies."""

import os
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from store.archive import PIECE, Archive, Placed
from store.archived import days, read
from store.errors import ArchiveBusy, SchemaError
from store.records import Outcome, Served
from store.schema import FeatureField, Schema

MODEL = "click"
DAY_S = 86_400.0
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC).timestamp()
FEATURES = Schema(
    fields=(
        FeatureField(name="amount", kind="number", optional=True),
        FeatureField(name="member", kind="boolean"),
        FeatureField(name="colour", kind="category", buckets=16),
        FeatureField(name="when", kind="timestamp"),
        FeatureField(name="position", kind="vector", length=2),
    )
)


def _placed(number: int, at: float = NOON, amount: float | None = 1.5, label: float = 1.0) -> Placed:
    row = [amount, True, "rød", NOON, np.array([0.5, -2.0], dtype=np.float32).tobytes()]
    served = Served("main", 3, 0.5, ("trial",), 0.002, 7)
    outcome = Outcome(f"id {number}", "unit", row, [0.25], served, label, "label", True, at, at + 60.0, at + 61.0, "hand", 0.9)
    return f"{number}-0", outcome


def _ids(folder: Path) -> list[str]:
    return read(folder, MODEL)["id"].to_pylist()


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    with Archive(tmp_path, MODEL, FEATURES) as archive:
        archive.write("1-0", "2-0", [_placed(1), _placed(2, amount=None)])
    [first, second] = read(tmp_path, MODEL).to_pylist()
    assert second["x_amount"] is None
    noon = datetime.fromtimestamp(NOON, UTC)
    assert (first["x_amount"], first["x_member"], first["x_colour"], first["x_position"]) == (1.5, True, "rød", [0.5, -2.0])
    assert first["x_when"] == noon.replace(tzinfo=None)
    assert (first["id"], first["unit"], first["output"], first["label"]) == ("id 1", "unit", [0.25], 1.0)
    assert (first["kind"], first["final"], first["source"], first["confidence"]) == ("label", True, "hand", 0.9)
    assert (first["variant"], first["version"], first["propensity"], first["epoch"]) == ("main", 3, 0.5, 7)
    assert (first["experiments"], first["latency_s"], first["position"]) == (["trial"], 0.002, "1-0")
    assert (first["predicted_at"], first["labelled_at"].second, first["received_at"].second) == (noon, 0, 1)


def test_days_are_folders_that_other_tools_know(tmp_path: Path) -> None:
    with Archive(tmp_path, MODEL, FEATURES) as archive:
        archive.write("1-0", "3-0", [_placed(1), _placed(2, NOON + DAY_S), _placed(3)])
        archive.write("4-0", "4-0", [_placed(4, NOON + DAY_S)])
    frame = pd.read_parquet(tmp_path)
    assert frame.groupby("day", observed=True)["id"].agg(list).to_dict() == {
        "2026-03-01": ["id 1", "id 3"],
        "2026-03-02": ["id 2", "id 4"],
    }
    assert set(frame["model"]) == {MODEL}
    counted = ds.dataset(tmp_path, partitioning="hive").count_rows(filter=ds.field("day") == "2026-03-02")  # pyright: ignore[reportUnknownMemberType]
    assert counted == 2
    assert _ids(tmp_path) == ["id 1", "id 2", "id 3", "id 4"]


def test_polars_and_duckdb_read_what_pandas_reads(tmp_path: Path) -> None:
    with Archive(tmp_path, MODEL, FEATURES) as archive:
        archive.write("1-0", "3-0", [_placed(1), _placed(2, NOON + DAY_S), _placed(3)])
        archive.write("4-0", "4-0", [_placed(4, NOON + DAY_S)])
    of_pandas = pd.read_parquet(tmp_path).sort_values("id")
    columns = ["id", "label", "version", *(name for name in of_pandas if name.startswith("x_"))]
    of_polars = pl.scan_parquet(tmp_path, hive_partitioning=True).sort("id").collect()
    assert of_polars["day"].to_list() == [date(2026, 3, 1 + day) for day in (0, 1, 0, 1)]
    files = f"read_parquet('{tmp_path}/**/*.parquet', hive_partitioning = true)"
    with duckdb.connect() as database:
        counted = database.sql(f"select day, model, count(*) from {files} group by all order by day").fetchall()
        of_duckdb = database.sql(f"select {', '.join(columns)} from {files} order by id").fetchall()
    assert counted == [(date(2026, 3, 1), MODEL, 2), (date(2026, 3, 2), MODEL, 2)]
    for place, name in enumerate(columns):
        expected = [_plain(value) for value in of_pandas[name].tolist()]
        assert [_plain(value) for value in of_polars[name].to_list()] == expected, name
        assert [_plain(row[place]) for row in of_duckdb] == expected, name


def _plain(value: Any) -> Any:
    """A value as every tool has it: lists for arrays, times without their zone, None for what is missing."""
    if isinstance(value, float) and np.isnan(value):
        return None
    if isinstance(value, datetime):
        return value.replace(tzinfo=None)
    return list(value) if isinstance(value, (tuple, np.ndarray)) else value


def test_a_time_can_be_asked_for(tmp_path: Path) -> None:
    with Archive(tmp_path, MODEL, FEATURES) as archive:
        archive.write("1-0", "4-0", [_placed(number, NOON + number * DAY_S / 2) for number in range(1, 5)])
    since, until = (datetime.fromtimestamp(NOON + days * DAY_S, UTC) for days in (0.5, 1.5))
    assert read(tmp_path, MODEL, since, until)["id"].to_pylist() == ["id 1", "id 2"]
    with pytest.raises(FileNotFoundError, match="no outcomes of model 'other' are archived"):
        read(tmp_path, "other")


@pytest.mark.parametrize("left", [1, 2])
def test_parts_that_a_crash_left_are_dropped_and_the_stretch_is_written_again(tmp_path: Path, left: int) -> None:
    days = [_placed(number, NOON + number * DAY_S) for number in range(1, 4)]
    with Archive(tmp_path, MODEL, FEATURES) as archive:
        archive.write("0-1", "0-1", [_placed(0)])
        paths = archive.write("1-0", "3-0", days)
    for path in paths[left:]:
        path.rename(path.with_name(f".{path.name}.tmp"))
    with Archive(tmp_path, MODEL, FEATURES) as archive:
        assert archive.last == "0-1"
        assert _ids(tmp_path) == ["id 0"]
        archive.write("1-0", "3-0", days)
    assert _ids(tmp_path) == ["id 0", "id 1", "id 2", "id 3"]
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_full_disk_leaves_nothing_half_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    days = [_placed(number, NOON + number * DAY_S) for number in range(1, 4)]
    renamed: list[Path] = []
    replace = Path.replace

    def full(path: Path, target: Path) -> Path:
        if renamed:
            raise OSError(28, "No space left on device")
        renamed.append(target)
        return replace(path, target)

    with Archive(tmp_path, MODEL, FEATURES) as archive:
        monkeypatch.setattr(Path, "replace", full)
        with pytest.raises(OSError, match="No space left"):
            archive.write("1-0", "3-0", days)
        monkeypatch.undo()
        assert list(tmp_path.rglob("*.parquet*")) == []
        archive.write("1-0", "3-0", days)
    assert len(_ids(tmp_path)) == 3


def test_one_writes_at_a_time_and_a_dead_writer_is_nobody(tmp_path: Path) -> None:
    with Archive(tmp_path, MODEL, FEATURES), pytest.raises(ArchiveBusy, match="somebody else writes"):
        Archive(tmp_path, MODEL, FEATURES)
    if os.fork() == 0:
        Archive(tmp_path, MODEL, FEATURES)
        os._exit(0)
    os.wait()
    Archive(tmp_path, MODEL, FEATURES).close()


def test_names_of_classes_are_labels_and_features_may_be_added(tmp_path: Path) -> None:
    more = Schema(fields=(*FEATURES.fields, FeatureField(name="new", kind="number", optional=True)))
    with Archive(tmp_path, MODEL, FEATURES) as archive:
        archive.write("1-0", "1-0", [_placed(1)])
    position, outcome = _placed(2)
    outcome.row.append(4.0)
    with Archive(tmp_path, MODEL, more) as archive:
        archive.write("2-0", "2-0", [(position, outcome)])
    assert read(tmp_path, MODEL)["x_new"].to_pylist() == [None, 4.0]
    with Archive(tmp_path, "kinds", FEATURES, text_labels=True) as archive:
        archive.write("1-0", "1-0", [_placed(1, label="cat")])  # pyright: ignore[reportArgumentType]
    assert read(tmp_path, "kinds")["label"].to_pylist() == ["cat"]


def test_a_long_stretch_is_written_in_pieces_and_read_as_one(tmp_path: Path) -> None:
    many = 2 * PIECE + 5
    with Archive(tmp_path, MODEL, FEATURES) as archive:
        placed = (_placed(number, NOON + DAY_S * (number % 3 == 1)) for number in range(many))
        first, second = archive.write("0-0", f"{many}-0", placed)
    assert [first.name, second.name] == [f"0-0_{many}-0.1-of-2.parquet", f"0-0_{many}-0.2-of-2.parquet"]
    assert _ids(tmp_path) == [f"id {number}" for number in range(many)]
    assert pq.ParquetFile(second).num_row_groups == 3  # pyright: ignore[reportUnknownMemberType]


def test_what_fails_in_a_later_piece_leaves_nothing(tmp_path: Path) -> None:
    def failing() -> Iterator[Placed]:
        yield from (_placed(number, NOON + DAY_S * (number % 3 == 1)) for number in range(PIECE + 1))
        raise OSError(28, "No space left on device")

    with Archive(tmp_path, MODEL, FEATURES) as archive:
        archive.write("1-0", "1-0", [_placed(1)])
        with pytest.raises(OSError, match="No space left"):
            archive.write("2-0", "9-0", failing())
        assert archive.last == "1-0"
        assert [path.name for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock"] == [
            "1-0_1-0.1-of-1.parquet"
        ]
        archive.write("2-0", "2-0", [_placed(2)])
    assert _ids(tmp_path) == ["id 1", "id 2"]


def test_a_stretch_is_read_whole_or_not_at_all(tmp_path: Path) -> None:
    with Archive(tmp_path, MODEL, FEATURES) as archive:
        archive.write("1-0", "1-0", [_placed(1)])
        _, second = archive.write("2-0", "3-0", [_placed(2), _placed(3, NOON + DAY_S)])
        second.rename(tmp_path / "elsewhere")  # as a reader sees it who comes between two names
        assert _ids(tmp_path) == ["id 1"]
        assert [(day.day, day.outcomes) for day in days(tmp_path, MODEL)] == [("2026-03-01", 1)]
        (tmp_path / "elsewhere").rename(second)
        assert _ids(tmp_path) == ["id 1", "id 2", "id 3"]


def test_a_time_that_no_calendar_has_stops_nothing(tmp_path: Path) -> None:
    """Such as the first day of the year 1, in Auckland."""
    with Archive(tmp_path, MODEL, FEATURES) as archive:
        archive.write("1-0", "3-0", [_placed(1), _placed(2, -62_135_640_000.0), _placed(3, 253_402_340_000.0)])
    assert [(day.day, day.outcomes) for day in days(tmp_path, MODEL)] == [
        ("0001-01-01", 1),
        ("2026-03-01", 1),
        ("9999-12-31", 1),
    ]
    assert read(tmp_path, MODEL).num_rows == 3


def test_outcomes_of_two_declarations_are_told_from_damage(tmp_path: Path) -> None:
    with Archive(tmp_path, MODEL, FEATURES) as archive:
        archive.write("1-0", "1-0", [_placed(1)])
    with Archive(tmp_path, MODEL, FEATURES, text_labels=True) as archive:
        archive.write("2-0", "2-0", [_placed(2)])
    with pytest.raises(SchemaError, match=r"two declarations .*label.*: move the older files away"):
        read(tmp_path, MODEL)
