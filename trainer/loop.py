"""The trainer of one model: join, learn, publish, over and over; killed anywhere, it goes on as if nothing had happened.

There are two durable steps, and each is atomic in the store: the join moves its position together with the outcomes it
appends; the learner moves its position together with its optimiser's state and the version it publishes. A third may
follow it: the version's compressed child. Between two steps nothing is kept that the log does not give back. Each step is
fenced by the position it starts from, so that of two trainers of one model only one can move.
"""

import asyncio
import json
from collections.abc import Callable
from time import time
from typing import TYPE_CHECKING, Any

from store import tracing
from store.artefact import digest_of
from store.errors import NotFound
from store.memory import merged
from store.names import learner_consumer, log_stream, outcome_stream
from store.policy import MAIN
from store.protocols import START, Advance, Commit, Store, Version, position_key
from store.records import Cut, Outcome, OutcomeRecord, Outcomes, pack_log, unpack_outcomes
from store.spec import ModelSpec, Schedule
from trainer.archiving import Archiving
from trainer.drift.state import join, split
from trainer.expecting import Expecting
from trainer.gates.keeper import Keeper, unsealed
from trainer.joining import READ_ENTRIES, Joining, nobody, refuse_if_ahead
from trainer.lag import LabelLag
from trainer.learner import NOTHING, Learned, Learner
from trainer.lineage.environment import lineage_of
from trainer.retention import forget
from trainer.timing import Timing

if TYPE_CHECKING:
    from trainer.compression.sister import Sister
    from trainer.drift.watch import Watch


