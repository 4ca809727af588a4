"""The gates at work: each micro-batch that was learned is judged, and the learner goes back where it must.

What a verdict depends on is committed with the learner's step: its place in the stream and the counts as state, the last good
state's losses beside the checkpoint. After a kill the rows come from the outcome stream again, and the verdicts are the same.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

import msgpack
import numpy as np

from store.artefact import open_session
from store.encoding import Encoded
from store.names import outcome_stream
from store.protocols import EventLog, Graph, position_key
from store.records import Outcome, Outcomes, unpack_outcomes
from store.schema import Row
from trainer.compression.speed import latencies
from trainer.gates.gate import Case
from trainer.gates.judge import judge
from trainer.gates.losses import losses, numbers_of
from trainer.gates.window import Batch, Window, WindowState, together
from trainer.learner import NOTHING, Learned, Learner
from trainer.targets import progressive

_READ = 1000
_SEAL = b"tidemill-gates"


class Keeper:
    """Judges what one learner learned. `graph` is that of its versions, for what must be measured."""

    def __init__(self, learner: Learner, graph: Graph) -> None:
        self._learner, self._graph = learner, graph
        self._record = learner.record
        self._window = Window(self._record.gates)
        self._last: tuple[list[Row], np.ndarray, Encoded] | None = None

    @property
    def oldest(self) -> str | None:
        """The position behind which the outcome stream is still needed."""
        return self._window.oldest

    def judge(self, outcomes: Sequence[Outcome], learned: Learned) -> Learned:
        """Judge what the learner has just learned, and take it back where it is worse than what was there before."""
        self._last = self._known(outcomes)
        if learned.rejected:
            return learned
        self._window.judged += 1
        verdict = judge(self._case(self._learner.encode([outcome.row for outcome in outcomes])))
        if verdict.back:
            self._learner.undo()
        found = replace(learned, rejected=verdict.problem, goes_on=not verdict.back, evidence=verdict.evidence)
        # A batch whose verdict is bad does not count in the recent loss that the learner says, nor in what is said of it.
        return replace(found, recent_loss=self._learner.recent_loss) if verdict.back else found

    def settle(self, after: str, position: str, learned: Learned) -> bool:
        """Take the batch that was judged into the window, which now ends at `position`; return whether what goes with the
        checkpoint has changed."""
        if learned is NOTHING or self._last is None or not self._record.gates.recent:
            return False
        (rows, labels, encoded), self._last = self._last, None
        if not rows:
            return False
        back = bool(learned.rejected) and not learned.goes_on
        return self._window.add(Batch(after, position, rows, labels, encoded), "skipped" if back else "learned", self._losses)

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
        packed: bytes = msgpack.packb([checkpoint, references.tobytes()])  # pyright: ignore[reportAssignmentType]
        return _SEAL + packed

    async def resume(self, state: dict[str, Any], blob: bytes, log: EventLog) -> None:
        """Become the keeper that committed this."""
        known = WindowState.model_validate(state)
        stretches = [[one async for one in self._stretch(log, one.after, one.to)] for one in known.stretches]
        self._window.restore(known, stretches, np.frombuffer(_unsealed(blob)[1], dtype=np.float64))

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
                rows, labels, encoded = self._known(outcomes)
                if rows:
                    yield Batch(begun, after, rows, labels, encoded)
                begun, outcomes = after, []

    def _known(self, outcomes: Sequence[Outcome]) -> tuple[list[Row], np.ndarray, Encoded]:
        """Rows, labels as numbers [rows] and inputs of those outcomes by whose labels a model is judged."""
        known = [outcomes[place] for place in progressive(self._record.labels, outcomes)]
        rows = [outcome.row for outcome in known]
        labels = numbers_of(self._record.objective, self._record.classes, [outcome.label for outcome in known])
        return rows, labels, self._learner.encode(rows)

    def _case(self, fresh: Encoded) -> Case:
        outputs, learner = self._record.outputs, self._learner
        rows, labels, scores, reference = list[Row](), np.empty(0), np.empty((0, outputs)), np.empty(0)
        encoded = fresh
        if anchored := self._window.anchored:
            rows, labels, encoded = together(anchored)
            scores, reference = learner.score(encoded), self._window.references()

        def latency_s(count: int) -> float:
            session = open_session(self._graph.onnx, learner.weights())
            return latencies({"version": session}, encoded)["version"][count]

        return Case(
            record=self._record,
            rows=rows,
            labels=labels,
            scores=scores,
            losses=losses(self._record.objective, labels, scores),
            fresh=learner.score(fresh),
            reference=reference,
            number=self._window.judged,
            score=lambda some: learner.score(learner.encode(some)),
            score_before=lambda some: learner.score_before(learner.encode(some)),
            weights=learner.shipped(),
            latency_s=latency_s,
        )

    def _losses(self, encoded: Encoded, labels: np.ndarray) -> np.ndarray:
        return losses(self._record.objective, labels, self._learner.score(encoded))


def unsealed(blob: bytes) -> bytes:
    """Return the checkpoint of a learner's blob."""
    return _unsealed(blob)[0]


def _unsealed(blob: bytes) -> tuple[bytes, bytes]:
    if not blob.startswith(_SEAL):
        return blob, b""
    checkpoint, references = msgpack.unpackb(blob[len(_SEAL) :])
    return checkpoint, references
