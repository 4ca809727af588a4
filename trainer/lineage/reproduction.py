"""A version learned again from its lineage: the same batches in the same order, from the first on, give the same bits.

Optimisers' states are kept of the newest version alone, so it begins where its learner began, through whatever line that came:
that costs as much learning as all versions on the way did, without the waiting.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from store.artefact import digest_of
from store.errors import NotFound
from store.lines import SCRATCH, seen_by
from store.policy import MAIN
from store.protocols import Store, Version
from store.records import Outcome
from store.spec import LabelPolicy, ModelSpec
from trainer.errors import Irreproducible
from trainer.learner import Learner
from trainer.lineage.environment import Environment, way_of
from trainer.lineage.history import batches
from trainer.lineage.path import Stretch, path_to
from trainer.network import count_as


@dataclass(frozen=True, slots=True)
class Reproduction:
    """What came of learning a version again. `first_different` is the first version whose weights are others than on record,
    0 if there is none."""

    version: int
    replayed: int
    """Versions that were learned on the way, with it."""
    outcomes: int
    recorded: str
    """The digest of its weights on record."""
    learned: str
    first_different: int

    @property
    def same(self) -> bool:
        return not self.first_different

    def as_json(self) -> dict[str, object]:
        return {**asdict(self), "same": self.same}


async def reproduce(
    spec: ModelSpec,
    store: Store,
    number: int,
    archive: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Reproduction:
    """Learn a learner's version again, and compare its weights, and those of all on the way to it, with the record.

    Args:
        archive: the folder of the archives, for what is no longer in the outcome stream.
        progress: told how many versions are learned, of how many.

    Raises:
        NotFound: there is no such version.
        Irreproducible: it cannot come out the same here, or not all that it learned is kept.
    """
    wanted = await store.version(spec.name, number)
    if not wanted.weights or (wanted.line != MAIN and "line" not in wanted.lineage):
        raise Irreproducible(_why_not(wanted))
    path = path_to(wanted, await store.versions(spec.name, 2**31))
    _check(spec, [version for stretch in path for version in stretch.versions])
    replayed = _Replayed(spec, sum(1 + len(stretch.cuts) for stretch in path), progress)
    for stretch in path:
        await replayed.begin(stretch.versions[0], store)
        await replayed.go_through(stretch, store, archive)
    return replayed.compared(wanted)


class _Replayed:
    """A learner on its way through what it learned."""

    def __init__(self, spec: ModelSpec, versions: int, progress: Callable[[int, int], None] | None) -> None:
        self._spec, self._versions, self._progress = spec, versions, progress
        self._learner: Learner | None = None
        self._declared = spec
        self._done = self._outcomes = self._first_different = 0
        self._learned = ""

    async def begin(self, first: Version, store: Store) -> None:
        """Begin as a line began, or main after a line became main: with the learner as it is by now, with weights, or anew."""
        self._declared = _declared(self._spec, first)
        if self._learner is not None:
            self._learner = _continued(self._learner, self._declared)
        else:
            self._learner = Learner(self._declared)
            if (start := first.lineage.get("line", {}).get("start", SCRATCH)) != SCRATCH:
                await self._take(int(start), first, store)
        self._compare(first)

    async def go_through(self, stretch: Stretch, store: Store, archive: Path | None) -> None:
        """Learn what the versions of a stretch learned, and compare each with its record."""
        numbers = {version.number for version in stretch.versions}
        cuts, ends = iter(stretch.cuts), [cut.position for cut in stretch.cuts]
        async for batch in batches(store, self._spec.record, stretch.versions[0].position, ends, archive):
            version = next(cuts)
            own = version if version.number in numbers else None
            if own is not None and (then := _declared(self._spec, own)) != self._declared:
                self._declared = then
                self._learner = _continued(self._now, then)
            await asyncio.to_thread(_relearn, self._now, version, own, batch)
            self._outcomes += len(batch)
            self._compare(own)

    def compared(self, wanted: Version) -> Reproduction:
        different = self._first_different
        return Reproduction(wanted.number, self._done, self._outcomes, wanted.weights, self._learned, different)

    @property
    def _now(self) -> Learner:
        assert self._learner is not None
        return self._learner

    async def _take(self, number: int, first: Version, store: Store) -> None:
        """Take the weights of a version that was not learned on the way."""
        try:
            weights = await store.weights(first.model, number)
        except NotFound as error:
            raise Irreproducible(f"line {first.line} began with the weights of version {number}: {error}") from None
        self._now.restore(weights, self._now.checkpoint())
        parent = await store.version(first.model, number)
        count_as(self._now.scorer, await seen_by(store, parent))

    def _compare(self, version: Version | None) -> None:
        self._learned = digest_of(self._now.weights())
        if version is not None and version.weights and self._learned != version.weights:
            self._first_different = self._first_different or version.number
        self._done += 1
        if self._progress is not None:
            self._progress(self._done, self._versions)


def _why_not(version: Version) -> str:
    number, lineage = version.number, version.lineage
    if version.line == MAIN:
        return f"version {number} was rejected and has no weights: {version.reason}"
    if "method" in lineage:
        return f"version {number} was compressed, by {lineage['method']}, from version {version.parent}: reproduce that one"
    if "window" in lineage:
        return (
            f"version {number} was retrained from the archive: 'tidemill versions show' says from what; "
            "'tidemill retrain --from-archive' with the same makes the same, and says so"
        )
    if "line" in lineage:
        return f"version {number} of line {version.line} was rejected and has no weights: {version.reason}"
    return f"version {number} was not learned here: it is on the line {version.line}"


def _check(spec: ModelSpec, versions: Sequence[Version]) -> None:
    """Raises Irreproducible where not all was learned in an environment like this one; each difference is said of the first."""
    now: Environment | None = None
    for version in versions:
        declared = _declared(spec, version)
        now = now or Environment.here(spec, Learner(declared).device.type)
        differences = _recorded(version).differences(now)
        if version.spec != (digest := declared.record.digest):
            differences.append(f"the declaration was {version.spec} and is {digest}")
        if differences:
            raise Irreproducible(f"version {version.number} was not learned as it would be here: {'; '.join(differences)}")


def _recorded(version: Version) -> Environment:
    _kept(version)
    return Environment.model_validate(version.lineage["environment"])


def _kept(version: Version) -> None:
    if not {"learning", "environment"} <= version.lineage.keys():
        raise Irreproducible(f"version {version.number} has no environment on record: it was made before that was kept")


def _declared(spec: ModelSpec, version: Version) -> ModelSpec:
    """The declaration as it was when a version was learned, as far as that may change while a model goes on."""
    _kept(version)
    labels, way = version.lineage.get("labels"), way_of(version, spec.way)
    return replace(
        spec,
        learning=way.learning,
        labels=spec.labels if labels is None else LabelPolicy.model_validate(labels),
        shape=way.shape,
    )


def _continued(learner: Learner, spec: ModelSpec) -> Learner:
    """The learner after a restart with another declaration."""
    heir = Learner(spec, learner.device.type)
    heir.restore(learner.weights(), learner.checkpoint())
    return heir


def _relearn(learner: Learner, version: Version, own: Version | None, batch: list[Outcome]) -> None:
    """Args:
    version: main's or the line's of this cut.
    own: the line's, if it kept one.
    """
    if len(batch) != version.outcomes:
        raise Irreproducible(
            f"version {version.number} learned {version.outcomes} outcomes, and {len(batch)} of them are kept: "
            "the others are neither in the outcome stream nor in the archive"
        )
    answers = own.lineage.get("drift", {}) if own is not None else {}
    learner.descent.pace = answers.get("pace", 1.0)
    learned = learner.learn(batch, version.log_position)
    # Who takes a version back later does not make the learner forget it: such a version keeps its digest.
    back = own is not None and (not own.weights or own.lineage.get("taken back", False))
    if back and not learned.rejected:
        learner.undo()
    if answers.get("reset"):
        learner.descent.reset()
