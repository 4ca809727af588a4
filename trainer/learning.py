"""One line's learner at work: micro-batches are learned and judged, and its position, its state and the version it publishes
are moved together.

Nothing is kept between two steps that the outcome stream does not give back. Each step is fenced by the position it starts
from, so that of two learners of one line only one can move.
"""

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import time
from typing import TYPE_CHECKING, Any

from store import tracing
from store.artefact import digest_of
from store.lines import learned_version
from store.names import learner_consumer, outcome_stream
from store.policy import MAIN
from store.protocols import START, Advance, Commit, Store, Version, position_key
from store.records import Cut, Outcome, OutcomeRecord, Outcomes
from store.spec import ModelSpec
from trainer.drift.state import join, split
from trainer.gates.keeper import Keeper, unsealed
from trainer.joining import nobody, refuse_if_ahead
from trainer.learner import NOTHING, Learned, Learner
from trainer.lineage.environment import lineage_of
from trainer.network import count_as
from trainer.retention import forget

if TYPE_CHECKING:
    from trainer.compression.sister import Sister
    from trainer.drift.watch import Watch


@dataclass(frozen=True, slots=True)
class Origin:
    """What a line's learner begins with: the state of a learner that is at `position` of the outcome stream. Without a `blob`
    its optimiser and its gates begin anew; without a `parent` all does. `seen`: outcomes that its feature statistics stand for,
    where no blob says it."""

    position: str = START
    log_position: str = START
    parent: Version | None = None
    weights: bytes = b""
    blob: bytes = b""
    gates: Mapping[str, Any] | None = None
    seen: int = 0


