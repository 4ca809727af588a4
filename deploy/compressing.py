"""A version compressed by every method that applies: measured in turn with its parent, and published beside it."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from store.artefact import Session, digest_of, open_session, unpack_golden
from store.encoding import Encoded, Encoder
from store.errors import Fenced, NotFound
from store.names import learner_consumer
from store.policy import MAIN
from store.protocols import Graph, Store, Version
from store.publishing import publish
from store.records import Outcome
from store.spec import ModelRecord
from trainer.compression import METHODS, Compressed, compress, requantise
from trainer.compression.logged import newest_outcomes, newest_rows
from trainer.compression.quality import LOSS, answers, likeness, quality
from trainer.compression.recipe import recipe_of
from trainer.compression.speed import BATCHES, latencies
from trainer.errors import CompressionError, NotApplicable

PARENT = "parent"
NOTICEABLE = 1.1
_TRIES = 20


@dataclass(slots=True)
class Candidate:
    """A version, or what a method made of it. `why_not` says why there is nothing; latencies are median seconds by rows;
    `version` is its number, 0 while it is not published."""

    method: str
    why_not: str = ""
    bytes: int = 0
    latency_s: dict[int, float] = field(default_factory=dict[int, float])
    speed: dict[int, float] = field(default_factory=dict[int, float])
    """Its parent's latency as a multiple of its own: below 1 it is slower."""
    quality: dict[str, float] = field(default_factory=dict[str, float])
    loss: float | None = None
    """How much worse than its parent, as a share of the parent's log loss or squared error; None where nothing is labelled."""
    line: str = ""
    version: int = 0
    before: bool = False
    """Whether that version was there before, the same to the byte."""

    @property
    def is_parent(self) -> bool:
        return self.method == PARENT


@dataclass(slots=True)
class Found:
    """What became of one version. `outcomes` is how many labelled predictions quality was measured on."""

    model: str
    version: int
    line: str
    outcomes: int
    candidates: list[Candidate]
    """The parent comes first."""
    chosen: str = ""

    def as_json(self) -> dict[str, object]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Parent:
    record: ModelRecord
    version: Version
    graph: Graph
    weights: bytes
    session: Session


