"""The way that led to a version, through the lines that its learner was on: what each of them learned, from where on."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from store.lines import SCRATCH
from store.policy import MAIN
from store.protocols import Version, position_key


@dataclass(frozen=True, slots=True)
class Stretch:
    """What a learner went through on one line. `versions` are its own there, refused ones too; the first is what it began with.
    `cuts` has a version for each micro-batch since: its own, or another learner's where a line that caught up kept none."""

    versions: list[Version]
    cuts: list[Version]


def micro_batches(every: Iterable[Version]) -> dict[str, Version]:
    """Return for each micro-batch of a model what came of it, by its position: main's newest version, refused or not, or where
    main has learned it through a line alone, that line's."""
    learned = [one for one in every if (one.line == MAIN or "line" in one.lineage) and one.lineage.get("cut") != "start"]
    made = [one for one in learned if "promoted" not in one.lineage]
    return {one.position: one for one in sorted(made, key=lambda one: (one.line == MAIN, one.number))}


def path_to(wanted: Version, every: Iterable[Version]) -> list[Stretch]:
    """Return the stretches that led to a learner's version, the first one first.

    A line's learner begins with what another was, and main goes on with what a line was that became main.

    Args:
        every: version of the model that is on record, in any order.
    """
    by_number = {one.number: one for one in sorted(every, key=lambda one: one.number)}
    batches = micro_batches(by_number.values())
    path = [_stretch(wanted, by_number.values(), batches, wanted)]
    while (before := _before(path[0].versions[0])) is not None:
        path.insert(0, _stretch(by_number[before], by_number.values(), batches, path[0].versions[0]))
    return path


def _stretch(of: Version, ascending: Iterable[Version], batches: Mapping[str, Version], until: Version) -> Stretch:
    """What the learner of a version went through on its line, to where `until` was made of it, or to that itself."""
    end = position_key(until.position)
    own = [one for one in ascending if _learner(one) == _learner(of) and one.number <= until.number]
    begun = max((index for index, one in enumerate(own) if "promoted" in one.lineage and one.number <= of.number), default=0)
    own = [one for one in own[begun:] if position_key(one.position) <= end]
    start = position_key(own[0].position)
    at = {where: one for where, one in batches.items() if start < position_key(where) <= end}
    at |= {one.position: one for one in own[1:]}
    return Stretch(own, [at[where] for where in sorted(at, key=position_key)])


def _learner(version: Version) -> tuple[str, int]:
    born = version.lineage.get("line", {}).get("born", 0)
    return (MAIN, 0) if version.line == MAIN else (version.line, born)


def _before(first: Version) -> int | None:
    """The version whose learner the first one of a stretch is; None where that began with weights alone, or from scratch."""
    if promoted := first.lineage.get("promoted"):
        return promoted["version"]
    start: str = first.lineage.get("line", {}).get("start", SCRATCH)
    return None if start == SCRATCH or start.isdecimal() else first.parent
