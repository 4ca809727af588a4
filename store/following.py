"""Streaming features at work: their state is read from a snapshot, then from the streams that go on from it.

The snapshot is in the store as the blob of a consumer, whose position counts the snapshots written; it names the positions
up to which it holds everything. Whoever joins writes it, and drops nothing from the streams that is not in it. What is read
from a snapshot and from there on is what reading all would have given, bit for bit; so nobody else keeps anything.
"""

import asyncio
from dataclasses import dataclass

import msgpack

from store.names import log_stream, outcome_stream, streaming_consumer
from store.protocols import START, Advance, Store, position_key
from store.records import Outcomes, Predictions, unpack_log, unpack_outcomes
from store.spec import ModelRecord
from store.streams import Streams

READ_ENTRIES = 500


@dataclass(frozen=True, slots=True)
class Reached:
    """How far the outcomes and the log have been taken in."""

    outcomes: str = START
    log: str = START


class Follower:
    """A model's streaming features, which hold everything up to `at`."""

    def __init__(self, record: ModelRecord, store: Store) -> None:
        self.streams = Streams(record)
        self.at = Reached()
        self._store = store
        self._consumer = streaming_consumer(record.name)
        self._outcomes, self._log = outcome_stream(record.name), log_stream(record.name)
        self._over_outcomes = any(one.over_outcomes for one in record.streaming)
        self._over_predictions = any(not one.over_outcomes for one in record.streaming)
        self._reading = asyncio.Lock()
        self._written = START
        self._kept = Reached()

    async def resume(self) -> None:
        """Go on from the snapshot where that is further; so what was dropped while the store was away is not missed."""
        async with self._reading:
            # Before the snapshot: of a newer one than the number says, none can be written.
            self._written, _ = await self._store.consumer(self._consumer)
            if packed := await self._store.blob(self._consumer):
                outcomes, log, state = msgpack.unpackb(packed)
                if position_key(outcomes) >= position_key(self.at.outcomes) and position_key(log) >= position_key(self.at.log):
                    self.streams.restore(state)
                    self.at = self._kept = Reached(outcomes, log)

    async def catch_up(self) -> None:
        """Take in all that there is now."""
        async with self._reading:
            while self._over_outcomes and await self._read_outcomes():
                pass
            while self._over_predictions and await self._read_log():
                pass

    async def keep(self) -> None:
        """Write the snapshot of all that there is now. Call it after `resume`.

        Raises:
            Fenced: somebody else has written one meanwhile.
        """
        await self.catch_up()
        at = self.at
        if at != self._kept:
            packed: bytes = msgpack.packb((at.outcomes, at.log, self.streams.packed()))  # pyright: ignore[reportAssignmentType]
            written = f"{position_key(self._written)[0] + 1}-0"
            await self._store.advance(Advance(self._consumer, self._written, written, b"", packed), [])
            self._written, self._kept = written, at

    def needs(self, outcomes: str, log: str) -> tuple[str, str]:
        """Return before which positions the streams may be dropped that nobody else needs before these."""
        if self._over_outcomes:
            outcomes = min(outcomes, self._kept.outcomes, key=position_key)
        if self._over_predictions:
            log = min(log, self._kept.log, key=position_key)
        return outcomes, log

    async def _read_outcomes(self) -> bool:
        entries = await self._store.read(self._outcomes, self.at.outcomes, READ_ENTRIES)
        for entry in entries:
            if isinstance(record := unpack_outcomes(entry.payload), Outcomes):
                self.streams.outcomes(record.outcomes)
            self.at = Reached(entry.position, self.at.log)
        return len(entries) == READ_ENTRIES

    async def _read_log(self) -> bool:
        entries = await self._store.read(self._log, self.at.log, READ_ENTRIES)
        for entry in entries:
            if (record := _predictions(entry.payload)) is not None:
                self.streams.predictions(record, position_key(entry.position)[0] / 1000.0)
            self.at = Reached(self.at.outcomes, entry.position)
        return len(entries) == READ_ENTRIES


def _predictions(payload: bytes) -> Predictions | None:
    """Return an entry's predictions; None where it holds none, or what nobody can read, which the join counts."""
    if payload[1:3] != b"\xa1p":
        return None
    try:
        record = unpack_log(payload)
    except (ValueError, TypeError, IndexError):
        return None
    return record if isinstance(record, Predictions) else None
