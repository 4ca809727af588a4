"""One model's label join at work: it reads the log, and moves its position together with the outcomes that it appends.

Between two steps nothing is kept that the log does not give back. Each step is fenced by the position it starts from, so
that of two who join for one model only one can move.
"""

import asyncio
from collections.abc import Callable
from time import monotonic, time

from store.following import Follower
from store.names import join_consumer, log_stream, outcome_stream
from store.protocols import START, Advance, Store, position_key
from store.records import OutcomeRecord, Tick, pack_log, pack_outcomes
from store.spec import ModelRecord
from trainer.archiving import Archiving
from trainer.errors import CheckpointError
from trainer.join import JoinState, LabelJoin

READ_ENTRIES = 500
TRIM_EVERY_S = 60.0
TICK_S = 0.5
LOOK_S = 0.05
"""How often the log is looked at while nothing asks for it."""


class Joining:
    """`reached` is told of the durable steps, before and after each (for fault tests); outcomes stay until they are archived,
    where `archiving` is given."""

    def __init__(
        self,
        record: ModelRecord,
        store: Store,
        *,
        retention_s: float = 7 * 86_400.0,
        reached: Callable[[str], None] | None = None,
        archiving: Archiving | None = None,
    ) -> None:
        self._record = record
        self._features = Follower(record, store) if record.streaming else None
        self._archiving = archiving
        self._store = store
        self._retention_s = retention_s
        self._reached = reached or nobody
        self._log, self._outcomes = log_stream(record.name), outcome_stream(record.name)
        self._read_at = START
        self._low_water = ""
        self._unsaved = 0
        self._control_at = START
        self._ticked_at = 0.0
        self._trimmed_at = time()
        self.at = START
        """How far the join has come, durably."""
        self.more = True
        """Whether there may be something to read at once."""
        self.busy_s = 0.0

    async def start(self) -> None:
        """Take up where the last one stopped.

        Raises:
            CheckpointError: the store's log is older than the position.
        """
        position, state = await self._store.consumer(join_consumer(self._record.name))
        await refuse_if_ahead(self._store, self._log, position, f"join of model '{self._record.name}'")
        self._join = LabelJoin(self._record, JoinState.unpacked(state) if state else None)
        self.at = self._read_at = position
        low = self._low_water = self._join.state.low_water
        with self._join.rebuilding():
            # Part by part, with rests: it may be days, what is served meanwhile goes first, and the lease wants to be renewed.
            read, more = (_before(low), True) if low else (low, False)
            while more:
                entries = await self._store.read(self._log, read, READ_ENTRIES)
                again = [entry for entry in entries if position_key(entry.position) <= position_key(position)]
                started = monotonic()
                self._join.feed(again)
                await asyncio.sleep((monotonic() - started) / 2)
                more = bool(again) and len(again) == len(entries)
                read = again[-1].position if again else read
        if self._features is not None:
            await self._features.resume()

    async def step(self, block_s: float = 0.5) -> bool:
        """Join what is in the log, where nobody learns from it; wait up to `block_s` if there is nothing. True if there was."""
        read, records = await self.read(block_s, None)
        if self.due(records, read):
            await self.save(records)
        await self.trim(await self._store.last(self._outcomes))
        return read

    async def read(self, block_s: float, every: int | None) -> tuple[bool, list[OutcomeRecord]]:
        """Return whether anything was in the log, and what follows from it; `save` makes it durable.

        Args:
            every: after how many outcomes a micro-batch ends, if it does.
        """
        await self._maybe_tick()
        if not self.more:
            # Not woken by every prediction, which would cost serving more than it gains learning: by cuts, else by the clock.
            self._control_at = await self._store.changes(self._control_at, min(block_s, LOOK_S))
        entries = await self._store.read(self._log, self._read_at, READ_ENTRIES)
        self.more = len(entries) == READ_ENTRIES
        started = time()
        if entries:
            self._join.every = every
            self._read_at = entries[-1].position
            self._unsaved += len(entries)
        records = self._join.feed(entries)
        self.busy_s += time() - started
        return bool(entries), records

    def due(self, records: list[OutcomeRecord], read: bool) -> bool:
        """Whether to save now. What has no consequence yet costs no write: it would be read again."""
        return bool(records) or self._unsaved >= READ_ENTRIES or (self._unsaved > 0 and not read)

    async def save(self, records: list[OutcomeRecord]) -> list[str]:
        """Move the join, together with the outcomes that follow from what it read; return where those are."""
        state = self._join.state.packed()
        self._reached("join.before")
        step = Advance(join_consumer(self._record.name), self.at, self._read_at, state)
        out = [(self._outcomes, pack_outcomes(record)) for record in records]
        positions = await self._store.advance(step, out)
        self._reached("join.after")
        self._low_water = self._join.state.low_water
        self.at, self._unsaved = self._read_at, 0
        return positions

    async def trim(self, taken: str) -> None:
        """Now and then drop what is too old to be kept, of the outcomes only what was taken by the one who learns, and archived
        where there is an archive, and is in the streaming features' snapshot."""
        if time() - self._trimmed_at < TRIM_EVERY_S:
            return
        self._trimmed_at = time()
        if self._archiving is not None:
            taken = min(taken, self._archiving.at, key=position_key)
        joined = self._low_water or self.at
        if self._features is not None:
            await self._features.keep()
            taken, joined = self._features.needs(taken, joined)
        oldest = f"{int((time() - self._retention_s) * 1000)}-0"
        for stream, needed in ((self._log, joined), (self._outcomes, taken)):
            await self._store.trim(stream, min(oldest, needed, key=position_key))

    async def _maybe_tick(self) -> None:
        """Time passes where nobody writes, too: a label window that ends on a quiet log is ended by an entry of our own."""
        now = time()
        if self.more or self._record.clock != "log" or now <= self._join.closes_at or now - self._ticked_at < TICK_S:
            return
        self._ticked_at = now
        self.more = True
        await self._store.append([(self._log, pack_log(Tick(now)))])


async def refuse_if_ahead(store: Store, stream: str, position: str, who: str) -> None:
    """Raises CheckpointError where a position is beyond the end of its stream."""
    last = await store.last(stream)
    if position_key(position) > position_key(last):
        raise CheckpointError(
            f"the {who} has read up to {position}, but its stream ends at {last}: the store was "
            "restored from an older copy. Restore the newer one, or start with an empty data directory."
        )


def _before(position: str) -> str:
    """The greatest position below one, so that a read after it starts with it."""
    milliseconds, sequence = position_key(position)
    return f"{milliseconds}-{sequence - 1}" if sequence else f"{milliseconds - 1}-{2**64 - 1}"


def nobody(_: object) -> None:
    """Nobody watches."""
