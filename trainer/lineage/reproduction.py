"""A version learned again from its lineage: the same batches in the same order, from the first on, give the same bits.

Optimisers' states are kept of the newest version alone, so it begins where the model began: that costs as much learning as
all versions before it did, without the waiting.
"""

import asyncio
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from store.artefact import digest_of
from store.policy import MAIN
from store.protocols import Store, Version
from store.records import Outcome
from store.spec import LabelPolicy, Learning, ModelSpec
from trainer.errors import Irreproducible
from trainer.learner import Learner
from trainer.lineage.environment import Environment
from trainer.lineage.history import batches


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
    """Learn a version of the line main again, and compare its weights, and those of all before it, with the record.

    Args:
        archive: the folder of the archives, for what is no longer in the outcome stream.
        progress: told how many versions are learned, of how many.

    Raises:
        NotFound: there is no such version.
        Irreproducible: it cannot come out the same here, or not all that it learned is kept.
    """
    wanted = await store.version(spec.name, number)
    if wanted.line != MAIN or not wanted.weights:
        raise Irreproducible(_why_not(wanted))
    path = [one for one in (await store.versions(spec.name, 2**31))[::-1] if one.line == MAIN and one.number <= number]
    declared = _declared(spec, path[0])
    learner = Learner(declared)
    _check(spec, path, Environment.here(spec, learner.device.type))
    outcomes = first_different = 0
    learned = digest_of(learner.weights())
    if learned != path[0].weights:
        first_different = path[0].number
    at = 1
    async for batch in batches(store, spec.record, [one.position for one in path[1:]], archive):
        version = path[at]
        if (then := _declared(spec, version)) != declared:
            declared = then
            learner = _continued(learner, declared)
        await asyncio.to_thread(_relearn, learner, version, batch)
        learned = digest_of(learner.weights())
        if version.weights and learned != version.weights:
            first_different = first_different or version.number
        at, outcomes = at + 1, outcomes + len(batch)
        if progress is not None:
            progress(at, len(path))
    return Reproduction(number, len(path), outcomes, wanted.weights, learned, first_different)


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
        return f"version {number} was learned by line {version.line}: lines beside main are not learned again"
    return f"version {number} was not learned here: it is on the line {version.line}"


def _check(spec: ModelSpec, path: list[Version], now: Environment) -> None:
    """Raises Irreproducible where not all was learned in an environment like this one; each difference is said of the first."""
    for version in path:
        if "promoted" in version.lineage:
            line = version.lineage["promoted"]["line"]
            raise Irreproducible(f"version {version.number} is what line {line} had learned, and lines are not learned again")
        differences = _recorded(version).differences(now)
        if version.spec != spec.record.digest:
            differences.append(f"the declaration was {version.spec} and is {spec.record.digest}")
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
    labels = version.lineage.get("labels")
    return replace(
        spec,
        learning=Learning.model_validate(version.lineage["learning"]),
        labels=spec.labels if labels is None else LabelPolicy.model_validate(labels),
    )


def _continued(learner: Learner, spec: ModelSpec) -> Learner:
    """The learner after a restart with another declaration."""
    heir = Learner(spec, learner.device.type)
    heir.restore(learner.weights(), learner.checkpoint())
    return heir


def _relearn(learner: Learner, version: Version, batch: list[Outcome]) -> None:
    if len(batch) != version.outcomes:
        raise Irreproducible(
            f"version {version.number} learned {version.outcomes} outcomes, and {len(batch)} of them are kept: "
            "the others are neither in the outcome stream nor in the archive"
        )
    answers = version.lineage.get("drift", {})
    learner.descent.pace = answers.get("pace", 1.0)
    learned = learner.learn(batch, version.log_position)
    # Who takes a version back later does not make the learner forget it: such a version keeps its digest.
    if not version.weights and not learned.rejected:
        learner.undo()
    if answers.get("reset"):
        learner.descent.reset()
