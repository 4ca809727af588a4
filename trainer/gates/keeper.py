"""The gates at work: each micro-batch that was learned is judged, and the learner goes back where it must.

What a verdict depends on is committed with the learner's step: its place in the stream and the counts as state, the last good
state's losses beside the checkpoint. After a kill the rows come from the outcome stream again, and the verdicts are the same.

Where sources of labels are declared, recent outcomes are taken for what they are worth by now: who has been found to lie is
not believed about the past either. So what is kept are the losses by class; how right sources are is part of the checkpoint.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import msgpack
import numpy as np

from store.artefact import open_session
from store.encoding import Encoded
from store.names import outcome_stream
from store.protocols import EventLog, Graph, position_key
from store.records import Outcome, Outcomes, Vote, unpack_outcomes
from store.schema import Row
from trainer.compression.speed import latencies
from trainer.gates.gate import Case
from trainer.gates.judge import judge
from trainer.gates.losses import losses, losses_by_class, losses_of_votes, numbers_of
from trainer.gates.window import Batch, Window, WindowState, together
from trainer.learner import NOTHING, Learned, Learner
from trainer.targets import progressive

_READ = 1000
_SEAL = b"tidemill-gates"


class _Known(NamedTuple):
    """Outcomes by whose labels a model is judged, as a `Batch` holds them."""

    rows: list[Row]
    labels: np.ndarray
    encoded: Encoded
    said: Sequence[tuple[Vote, ...]]


class Keeper:
    """Judges what one learner learned. `graph` is that of its versions, for what must be measured."""

    def __init__(self, learner: Learner, graph: Graph) -> None:
        self._learner, self._graph = learner, graph
        self._record = learner.record
        self._window = Window(self._record.gates)
        doubtful = bool(self._record.labels.sources) and self._record.objective in ("binary", "multiclass")
        self._classes = max(2, len(self._record.classes)) if doubtful else 0
        """How many there are, where labels are less than sure."""
        self._last: _Known | None = None
        self._fresh: tuple[Encoded, np.ndarray] | None = None

    @property
    def oldest(self) -> str | None:
        """The position behind which the outcome stream is still needed."""
        return self._window.oldest

    def judge(self, outcomes: Sequence[Outcome], learned: Learned) -> Learned:
        """Judge what the learner has just learned, and take it back where it is worse than what was there before."""
        self._last = self._known(outcomes, self._learner.encoded)
        if learned.rejected:
            return learned
        self._window.judged += 1
        verdict = judge(self._case(self._learner.encoded))
        if verdict.back:
            self._learner.undo()
            self._fresh = None
        found = replace(learned, rejected=verdict.problem, goes_on=not verdict.back, evidence=verdict.evidence)
        # A batch whose verdict is bad does not count in the recent loss that the learner says, nor in what is said of it.
        return replace(found, recent_loss=self._learner.recent_loss) if verdict.back else found

    def settle(self, after: str, position: str, learned: Learned) -> bool:
        """Take the batch that was judged into the window, which now ends at `position`; return whether what goes with the
        checkpoint has changed."""
        if learned is NOTHING or self._last is None or not self._record.gates.recent:
            return False
        known, self._last = self._last, None
        if not known.rows:
            return False
        back = bool(learned.rejected) and not learned.goes_on
        found = self._window.add(_batch(after, position, known), "skipped" if back else "learned", self._losses)
        self._fresh = None
        return found

    def about(self, after: str, position: str, learned: Learned) -> dict[str, Any]:
        """What a version's lineage says of its gates, and of outcomes that were not learned."""
        gates = {"declared": self._record.gates.digest, "passed": not learned.rejected, "evidence": dict(learned.evidence)}
        if not learned.rejected or learned.goes_on:
            return {"gates": gates}
        return {"gates": gates, "skipped": {"outcomes": learned.rows, "after": after, "to": position}}

    def state(self) -> dict[str, Any]:
        return self._window.state().model_dump()

    def seal(self, checkpoint: bytes) -> bytes:
        """Return a checkpoint with what the gates keep beside it."""
        references = self._window.references()
        if not len(references):
            return checkpoint
        by_class = [self._classes] if self._classes else []
        packed: bytes = msgpack.packb([checkpoint, references.tobytes(), *by_class])  # pyright: ignore[reportAssignmentType]
        return _SEAL + packed

    async def resume(self, state: dict[str, Any], blob: bytes, log: EventLog) -> None:
        """Become the keeper that committed this."""
        known = WindowState.model_validate(state)
        stretches = [[one async for one in self._stretch(log, one.after, one.to)] for one in known.stretches]
        _, packed, classes = _unsealed(blob)
        # Losses of another kind, from before sources were declared or known, are of no use: the window is anchored anew.
        references = np.frombuffer(packed if classes == self._classes else b"", dtype=np.float64)
        self._window.restore(known, stretches, references.reshape(-1, self._classes) if self._classes else references)

    async def _stretch(self, log: EventLog, after: str, to: str) -> AsyncIterator[Batch]:
        begun, outcomes = after, list[Outcome]()
        while entries := await log.read(outcome_stream(self._record.name), after, _READ):
            for entry in entries:
                after = entry.position
                if position_key(after) > position_key(to):
                    return
                found = unpack_outcomes(entry.payload)
                if isinstance(found, Outcomes):
                    outcomes += found.outcomes
                    continue
                known = self._known(outcomes, self._learner.encode([outcome.row for outcome in outcomes]))
                if known.rows:
                    yield _batch(begun, after, known)
                begun, outcomes = after, []

    def _known(self, outcomes: Sequence[Outcome], encoded: Encoded) -> _Known:
        """Those outcomes by whose labels a model is judged, given all inputs."""
        places = progressive(self._record.labels, outcomes)
        known = [outcomes[place] for place in places]
        labels = numbers_of(self._record.objective, self._record.classes, [outcome.label for outcome in known])
        said = [outcome.said for outcome in known] if self._classes else ()
        kept = encoded if len(known) == len(outcomes) else encoded.take(places)
        return _Known([outcome.row for outcome in known], labels, kept, said)

    def _case(self, fresh: Encoded) -> Case:
        outputs, learner = self._record.outputs, self._learner
        rows, labels, scores, now, before = list[Row](), np.empty(0), np.empty((0, outputs)), np.empty(0), np.empty(0)
        encoded = fresh
        if anchored := self._window.anchored:
            rows, labels, encoded = together(anchored)
            scores = learner.score(encoded)
            now, before = self._losses_of(labels, scores), self._window.references()
            if self._classes:
                worth = learner.teaching.worth([said for batch in anchored for said in batch.said])
                now, before = losses_of_votes(worth, now), losses_of_votes(worth, before)

        self._fresh = fresh, learner.score(fresh)

        def latency_s(count: int) -> float:
            session = open_session(self._graph.onnx, learner.weights())
            return latencies({"version": session}, encoded)["version"][count]

        return Case(
            record=self._record,
            rows=rows,
            labels=labels,
            scores=scores,
            losses=now,
            fresh=self._fresh[1],
            reference=before,
            number=self._window.judged,
            score=lambda some: learner.score(learner.encode(some)),
            score_before=lambda some: learner.score_before(learner.encode(some)),
            weights=learner.shipped(),
            latency_s=latency_s,
        )

    def _losses(self, encoded: Encoded, labels: np.ndarray) -> np.ndarray:
        """Of the learner as it is, which has scored its last batch already."""
        known = self._fresh is not None and self._fresh[0] is encoded
        scores = self._fresh[1] if self._fresh is not None and known else self._learner.score(encoded)
        return self._losses_of(labels, scores)

    def _losses_of(self, labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
        return losses_by_class(scores) if self._classes else losses(self._record.objective, labels, scores)


def _batch(after: str, position: str, known: _Known) -> Batch:
    return Batch(after, position, known.rows, known.labels, known.encoded, said=known.said)


def unsealed(blob: bytes) -> bytes:
    """Return the checkpoint of a learner's blob."""
    return _unsealed(blob)[0]


def _unsealed(blob: bytes) -> tuple[bytes, bytes, int]:
    """Return checkpoint, losses, and by how many classes these are, 0 where by none."""
    if not blob.startswith(_SEAL):
        return blob, b"", 0
    checkpoint, references, *by_class = msgpack.unpackb(blob[len(_SEAL) :])
    return checkpoint, references, by_class[0] if by_class else 0
