"""The trainer of one model: join, learn, publish, over and over; killed anywhere, it goes on as if nothing had happened.

There are two durable steps, and each is atomic in the store: the join moves its position together with the outcomes it
appends; the learner moves its position together with its optimiser's state and the version it publishes. A third may
follow it: the version's compressed child. Between two steps nothing is kept that the log does not give back. Each step is
fenced by the position it starts from, so that of two trainers of one model only one can move.
"""

import asyncio
import json
import platform
from collections.abc import Callable
from time import time
from typing import TYPE_CHECKING

import torch

from store.artefact import digest_of
from store.names import join_consumer, learner_consumer, log_stream, outcome_stream
from store.policy import MAIN
from store.protocols import START, Advance, Commit, Store, Version, position_key
from store.records import Cut, Outcome, OutcomeRecord, Outcomes, Tick, pack_log, pack_outcomes, unpack_outcomes
from store.spec import ModelSpec, Schedule
from trainer.errors import CheckpointError
from trainer.join import JoinState, LabelJoin
from trainer.learner import NOTHING, Learned, Learner
from trainer.retention import forget

if TYPE_CHECKING:
    from trainer.compression.sister import Sister

READ_ENTRIES = 500
TRIM_EVERY_S = 60.0
TICK_S = 0.5
LOOK_S = 0.05
"""How often the log is looked at while nothing asks for it."""