class Learning:
    """The learner of a line, and what it publishes. `reached` is told of the durable steps, before and after each (for fault
    tests), `tell` of each version that is on record.

    Args:
        born: the revision of the lines with which this one came; 0 for main. What another line of its name left is not its own.
        lineage: what its versions say of it, beside what they were learned with.
        fence: goes with each step, and fails where somebody else has taken over.
    """

    def __init__(
        self,
        spec: ModelSpec,
        store: Store,
        line: str = MAIN,
        *,
        born: int = 0,
        fence: Advance | None = None,
        lineage: Mapping[str, Any] | None = None,
        reached: Callable[[str], None] | None = None,
        tell: Callable[[Version], None] | None = None,
    ) -> None:
        self._spec, self._store, self._model, self._line, self._born = spec, store, spec.name, line, born
        self._beside = () if fence is None else (fence,)
        self._reached, self._tell = reached or nobody, tell or nobody
        self._name = learner_consumer(self._model, line)
        self.learner = Learner(spec)
        self._lineage = lineage_of(spec, self.learner.device.type) | dict(lineage or {})
        self._watch = _watch(spec, self.learner)
        self._sister: Sister | None = None
        self.at = START
        """How far it has come, durably."""
        self.version = 0
        self.waiting: list[Outcome] = []
        """Outcomes of the micro-batch that has not ended."""
        self._passed = START
        self._unsaved = self._anchored = False
        self.busy_s = {"learn": 0.0, "publish": 0.0}

    @property
    def needs(self) -> str:
        """The position behind which the outcome stream is still needed."""
        return min(self.at, self._keeper.oldest or self.at, key=position_key)

    @property
    def drift(self) -> dict[str, Any]:
        """What was found of drift; empty where nobody watches."""
        return self._watch.shown if self._watch is not None else {}

    async def resume(self) -> dict[str, Any] | None:
        """Take up where the last learner of the line stopped, and return its state; None where there was none.

        Raises:
            CheckpointError: the store's log is older than the checkpoint.
        """
        position, state = await self._store.consumer(self._name)
        await refuse_if_ahead(self._store, outcome_stream(self._model), position, f"learner of {self._words}")
        self.at = self._passed = position
        known: dict[str, Any] = json.loads(state) if state else {}
        if not known or known.get("born", 0) != self._born:
            return None
        version = await learned_version(self._store, self._model, self._line, position, known)
        self.version = version.number
        self._graph = await self._store.graph(self._model, version.graph)
        weights = await self._store.weights(self._model, self.version)
        blob = await self._store.blob(self._name)
        checkpoint, watched = split(unsealed(blob))
        self.learner.restore(weights, checkpoint)
        if self._watch is not None:
            self._watch.restore(watched)
        self._keeper = Keeper(self.learner, self._graph)
        await self._keeper.resume(known.get("gates", {}), blob, self._store)
        if version.status == "published":
            await self._compress(version, weights)
        return known

    async def begin(self, origin: Origin | None = None, *, good: bool = True) -> None:
        """Begin with the state of another learner, or from scratch, and put the first version on record.

        Args:
            good: whether it may be published.
        """
        origin = origin or Origin()
        parent = origin.parent
        self._graph = await self._store.graph(self._model, parent.graph) if parent is not None else self.learner.export()
        self._keeper = Keeper(self.learner, self._graph)
        if parent is not None:
            self.version = parent.number
            checkpoint = split(unsealed(origin.blob))[0] if origin.blob else self.learner.checkpoint()
            self.learner.restore(origin.weights, checkpoint)
        if parent is not None and not origin.blob:
            count_as(self.learner.scorer, origin.seen)
        if origin.gates is not None:
            await self._keeper.resume(dict(origin.gates), origin.blob, self._store)
        await self._store.put_graph(self._model, self._graph)
        self._passed, self._unsaved = origin.position, True
        await self.commit(Cut("start", time(), origin.log_position), origin.position, NOTHING, good=good)

    async def take(self, record: OutcomeRecord) -> Learned:
        """Gather outcomes, and learn what was gathered when a micro-batch ends; nothing durable happens here."""
        if isinstance(record, Outcomes):
            self.waiting.extend(record.outcomes)
            return NOTHING
        batch, self.waiting = self.waiting, []
        started = time()
        # In a thread: a batch may take long, and this trainer's lease must not run out over it.
        learned = await asyncio.to_thread(self._learn, batch, record.log_position) if batch else NOTHING
        if self._watch is not None and learned.rows:
            self._watch.gathered(batch, record.log_position)
        self.busy_s["learn"] += time() - started
        return learned

    async def ahead(self) -> str:
        """Look at what waits as the watch for drift will; return why the micro-batch is to end now, if it is."""
        return "" if self._watch is None else await asyncio.to_thread(self._watch.ahead, self.waiting)

    def _learn(self, batch: list[Outcome], seed: str) -> Learned:
        return self._keeper.judge(batch, self.learner.learn(batch, seed))

    def go_past(self, position: str, learned: Learned) -> None:
        """Go past a cut and keep nothing of it: after a kill it is learned again."""
        self._settle(position, learned)

    async def commit(self, cut: Cut, position: str, learned: Learned, *, good: bool = True) -> None:
        """Move past a cut; publish what was learned, or keep the refusal on record.

        Args:
            good: whether it may be published; else its version is kept for the learner alone.
        """
        started = time()
        self._reached("gates.after")
        # A version that is too slow or too large is not published, and yet it is where the learner goes on from.
        keeps = self._unsaved or _moved(learned)
        audit = await asyncio.to_thread(self._watch.look) if self._watch is not None and keeps else b""
        weights = self.learner.weights() if keeps else b""
        version = self._describe(cut, position, learned, weights, good) if keeps or learned.rejected else None
        self._settle(position, learned)
        blob = b""
        if keeps or self._anchored:
            watched = self._watch.state() if self._watch is not None else b""
            blob = self._keeper.seal(join(self.learner.checkpoint(), watched))
        state = json.dumps(self._state(cut, position, learned, version) | {"caught_up": good}).encode()
        step = Advance(self._name, self.at, position, state, blob)
        self._reached("publish.before")
        published = await self._store.commit(self._model, Commit(step, version, weights, audit, self._beside))
        self._reached("publish.after")
        self.at, self._unsaved, self._anchored = position, False, False
        if published:
            self._tell(published)
        if keeps and published:
            about: dict[str, tracing.Value] = {"tidemill.version": published.number, "tidemill.outcomes": published.outcomes}
            tracing.past("publish", started, {"tidemill.model": self._model, **about})
            before, self.version = self.version, published.number
            if published.status == "published":
                await self._compress(published, weights)
            await forget(self._store, self._model, before, published.number)
        self.busy_s["publish"] += time() - started

    def _settle(self, position: str, learned: Learned) -> None:
        self._anchored |= self._keeper.settle(self._passed, position, learned)
        self._unsaved |= _moved(learned)
        self._passed = position

    def _state(self, cut: Cut, position: str, learned: Learned, version: Version | None) -> dict[str, Any]:
        needs = min(position, self._keeper.oldest or position, key=position_key)
        return {
            "log_position": cut.log_position, "verdict": _verdict(version), "outcomes": learned.rows,
            "recent_loss": learned.recent_loss if learned is not NOTHING else self.learner.recent_loss,
            "reason": cut.reason, "at": time(), "drift": self.drift, "parent": self.version, "gates": self._keeper.state(),
            "sources": self.learner.teaching.trust.accuracies(), "weighed": bool(version and version.weights), "needs": needs,
            "born": self._born,
        }  # fmt: skip

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

    def _describe(self, cut: Cut, position: str, learned: Learned, weights: bytes, good: bool) -> Version:
        gates = self._keeper.about(self._passed, position, learned) if learned.rows else {}
        drift = self._watch.answered if self._watch is not None and learned.rows else {}
        status = "rejected" if learned.rejected else "published" if good else "behind"
        # Its weights are of what it learned before: a line that catches up had not kept that.
        back = {"taken back": True} if weights and learned.rejected and not learned.goes_on else {}
        return Version(
            model=self._model,
            line=self._line,
            parent=self.version,
            status=status,
            reason=learned.rejected or ("" if good else "its learner had not caught up"),
            position=position,
            log_position=cut.log_position,
            created_at=time(),
            graph=self._graph.digest,
            weights=digest_of(weights) if weights else "",
            spec=self._spec.record.digest,
            outcomes=learned.rows,
            metrics=learned.metrics if weights and learned is not NOTHING and not back else {},
            label_times=learned.label_times,
            golden=self.learner.golden(self._graph) if weights else (),
            lineage={"cut": cut.reason, **self._lineage, **learned.lineage, **gates, **drift, **back},
        )

    @property
    def _words(self) -> str:
        return f"model '{self._model}'" if self._line == MAIN else f"line '{self._line}' of model '{self._model}'"


def _watch(spec: ModelSpec, learner: Learner) -> "Watch | None":
    if spec.drift is None:
        return None
    from trainer.drift.watch import Watch  # noqa: PLC0415 - detectors, which most models do without

    return Watch(spec.record, spec.drift, learner)


def _moved(learned: Learned) -> bool:
    """Whether a micro-batch changed what the learner is."""
    return bool(learned.rows and (not learned.rejected or learned.goes_on))


def _verdict(version: Version | None) -> str:
    if version is None:
        return "nothing to learn"
    return f"rejected: {version.reason}" if version.status == "rejected" else version.status
