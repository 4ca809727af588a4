"""Follows the learner: profiles the outcomes that it has had, and says what their features are expected to be.

A consumer of its own of the outcome stream, never ahead of the learner: what it remembers moves together with its position, and
what lies between the two positions is read again after a restart, so that each outcome counts once.
"""

import contextlib
import json
from collections.abc import Sequence
from time import time
from typing import Any

import msgpack

from store.errors import RevisionConflict
from store.expectations import Expectations, read_expectations, write_expectations
from store.names import outcome_stream, profile_consumer
from store.protocols import START, Advance, Store, position_key
from store.records import Outcome, Outcomes, unpack_outcomes
from store.spec import ModelRecord
from trainer.lag import LabelLag
from trainer.profile import ENOUGH, Profile
from trainer.sketch import Sketch

_READ_ENTRIES = 500
SAVED_EVERY = 500
"""Outcomes after which it is saved; ten times as many, where ten times ENOUGH are profiled."""

INFERRED_EVERY = 100_000
"""Rows after which expectations are inferred again; before, whenever there are twice as many."""


class Expecting:
    """One model's profile, label lag, and expectations where its declaration wants them."""

    def __init__(self, record: ModelRecord, store: Store) -> None:
        self._record, self._store = record, store
        self._name = profile_consumer(record.name)
        self._at = self._had = START
        self._stream = outcome_stream(record.name)
        self._taken = 0
        self._waiting: list[Outcome] = []
        self._profile = Profile(record.features)
        self._next = float(ENOUGH)
        self.lag = LabelLag(record.clock)

    @property
    def at(self) -> str:
        """Up to where outcomes have been taken, as far as they were when this started."""
        return self._had

    @property
    def progress(self) -> dict[str, Any]:
        """What is told of it: rows profiled so far, and how long labels take."""
        return {"profiled": round(self._profile.rows), "label_lag": self.lag.summary()}

    async def start(self, learner_at: str) -> None:
        """Take up where it was saved, and come to where the learner is. One that never was begins there."""
        self._at, state = await self._store.consumer(self._name)
        self._had = max(self._at, learner_at, key=position_key)
        if not state or not await self._restored():
            await self._save(learner_at)
            return
        end, at = position_key(learner_at), self._at
        while position_key(at) < end and (entries := await self._store.read(self._stream, at, _READ_ENTRIES)):
            at = entries[-1].position
            for entry in entries:
                record = unpack_outcomes(entry.payload) if position_key(entry.position) <= end else None
                if isinstance(record, Outcomes):
                    self.take(record.outcomes)
        self.lag.begin_counts()

    def take(self, outcomes: Sequence[Outcome]) -> None:
        """Take in outcomes on their way to the learner."""
        self.lag.add(outcomes)
        self._taken += len(outcomes)
        if self._record.infer_expectations:
            self._waiting += [one for one in outcomes if one.kind != "correction"]  # whose row was there already

    async def follow(self, learner_at: str) -> None:
        """Keep up with the learner, which is at this position now, and has had all that was taken."""
        every = SAVED_EVERY * (1 if self._profile.rows < 10 * ENOUGH else 10)
        if self._taken < every or position_key(learner_at) < position_key(self._had):
            return
        self._profile.add(self._waiting)
        self._taken, self._waiting = 0, []
        if self._profile.rows >= self._next:
            self._next = self._profile.rows + min(self._profile.rows, INFERRED_EVERY)
            await self._infer(await read_expectations(self._store, self._record.name))
        await self._save(learner_at)

    async def refresh(self) -> None:
        """Infer at once where somebody asks for it."""
        if self._profile.rows >= ENOUGH:
            current = await read_expectations(self._store, self._record.name)
            if current.awaited:
                await self._infer(current)

    async def _infer(self, current: Expectations) -> None:
        """Replace expectations that were inferred; who edits them meanwhile is right."""
        found = self._profile.infer()
        if current.origin == "edited" or (current.rows and current.expectations == found):
            return
        inferred = Expectations(expectations=found, rows=round(self._profile.rows), at=time(), who="trainer")
        with contextlib.suppress(RevisionConflict):
            await write_expectations(self._store, self._record.name, inferred, current.revision)

    async def _restored(self) -> bool:
        """Whether what was saved could be read: that of another release may not be."""
        try:
            packed, lag, due = msgpack.unpackb(await self._store.blob(self._name))
            profile, sketch = Profile.unpacked(self._record.features, packed), Sketch.unpacked(lag)
        except (ValueError, TypeError):
            return False
        self._profile, self.lag.sketch, self._next = profile, sketch, due
        return True

    async def _save(self, position: str) -> None:
        blob: Any = msgpack.packb([self._profile.packed(), self.lag.sketch.packed(), self._next])
        step = Advance(self._name, self._at, position, json.dumps(self.progress).encode(), blob)
        await self._store.advance(step, [])
        self._at = position