class Trainer:
    """One model's join and learner. `reached` is told of the durable steps, before and after each (for fault tests)."""

    def __init__(
        self,
        spec: ModelSpec,
        store: Store,
        *,
        retention_s: float = 7 * 86_400.0,
        reached: Callable[[str], None] | None = None,
    ) -> None:
        self._spec = spec
        self._model = spec.name
        self._store = store
        self._retention_s = retention_s
        self._reached = reached or (lambda _: None)
        self._log, self._outcomes = log_stream(self._model), outcome_stream(self._model)
        self._join_at = self._read_at = START
        self._low_water = ""
        self._unsaved = 0
        self._more = True
        self._control_at = START
        self._learner_at = START
        self._batch: list[Outcome] = []
        self._version = 0
        self._sister: Sister | None = None
        self._schedule: Schedule = spec.schedule
        self._cut_at = time()
        self._trimmed_at = time()
        self._ticked_at = 0.0
        self.busy_s = {"join": 0.0, "learn": 0.0, "publish": 0.0}

    async def start(self) -> None:
        """Register the model and take up where the last trainer of it stopped; publish version 1 if there was none.

        Raises:
            SpecError: the model is on record with another declaration.
            CheckpointError: the store's log is older than the checkpoint.
        """
        await self._store.register(self._spec.record)
        self.learner = Learner(self._spec)
        await self.refresh()
        await self._resume_join()
        await self._resume_learner()
        await self._catch_up()

    async def step(self, block_s: float = 0.5) -> bool:
        """Take what is in the log through join and learner; wait up to `block_s` if there is nothing. True if there was."""
        await self._maybe_cut()
        await self._maybe_tick()
        if not self._more:
            # Not woken by every prediction, which would cost serving more than it gains learning: by cuts, else by the clock.
            self._control_at = await self._store.changes(self._control_at, min(block_s, LOOK_S, self._until_cut()))
        entries = await self._store.read(self._log, self._read_at, READ_ENTRIES)
        self._more = len(entries) == READ_ENTRIES
        started = time()
        if entries:
            self._join.every = self._schedule.outcomes
            self._read_at = entries[-1].position
            self._unsaved += len(entries)
        records = self._join.feed(entries)
        self.busy_s["join"] += time() - started
        # What has no consequence yet costs no write: it would be read again.
        if records or self._unsaved >= READ_ENTRIES or (self._unsaved and not entries):
            saving = asyncio.create_task(self._save_join(records))
            for index, record in enumerate(records):
                learned = await self._take(record)  # while the join is being saved
                positions = await saving
                if isinstance(record, Cut):
                    await self._commit(record, positions[index], learned)
            await saving
        await self._maybe_trim()
        return bool(entries)

    async def _save_join(self, records: list[OutcomeRecord]) -> list[str]:
        """Move the join, together with the outcomes that follow from what it read; return where those are."""
        state = self._join.state.packed()
        self._reached("join.before")
        step = Advance(join_consumer(self._model), self._join_at, self._read_at, state)
        out = [(self._outcomes, pack_outcomes(record)) for record in records]
        positions = await self._store.advance(step, out)
        self._reached("join.after")
        self._low_water = self._join.state.low_water
        self._join_at, self._unsaved = self._read_at, 0
        return positions

    async def refresh(self) -> None:
        """Look up what operators may have changed."""
        self._schedule = (await self._store.models())[self._model].schedule

    @property
    def progress(self) -> dict[str, object]:
        return {
            "join": self._join_at,
            "learner": self._learner_at,
            "version": self._version,
            "waiting": len(self._batch),
        }

    async def _resume_join(self) -> None:
        position, state = await self._store.consumer(join_consumer(self._model))
        await self._refuse_if_ahead(self._log, position, "join")
        self._join = LabelJoin(self._spec.record, JoinState.unpacked(state) if state else None)
        self._join_at = self._read_at = position
        low = self._low_water = self._join.state.low_water
        entries = await self._store.read(self._log, _before(low), READ_ENTRIES) if low else []
        again = [entry for entry in entries if position_key(entry.position) <= position_key(position)]
        while entries and again and position_key(again[-1].position) < position_key(position):
            entries = await self._store.read(self._log, again[-1].position, READ_ENTRIES)
            again += [entry for entry in entries if position_key(entry.position) <= position_key(position)]
        self._join.rebuild(again)

    async def _resume_learner(self) -> None:
        name = learner_consumer(self._model)
        position, state = await self._store.consumer(name)
        await self._refuse_if_ahead(self._outcomes, position, "learner")
        self._learner_at = position
        if state:
            self._version = (await self._store.snapshot(self._model)).channels[f"{MAIN}@latest"]
            version = await self._store.version(self._model, self._version)
            self._graph = await self._store.graph(self._model, version.graph)
            weights = await self._store.weights(self._model, self._version)
            self.learner.restore(weights, await self._store.blob(name))
            await self._compress(version, weights)
        else:
            self._graph = self.learner.export()
            await self._store.put_graph(self._model, self._graph)
            await self._commit(Cut("start", time(), START), START, NOTHING)

    async def _refuse_if_ahead(self, stream: str, position: str, who: str) -> None:
        last = await self._store.last(stream)
        if position_key(position) > position_key(last):
            raise CheckpointError(
                f"the {who} of model '{self._model}' has read up to {position}, but its stream ends at {last}: the store was "
                "restored from an older copy. Restore the newer one, or start with an empty data directory."
            )

    async def _catch_up(self) -> None:
        """Learn what was joined before this trainer started; from then on outcomes go straight from join to learner."""
        after = self._learner_at
        while entries := await self._store.read(self._outcomes, after, READ_ENTRIES):
            after = entries[-1].position
            for entry in entries:
                record = unpack_outcomes(entry.payload)
                learned = await self._take(record)
                if isinstance(record, Cut):
                    await self._commit(record, entry.position, learned)

    async def _take(self, record: OutcomeRecord) -> Learned:
        """Gather outcomes, and learn what was gathered when a micro-batch ends; nothing durable happens here."""
        if isinstance(record, Outcomes):
            self._batch.extend(record.outcomes)
            return NOTHING
        batch, self._batch = self._batch, []
        started = self._cut_at = time()
        # In a thread: a batch may take long, and this trainer's lease must not run out over it.
        learned = await asyncio.to_thread(self.learner.learn, batch, record.log_position) if batch else NOTHING
        self.busy_s["learn"] += time() - started
        return learned

    async def _commit(self, cut: Cut, position: str, learned: Learned) -> None:
        """Move the learner past a cut; publish what it learned, or keep the refusal on record."""
        started = time()
        publishes = bool(learned.rows and not learned.rejected) or not self._version
        weights = self.learner.weights() if publishes else b""
        version = self._describe(cut, position, learned, weights) if publishes or learned.rejected else None
        verdict = _verdict(version, learned)
        state = {
            "log_position": cut.log_position, "verdict": verdict, "outcomes": learned.rows,
            "recent_loss": learned.recent_loss, "reason": cut.reason, "at": time(),
        }  # fmt: skip
        blob = self.learner.checkpoint() if publishes else b""
        step = Advance(learner_consumer(self._model), self._learner_at, position, json.dumps(state).encode(), blob)
        self._reached("publish.before")
        published = await self._store.commit(self._model, Commit(step, version, weights))
        self._reached("publish.after")
        self._learner_at = position
        if publishes and published:
            before, self._version = self._version, published.number
            await self._compress(published, weights)
            await forget(self._store, self._model, before, published.number)
        self.busy_s["publish"] += time() - started

    async def _compress(self, version: Version, weights: bytes) -> None:
        """Publish a version's compressed child, where the declaration asks for one and there is none yet."""
        if not self._spec.compress:
            return
        if self._sister is None:
            from trainer.compression.sister import Sister  # noqa: PLC0415 - quantisers, which most models do without

            self._sister = Sister(self._store, self._spec.record)
            await self._sister.start()
        await self._sister.follow(version, self._graph, weights)
        self._reached("compress.after")

    def _describe(self, cut: Cut, position: str, learned: Learned, weights: bytes) -> Version:
        good = not learned.rejected
        return Version(
            model=self._model,
            line=MAIN,
            parent=self._version,
            status="published" if good else "rejected",
            reason=learned.rejected,
            position=position,
            log_position=cut.log_position,
            created_at=time(),
            graph=self._graph.digest,
            weights=digest_of(weights) if good else "",
            spec=self._spec.record.digest,
            outcomes=learned.rows,
            metrics={"loss": learned.loss, "recent_loss": learned.recent_loss} if good else {},
            label_times=learned.label_times,
            golden=self.learner.golden(self._graph) if good else (),
            lineage={"cut": cut.reason, "torch": torch.__version__, "machine": platform.machine()},
        )

    def _until_cut(self) -> float:
        if self._schedule.seconds is None or not self._join.state.since_cut:
            return float("inf")
        return max(0.001, self._cut_at + self._schedule.seconds - time())

    async def _maybe_cut(self) -> None:
        """By the clock: a cut goes through the log like everyone's, so that a replay finds it where it was."""
        seconds = self._schedule.seconds
        if seconds is not None and self._join.state.since_cut and time() - self._cut_at >= seconds:
            self._cut_at = time()
            self._more = True
            await self._store.append([(self._log, pack_log(Cut(f"every {seconds:g} s", time())))])

    async def _maybe_tick(self) -> None:
        """Time passes where nobody writes, too: a label window that ends on a quiet log is ended by an entry of our own."""
        now = time()
        if self._more or self._spec.clock != "log" or now <= self._join.closes_at or now - self._ticked_at < TICK_S:
            return
        self._ticked_at = now
        self._more = True
        await self._store.append([(self._log, pack_log(Tick(now)))])

    async def _maybe_trim(self) -> None:
        if time() - self._trimmed_at < TRIM_EVERY_S:
            return
        self._trimmed_at = time()
        oldest = f"{int((time() - self._retention_s) * 1000)}-0"
        for stream, needed in (
            (self._log, self._low_water or self._join_at),
            (self._outcomes, self._learner_at),
        ):
            await self._store.trim(stream, min(oldest, needed, key=position_key))


def _before(position: str) -> str:
    """The greatest position below one, so that a read after it starts with it."""
    milliseconds, sequence = position_key(position)
    return f"{milliseconds}-{sequence - 1}" if sequence else f"{milliseconds - 1}-{2**64 - 1}"


def _verdict(version: Version | None, learned: Learned) -> str:
    if learned.rejected:
        return f"rejected: {learned.rejected}"
    return "published" if version else "nothing to learn"
