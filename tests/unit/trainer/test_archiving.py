"""Outcomes on their way into the archive: each once, whatever fails between two steps, and none trimmed before."""

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from store.archive import Archive
from store.archived import read
from store.memory import MemoryStore
from store.names import archive_consumer, outcome_stream
from store.protocols import START, Advance, position_key
from store.records import Cut, Outcome, Outcomes, Served, pack_outcomes
from store.spec import ModelSpec
from trainer.archiving import NO_ARCHIVE, ArchiveSettings, Archiving, archived
from trainer.joining import Joining

pytestmark = pytest.mark.anyio

MODEL = "coin"


class Features(BaseModel):
    side: str


RECORD = ModelSpec(name=MODEL, features=Features).record


def _outcome(name: str) -> Outcome:
    return Outcome(name, name, ["heads"], [0.5], Served("main", 1, 1.0), 1.0, "label", True, 1e9, 1e9, 1e9)


async def _append(store: MemoryStore, *names: str) -> str:
    records = [Outcomes([_outcome(name)]) for name in names]
    positions = await store.append([(outcome_stream(MODEL), pack_outcomes(record)) for record in (*records, Cut("hand"))])
    return positions[-2]


def _archiving(store: MemoryStore, folder: Path, rows: int = 2, every_s: float = 0.0) -> Archiving:
    return Archiving(RECORD, store, ArchiveSettings(folder=str(folder), rows=rows, every_s=every_s))  # pyright: ignore[reportArgumentType]


async def _until(condition: Any) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def _archived(archiving: Archiving, position: str) -> None:
    """Let it run until it has come so far."""
    task = asyncio.create_task(archiving.run())
    try:
        await _until(lambda: position_key(archiving.at) >= position_key(position))
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _ids(folder: Path) -> list[str]:
    return read(folder, MODEL)["id"].to_pylist()


async def test_outcomes_are_archived_in_order_and_where_it_stopped_it_goes_on(tmp_path: Path) -> None:
    store = MemoryStore()
    last = await _append(store, "a", "b", "c")
    await _archived(_archiving(store, tmp_path), last)
    last = await _append(store, "d")
    await _archived(_archiving(store, tmp_path), last)
    assert _ids(tmp_path) == ["a", "b", "c", "d"]


async def test_what_was_written_and_not_counted_is_not_written_again(tmp_path: Path) -> None:
    class Dying(MemoryStore):
        async def advance(self, step: Advance, entries: Any) -> list[str]:
            raise KeyboardInterrupt

    store = Dying()
    last = await _append(store, "a", "b")
    archiving = _archiving(store, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        await archiving.run()
    assert (await store.consumer(archive_consumer(MODEL)))[0] == START
    healthy = MemoryStore()
    healthy.__dict__ = store.__dict__
    last = await _append(healthy, "c")
    await _archived(_archiving(healthy, tmp_path), last)
    assert _ids(tmp_path) == ["a", "b", "c"]


async def test_a_folder_that_cannot_be_written_is_said_and_nothing_is_lost(tmp_path: Path) -> None:
    store, folder = MemoryStore(), tmp_path / "archive"
    last = await _append(store, "a", "b")
    folder.write_text("a file, not a folder")
    archiving = _archiving(store, folder)
    task = asyncio.create_task(archiving.run())
    await _until(lambda: "cannot be written" in archiving.problem)
    assert str(folder) in archiving.problem
    folder.unlink()
    await _until(lambda: archiving.at == last or position_key(archiving.at) >= position_key(last))
    assert archiving.problem == ""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert _ids(folder) == ["a", "b"]


async def test_only_what_is_archived_is_trimmed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.joining.TRIM_EVERY_S", 0.0)
    store = MemoryStore()
    await store.register(RECORD)
    last = await _append(store, "a", "b")
    archiving = _archiving(store, tmp_path)
    joining = Joining(RECORD, store, retention_s=-1e6, archiving=archiving)  # pyright: ignore[reportArgumentType]
    await joining.start()
    stream = outcome_stream(MODEL)
    there = len(await store.read(stream, START, 100))
    await joining.trim(await store.last(stream))
    assert len(await store.read(stream, START, 100)) == there
    await _archived(archiving, last)
    await joining.trim(await store.last(stream))
    assert len(await store.read(stream, START, 100)) < there


async def test_no_folder_is_no_archive() -> None:
    async with archived(RECORD, MemoryStore(), NO_ARCHIVE) as archiving:  # pyright: ignore[reportArgumentType]
        assert archiving is None


async def test_whoever_stops_while_it_writes_waits_for_what_is_being_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, begun, write = MemoryStore(), threading.Event(), Archive.write

    def slowly(archive: Archive, first: str, last: str, placed: Any) -> list[Path]:
        begun.set()
        time.sleep(0.3)
        return write(archive, first, last, placed)

    monkeypatch.setattr(Archive, "write", slowly)
    await _append(store, "a", "b")
    task = asyncio.create_task(_archiving(store, tmp_path).run())
    await _until(begun.is_set)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert _ids(tmp_path) == ["a", "b"]
    monkeypatch.undo()
    last = await _append(store, "c")
    await _archived(_archiving(store, tmp_path), last)
    assert _ids(tmp_path) == ["a", "b", "c"]


async def test_a_full_disk_is_said_until_what_waited_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, refused = MemoryStore(), list[str]()

    def full(archive: Archive, first: str, last: str, placed: Any) -> list[Path]:
        refused.append(archiving.problem)
        raise OSError(28, "No space left on device")

    last = await _append(store, "a", "b")
    archiving = _archiving(store, tmp_path, rows=2, every_s=600.0)
    with monkeypatch.context() as patch:
        patch.setattr(Archive, "write", full)
        task = asyncio.create_task(archiving.run())
        await _until(lambda: len(refused) == 3)
    assert all("No space left on device" in problem for problem in refused[1:])
    await _until(lambda: position_key(archiving.at) >= position_key(last))
    await _until(lambda: not archiving.problem)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert _ids(tmp_path) == ["a", "b"]