class Workshop:
    """Compresses one version. Call `measure`, then `publish` what is wanted of it."""

    def __init__(self, store: Store, model: str) -> None:
        self._store = store
        self._model = model
        self._made: dict[str, Compressed] = {}

    async def measure(self, number: int | None, methods: Sequence[str]) -> Found:
        """Compress a version by each of the methods, and measure all.

        Args:
            number: None for the newest of the line main, or, where nothing is trained, the one that the default arm runs.

        Raises:
            NotFound: there is no such model or version, or its weights are not kept.
            CompressionError: the version is rejected, or compressed already.
        """
        parent = await self._parent(number)
        logged = await newest_outcomes(self._store, self._model)
        rows = await newest_rows(self._store, self._model)
        encoded = Encoder(parent.record.features).encode(rows) if rows else None
        candidates = [Candidate(PARENT, bytes=len(parent.weights), line=parent.version.line, version=parent.version.number)]
        candidates += [self._compressed(parent, method, encoded) for method in methods]
        sessions = {PARENT: parent.session} | {name: made.session for name, made in self._made.items()}
        measured = [candidate for candidate in candidates if not candidate.why_not]
        _measure_speed(measured, sessions, encoded or unpack_golden(parent.graph.golden_inputs))
        _measure_quality(measured, sessions, parent.record, logged)
        return Found(self._model, parent.version.number, parent.version.line, len(logged), candidates)

    async def publish(self, found: Found, methods: Sequence[str]) -> None:
        """Publish these methods' results, each as the newest version of its own line; their candidates get their numbers.

        What is the newest there already is not published again: so this may be cut short and repeated, or done twice at once.

        Raises:
            CompressionError: others keep publishing on a line.
        """
        for candidate in found.candidates:
            if candidate.is_parent or candidate.method not in methods or candidate.why_not:
                continue
            made = self._made[candidate.method]
            candidate.line = f"{found.line}-{candidate.method.replace('_', '-')}"
            measured = asdict(candidate) | {"outcomes": found.outcomes}
            lineage = {
                "parent": found.version,
                "method": candidate.method,
                "cut": f"{candidate.method} of version {found.version}",
                "measured": {name: measured[name] for name in _MEASURED},
            }
            candidate.version, candidate.before = await self._published(made, candidate.line, found.version, lineage)

    async def _published(self, made: Compressed, line: str, parent: int, lineage: Mapping[str, Any]) -> tuple[int, bool]:
        """Return the version's number, and whether it was there before."""
        for _ in range(_TRIES):
            at, _ = await self._store.consumer(learner_consumer(self._model, line))
            newest = (await self._store.snapshot(self._model)).channels.get(f"{line}@latest")
            if newest is not None:
                known = await self._store.version(self._model, newest)
                if (known.parent, known.graph, known.weights) == (parent, made.graph.digest, digest_of(made.weights)):
                    return newest, True
            with suppress(Fenced):
                version = await publish(
                    self._store, self._model, made.graph, made.weights, line,
                    parent=parent, tolerance=made.tolerance, lineage=lineage, at=at,
                )  # fmt: skip
                return version.number, False
        raise CompressionError(f"others keep publishing on line {line} of model '{self._model}': ask again when they have done")

    async def _parent(self, number: int | None) -> _Parent:
        records = await self._store.models()
        if self._model not in records:
            raise NotFound(f"no model '{self._model}'; there are: {', '.join(sorted(records)) or 'none'}")
        if number is None:
            snapshot = await self._store.snapshot(self._model)
            default = next(arm for arm in snapshot.policy.variants if arm.name == snapshot.policy.default)
            number = snapshot.channels.get(f"{MAIN}@latest") or snapshot.resolve(default)
            if number is None:
                raise NotFound(f"model '{self._model}' has no version yet")
        version = await self._store.version(self._model, number)
        if version.status != "published":
            raise CompressionError(f"version {number} is {version.status}: {version.reason}; compress one that is published")
        weights = await self._store.weights(self._model, number)
        graph = await self._store.graph(self._model, version.graph)
        if (known := recipe_of(graph.onnx)) is not None:
            raise CompressionError(
                f"version {number} is compressed already, by {known.method}: compress version {version.parent}, its parent"
            )
        return _Parent(records[self._model], version, graph, weights, open_session(graph.onnx, weights))

    def _compressed(self, parent: _Parent, name: str, rows: Encoded | None) -> Candidate:
        method = METHODS[name]
        try:
            graph = compress(method, parent.graph, parent.weights, rows)
        except NotApplicable as why:
            return Candidate(name, why_not=str(why))
        recipe = recipe_of(graph.onnx)
        assert recipe is not None
        made = self._made[name] = requantise(method, graph, recipe, parent.weights)
        return Candidate(name, bytes=len(made.weights))


_MEASURED = ("bytes", "latency_s", "speed", "quality", "loss", "outcomes")


def _measure_speed(candidates: Sequence[Candidate], sessions: Mapping[str, Session], rows: Encoded) -> None:
    seconds = latencies(sessions, rows)
    for candidate in candidates:
        candidate.latency_s = seconds[candidate.method]
        candidate.speed = {batch: seconds[PARENT][batch] / candidate.latency_s[batch] for batch in BATCHES}


def _measure_quality(
    candidates: Sequence[Candidate], sessions: Mapping[str, Session], record: ModelRecord, outcomes: Sequence[Outcome]
) -> None:
    if not outcomes:
        return
    rows = Encoder(record.features).encode([outcome.row for outcome in outcomes])
    labels = [outcome.label for outcome in outcomes]
    scores = {candidate.method: answers(sessions[candidate.method], rows) for candidate in candidates}
    base = quality(record, labels, scores[PARENT])
    for candidate in candidates:
        theirs = scores[candidate.method]
        candidate.quality = quality(record, labels, theirs) | likeness(record, scores[PARENT], theirs)
        candidate.loss = _relative_loss(base[LOSS[record.objective]], candidate.quality[LOSS[record.objective]])


def _relative_loss(before: float, after: float) -> float:
    return (after - before) / max(before, float(np.finfo(np.float32).tiny))


def choose(found: Found, max_loss: float, batch: int) -> str:
    """Return the fastest at this many rows whose quality is within the loss; the parent, where none is a tenth faster than it:
    less than that is noise.

    Raises:
        CompressionError: there is no labelled prediction to measure quality on.
    """
    if not found.outcomes:
        raise CompressionError(
            f"no quality measured: model '{found.model}' has no labelled predictions yet; post feedback first, or choose by "
            "--method"
        )
    fit = [one for one in found.candidates if one.loss is not None and one.loss <= max_loss]
    faster = [one for one in fit if one.speed[batch] >= NOTICEABLE]
    return min(faster, key=lambda one: one.latency_s[batch]).method if faster else PARENT
