"""The trainer of one model: join, learn, publish, over and over; killed anywhere, it goes on as if nothing had happened.

There are two durable steps, and each is atomic in the store: the join moves its position together with the outcomes it
appends; the learner moves its position together with its optimiser's state and the version it publishes. A third may
follow it: the version's compressed child. Between two steps nothing is kept that the log does not give back. Each step is
fenced by the position it starts from, so that of two trainers of one model only one can move.
"""

import asyncio
from collections.abc import Callable
from time import time
from typing import Any

from store.errors import NotFound
from store.lines import needed_by, read_lines, with_way
from store.memory import merged
from store.names import log_stream, outcome_stream
from store.protocols import Store, Version, position_key
from store.records import Cut, OutcomeRecord, Outcomes, pack_log, unpack_outcomes
from store.spec import ModelRecord, ModelSpec
from trainer.archiving import Archiving
from trainer.errors import TakenOver
from trainer.expecting import Expecting
from trainer.joining import READ_ENTRIES, Joining
from trainer.lag import LabelLag
from trainer.learner import Learned, Learner
from trainer.learning import Learning
from trainer.timing import Timing


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
        self._tell, self._reached = tell, reached
        self._spec = spec
        self._register = register
        self._model = spec.name
        self._store = store
        self._joining = Joining(spec.record, store, retention_s=retention_s, reached=reached, archiving=archiving)
        self._outcomes = outcome_stream(self._model)
        self._lines_need: str | None = None
        self.begun = False
        """Whether there is progress to tell of."""
        self._clock = clock
        self._expecting = Expecting(spec.record, store)

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
        record = await self._record()
        lines = await read_lines(self._store, self._model)
        self._taken, lineage = lines.taken, dict[str, Any]()
        spec = self._spec
        if lines.main is not None:  # a line that became main says how main learns, whatever is declared
            spec, shape = with_way(spec, lines.main.way, record.learning), lines.main.way.shape.model_dump(mode="json")
            lineage["way"] = {"line": lines.main.name, "since": lines.main.ended_at, "shape": shape}
        fence = lines.fence(self._model)
        self.learning = Learning(spec, self._store, fence=fence, lineage=lineage, reached=self._reached, tell=self._tell)
        self.begun = True
        self._lines_need = await needed_by(self._store, self._model, lines)
        self._timing = Timing(record.schedule, self._clock())
        await self._joining.start()
        if await self.learning.resume() is None:
            await self.learning.begin()
        await self._expecting.start(self.learning.at)
        await self._catch_up()

    async def step(self, block_s: float = 0.5) -> bool:
        """Take what is in the log through join and learner; wait up to `block_s` if there is nothing. True if there was."""
        await self._maybe_cut()
        joining = self._joining
        wait_s = min(block_s, self._timing.until_s(self._clock(), self._waiting_since))
        read, records = await joining.read(wait_s, self._timing.schedule.outcomes)
        if joining.due(records, read):
            saving = asyncio.create_task(joining.save(records))
            for index, record in enumerate(records):
                learned = await self._take(record)  # while the join is being saved
                positions = await saving
                if isinstance(record, Cut):
                    await self._commit(record, positions[index], learned)
            await saving
        needs = self.learning.needs
        await joining.trim(min(needs, self._lines_need or needs, key=position_key))
        return read

    async def refresh(self) -> None:
        """Look up what operators may have changed.

        Raises:
            TakenOver: a line has become main.
        """
        self._timing.follow((await self._record()).schedule, self._clock())
        lines = await read_lines(self._store, self._model)
        if lines.taken != self._taken:
            raise TakenOver(f"a line of model '{self._model}' has become main, whose learner starts over with its state")
        self._lines_need = await needed_by(self._store, self._model, lines)
        await self._expecting.refresh()

    async def _record(self) -> ModelRecord:
        return (await self._store.models())[self._model]

    async def _check_declared(self) -> None:
        if (known := (await self._store.models()).get(self._model)) is None:
            raise NotFound(f"no model '{self._model}': it was removed")
        merged(known, self._spec.record)

    @property
    def progress(self) -> dict[str, object]:
        return {
            "join": self._joining.at,
            "learner": self.learning.at,
            "version": self.learning.version,
            "waiting": len(self.learning.waiting),
            **self._expecting.progress,
        }

    @property
    def learner(self) -> Learner:
        return self.learning.learner

    @property
    def busy_s(self) -> dict[str, float]:
        return {"join": self._joining.busy_s, **self.learning.busy_s}

    @property
    def drift(self) -> dict[str, Any]:
        """What was found of drift; empty where nobody watches."""
        return self.learning.drift

    @property
    def lag(self) -> LabelLag:
        """How long labels take."""
        return self._expecting.lag

    async def _catch_up(self) -> None:
        """Learn what was joined before this trainer started; from then on outcomes go straight from join to learner."""
        after = self.learning.at
        while entries := await self._store.read(self._outcomes, after, READ_ENTRIES):
            after = entries[-1].position
            for entry in entries:
                record = unpack_outcomes(entry.payload)
                learned = await self._take(record, new=position_key(entry.position) > position_key(self._expecting.at))
                if isinstance(record, Cut):
                    await self._commit(record, entry.position, learned)

    async def _take(self, record: OutcomeRecord, *, new: bool = True) -> Learned:
        """Gather outcomes, and learn what was gathered when a micro-batch ends; nothing durable happens here.

        Args:
            new: whether the outcomes come for the first time: who takes over from behind learns again what main had learned.
        """
        if not isinstance(record, Outcomes):
            self._timing.cut(self._clock())
        elif new:
            self._expecting.take(record.outcomes)
        return await self.learning.take(record)

    async def _commit(self, cut: Cut, position: str, learned: Learned) -> None:
        await self.learning.commit(cut, position, learned)
        await self._expecting.follow(position)

    @property
    def _waiting_since(self) -> float | None:
        """When the first of the outcomes that wait to be learned was received."""
        waiting = self.learning.waiting
        return waiting[0].received_at if waiting else None

    async def _maybe_cut(self) -> None:
        """By the clock: a cut goes through the log like everyone's, so that a replay finds it where it was."""
        now = self._clock()
        reason = self._timing.due(now, self._waiting_since)
        # With the log read to its end a cut that an earlier life asked for has been met, and is not asked for again.
        if not reason and self._timing.schedule.on_drift and not self._joining.more:
            reason = await self.learning.ahead()
        if reason:
            self._joining.more = True
            await self._store.append([(log_stream(self._model), pack_log(Cut(reason, now)))])
