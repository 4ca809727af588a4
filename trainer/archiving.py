"""A model's outcomes on their way into its archive: read from their stream, written, and only then counted as taken."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from time import time
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from store.errors import ArchiveBusy, StoreError
from store.names import archive_consumer, outcome_stream
from store.protocols import START, Advance, Entry, Store, position_key
from store.records import Outcomes, unpack_outcomes
from store.spec import ModelRecord

if TYPE_CHECKING:
    from store.archive import Archive

log = logging.getLogger(__name__)
READ_ENTRIES = 500
IDLE_S = 1.0
PAUSES_S = (0.5, 1.0, 2.0, 5.0, 10.0)
"""Between tries after a failure; the last again and again."""


class ArchiveSettings(BaseModel):
    """Where outcomes are kept for good, in a folder that every node sees; an empty one is none. A file is written of `rows`
    outcomes, or of those that there are after `every_s` seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: str = ""
    rows: int = Field(default=20_000, ge=1)
    every_s: float = Field(default=600.0, ge=0)


NO_ARCHIVE = ArchiveSettings()


@asynccontextmanager
async def archived(record: ModelRecord, store: Store, settings: ArchiveSettings) -> AsyncGenerator["Archiving | None"]:
    """Archive a model's outcomes for the time of the context, if they are archived."""
    if not settings.folder:
        yield None
        return
    archiving = Archiving(record, store, settings)
    task = asyncio.create_task(archiving.run())
    try:
        yield archiving
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class Archiving:
    """Archives the outcomes of one model, each once.

    `at` is how far it has come, durably; `problem` what keeps it from going on, empty where nothing does.
    """

    def __init__(self, record: ModelRecord, store: Store, settings: ArchiveSettings) -> None:
        self._record, self._store, self._folder = record, store, Path(settings.folder)
        self._rows, self._every_s = settings.rows, settings.every_s
        self._stream, self._consumer = outcome_stream(record.name), archive_consumer(record.name)
        self.at = START
        self.problem = ""

    async def run(self) -> None:
        """Archive until cancelled, whatever fails meanwhile: the stream keeps what was not taken."""
        failures = 0
        while True:
            try:
                with await asyncio.to_thread(self._opened) as archive:
                    await self._resume(archive)
                    while True:
                        more = await self.step(archive)
                        if not self._count:
                            failures, self.problem = 0, ""
                        if not more:
                            await asyncio.sleep(IDLE_S)
            except (StoreError, ArchiveBusy) as error:
                self.problem = str(error)
            except OSError as error:
                self.problem = f"the archive in {self._folder} cannot be written: {error.strerror or error}"
            except Exception as error:
                log.exception("the archive of model '%s' failed and is taken up again", self._record.name)
                self.problem = f"{type(error).__name__}: {error}"
            await asyncio.sleep(PAUSES_S[min(failures, len(PAUSES_S) - 1)])
            failures += 1

    async def step(self, archive: "Archive") -> bool:
        """Read on; write what is due. True if there was anything to read."""
        entries = await self._store.read(self._stream, self._read_at, READ_ENTRIES)
        for entry in entries:
            self._first = self._first or entry.position
            self._read_at = entry.position
            # Kept packed, which is smaller: they may be ten minutes' worth.
            if isinstance(record := unpack_outcomes(entry.payload), Outcomes):
                self._gathered.append(entry)
                self._count += len(record.outcomes)
        if self._count >= self._rows or (self._count and time() - self._written_at >= self._every_s):
            await self._write(archive)
        return len(entries) == READ_ENTRIES

    async def _write(self, archive: "Archive") -> None:
        last = self._read_at
        writing = asyncio.ensure_future(asyncio.to_thread(_write, archive, self._first, last, self._gathered))
        try:
            await asyncio.shield(writing)
        except asyncio.CancelledError:
            await asyncio.wait([writing])  # the thread goes on, and the next writer must not come before it has ended
            raise
        await self._store.advance(Advance(self._consumer, self._expected, last), [])
        self.at = self._expected = last
        self._begin()

    def _begin(self) -> None:
        self._first, self._count, self._gathered, self._written_at = "", 0, list[Entry](), time()

    def _opened(self) -> "Archive":
        from store.archive import Archive  # noqa: PLC0415 - pyarrow: slow to import, and nobody waits for it here

        record = self._record
        return Archive(self._folder, record.name, record.features, text_labels=record.objective == "multiclass")

    async def _resume(self, archive: "Archive") -> None:
        """Go on after what is archived: a crash between the writing and the counting of it must not write it again."""
        self._expected, _ = await self._store.consumer(self._consumer)
        self.at = self._read_at = max(self._expected, archive.last, key=position_key)
        self._begin()
        if self.problem:
            self._written_at = 0.0  # what could not be written is due at once


def _write(archive: "Archive", first: str, last: str, entries: list[Entry]) -> None:
    records = ((entry.position, unpack_outcomes(entry.payload)) for entry in entries)
    placed = ((at, one) for at, record in records if isinstance(record, Outcomes) for one in record.outcomes)
    archive.write(first, last, placed)