class Trainer:
    """One model's join and learner. `reached` is told of the durable steps, before and after each (for fault tests), `tell` of
    each version that is on record; without `register` the model must be on record. `clock` gives the seconds since 1970 by
    which micro-batches end."""

    def __init__(
        self,
        spec: ModelSpec,
        store: Store,
        *,
        retention_s: float = 7 * 86_400.0,
        reached: Callable[[str], None] | None = None,
        register: bool = True,
        archiving: Archiving | None = None,
        tell: Callable[[Version], None] | None = None,
        clock: Callable[[], float] = time,
    ) -> None:
        self._tell = tell or nobody
        self._spec = spec
        self._register = register
        self._model = spec.name
        self._store = store
        self._reached = reached or nobody
        self._joining = Joining(spec.record, store, retention_s=retention_s, reached=reached, archiving=archiving)
        self._outcomes = outcome_stream(self._model)
        self._learner_at = START
        self._batch: list[Outcome] = []
        self._version = 0
        self._sister: Sister | None = None
        self._watch: Watch | None = None
        self._clock = clock
        self._expecting = Expecting(spec.record, store)
        self.busy_s = {"join": 0.0, "learn": 0.0, "publish": 0.0}

    async def start(self) -> None:
        """Register the model and take up where the last trainer of it stopped; publish version 1 if there was none.

        Raises:
            SpecError: the model is on record with another declaration.
            NotFound: it is not on record, and this trainer does not put it there.
            CheckpointError: the store's log is older than the checkpoint.
        """
        if self._register:
            await self._store.register(self._spec.record)
        else:
            await self._check_declared()
        self.learner = Learner(self._spec)
        self._lineage = lineage_of(self._spec, self.learner.device.type)
        if self._spec.drift is not None:
            from trainer.drift.watch import Watch  # noqa: PLC0415 - detectors, which most models do without

            self._watch = Watch(self._spec.record, self._spec.drift, self.learner)
        self._timing = Timing(await self._chosen_schedule(), self._clock())
        await self._joining.start()
        await self._resume_learner()
        await self._expecting.start(self._learner_at)
        await self._catch_up()

    async def step(self, block_s: float = 0.5) -> bool:
        """Take what is in the log through join and learner; wait up to `block_s` if there is nothing. True if there was."""
        await self._maybe_cut()
        joining = self._joining
        wait_s = min(block_s, self._timing.until_s(self._clock(), self._waiting_since))
        read, records = await joining.read(wait_s, self._timing.schedule.outcomes)
        self.busy_s["join"] = joining.busy_s
        if joining.due(records, read):
            saving = asyncio.create_task(joining.save(records))
            for index, record in enumerate(records):
                learned = await self._take(record)  # while the join is being saved
                positions = await saving
                if isinstance(record, Cut):
                    await self._commit(record, positions[index], learned)
            await saving
        await joining.trim(min(self._learner_at, self._keeper.oldest or self._learner_at, key=position_key))
        return read

    async def refresh(self) -> None:
        """Look up what operators may have changed."""
        self._timing.follow(await self._chosen_schedule(), self._clock())
        await self._expecting.refresh()

    async def _chosen_schedule(self) -> Schedule:
        return (await self._store.models())[self._model].schedule

    async def _check_declared(self) -> None:
        known = (await self._store.models()).get(self._model)
        if known is None:
            raise NotFound(f"no model '{self._model}': it was removed")
        merged(known, self._spec.record)

    @property
    def progress(self) -> dict[str, object]:
        return {
            "join": self._joining.at,
            "learner": self._learner_at,
            "version": self._version,
            "waiting": len(self._batch),
            **self._expecting.progress,
        }

    @property
    def drift(self) -> dict[str, Any]:
        """What was found of drift; empty where nobody watches."""
        return self._watch.shown if self._watch is not None else {}

    @property
    def lag(self) -> LabelLag:
        """How long labels take."""
        return self._expecting.lag

    async def _resume_learner(self) -> None:
        name = learner_consumer(self._model)
        position, state = await self._store.consumer(name)
        await refuse_if_ahead(self._store, self._outcomes, position, f"learner of model '{self._model}'")
        self._learner_at = position
        if state:
            known = json.loads(state)
            version = await self._learned_version(position, known.get("parent"))
            self._version = version.number
            self._graph = await self._store.graph(self._model, version.graph)
            weights = await self._store.weights(self._model, self._version)
            blob = await self._store.blob(name)
            checkpoint, watched = split(unsealed(blob))
            self.learner.restore(weights, checkpoint)
            if self._watch is not None:
                self._watch.restore(watched)
            self._keeper = Keeper(self.learner, self._graph)
            await self._keeper.resume(known.get("gates", {}), blob, self._store)
            if version.status == "published":
                await self._compress(version, weights)
        else:
            self._graph = self.learner.export()
            self._keeper = Keeper(self.learner, self._graph)
            await self._store.put_graph(self._model, self._graph)
            await self._commit(Cut("start", time(), START), START, NOTHING)

    async def _learned_version(self, position: str, before: int | None) -> Version:
        """The version with the learner's weights: of its last step if that made one, else the one it had `before`. Not the
        line's newest: that may have been rejected since, or been rejected and learned from all the same."""
        for version in await self._store.versions(self._model):
            if version.line == MAIN and version.position == position and version.weights:
                return version
        before = before or (await self._store.snapshot(self._model)).channels[f"{MAIN}@latest"]
        return await self._store.version(self._model, before)

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
            self._expecting.take(record.outcomes)
            return NOTHING
        batch, self._batch = self._batch, []
        self._timing.cut(self._clock())
        started = time()
        # In a thread: a batch may take long, and this trainer's lease must not run out over it.
        learned = await asyncio.to_thread(self._learn, batch, record.log_position) if batch else NOTHING
        if self._watch is not None and learned.rows:
            self._watch.gathered(batch, record.log_position)
        self.busy_s["learn"] += time() - started
        return learned

    def _learn(self, batch: list[Outcome], seed: str) -> Learned:
        return self._keeper.judge(batch, self.learner.learn(batch, seed))

    async def _commit(self, cut: Cut, position: str, learned: Learned) -> None:
        """Move the learner past a cut; publish what it learned, or keep the refusal on record."""
        started = time()
        self._reached("gates.after")
        # A version that is too slow or too large is not published, and yet it is where the learner goes on from.
        keeps = bool(learned.rows and (not learned.rejected or learned.goes_on)) or not self._version
        audit = await asyncio.to_thread(self._watch.look) if self._watch is not None and keeps else b""
        weights = self.learner.weights() if keeps else b""
        version = self._describe(cut, position, learned, weights) if keeps or learned.rejected else None
        anchored = self._keeper.settle(self._learner_at, position, learned)
        verdict = _verdict(version, learned)
        state = {
            "log_position": cut.log_position, "verdict": verdict, "outcomes": learned.rows,
            "recent_loss": learned.recent_loss, "reason": cut.reason, "at": time(), "drift": self.drift,
            "parent": self._version, "gates": self._keeper.state(), "sources": self.learner.teaching.trust.accuracies(),
        }  # fmt: skip
        watched = self._watch.state() if self._watch is not None else b""
        blob = self._keeper.seal(join(self.learner.checkpoint(), watched)) if keeps or anchored else b""
        step = Advance(learner_consumer(self._model), self._learner_at, position, json.dumps(state).encode(), blob)
        self._reached("publish.before")
        published = await self._store.commit(self._model, Commit(step, version, weights, audit))
        self._reached("publish.after")
        self._learner_at = position
        if published:
            self._tell(published)
        await self._expecting.follow(position)
        if keeps and published:
            about: dict[str, tracing.Value] = {"tidemill.version": published.number, "tidemill.outcomes": published.outcomes}
            tracing.past("publish", started, {"tidemill.model": self._model, **about})
            before, self._version = self._version, published.number
            if not learned.rejected:
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
        gates = self._keeper.about(self._learner_at, position, learned) if learned.rows else {}
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
            weights=digest_of(weights) if weights else "",
            spec=self._spec.record.digest,
            outcomes=learned.rows,
            metrics=learned.metrics if weights else {},
            label_times=learned.label_times,
            golden=self.learner.golden(self._graph) if weights else (),
            lineage={"cut": cut.reason, **self._lineage, **learned.lineage, **gates},
        )

    @property
    def _waiting_since(self) -> float | None:
        """When the first of the outcomes that wait to be learned was received."""
        return self._batch[0].received_at if self._batch else None

    async def _maybe_cut(self) -> None:
        """By the clock: a cut goes through the log like everyone's, so that a replay finds it where it was."""
        now = self._clock()
        if reason := self._timing.due(now, self._waiting_since):
            self._joining.more = True
            await self._store.append([(log_stream(self._model), pack_log(Cut(reason, now)))])


def _verdict(version: Version | None, learned: Learned) -> str:
    if learned.rejected:
        return f"rejected: {learned.rejected}"
    return "published" if version else "nothing to learn"
