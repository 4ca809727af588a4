"""The lines of a model: learners of their own on the same stream, each with its way of learning, beside the line main.

They are plain data, kept where a consumer's state is, whose position is their revision: changed from what was read, or not at
all. A line's own learner is the consumer of its name; what that is at lies with it.
"""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from store.errors import Fenced, LineError, NotFound
from store.learning import Learning
from store.names import AUDIT, CONTROL, learner_consumer, lines_consumer, takeover_consumer
from store.policy import MAIN
from store.protocols import START, Advance, EventLog, ModelRegistry, Store, Version, position_key
from store.search import Way
from store.spec import ModelRecord, ModelSpec

SCRATCH = "scratch"
MOST_ACTIVE = 8
"""Lines beside main that a model may have at a time: each learns all that main learns."""

_NAME = re.compile(r"(?=.*[a-z])[a-z0-9][a-z0-9._-]{0,62}")
_TAKEN = {MAIN, SCRATCH, "retrained", "imported"}
_KEPT_ENDED = 50
_TRIES = 20


class Line(BaseModel):
    """A line as it was asked for, by `who` at `at`. `start` is what its learner begins with: the state of main or of another
    line, by its name, the weights of a version, by its number, or scratch. `born` is the revision that it came with: what is
    added again is another line."""

    model_config = ConfigDict(frozen=True)

    name: str
    way: Way
    start: str = MAIN
    born: int = 0
    at: float = 0.0
    who: str = ""
    why: str = ""
    status: Literal["active", "retired", "promoted"] = "active"
    ended_at: float = 0.0


class Lines(BaseModel):
    """All lines of a model beside main, those that ended too. `main` is the line that became main last, whose way main has gone
    since; None where main learns as it is declared. `taken` counts the lines that have."""

    model_config = ConfigDict(frozen=True)

    revision: int = 0
    main: Line | None = None
    taken: int = 0
    lines: tuple[Line, ...] = ()

    @property
    def active(self) -> tuple[Line, ...]:
        return tuple(line for line in self.lines if line.status == "active")

    def expect(self, name: str) -> Line:
        """Return an active line; raises NotFound."""
        for line in self.active:
            if line.name == name:
                return line
        there = ", ".join(line.name for line in self.active) or "none"
        raise NotFound(f"no line '{name[:80]}' learns beside main; there are: {there}")

    def way(self, record: ModelRecord) -> Way:
        """Return main's way of learning."""
        return self.main.way if self.main is not None else Way(learning=record.learning, shape=record.shape)

    def with_line(self, line: Line) -> "Lines":
        """Return them with this one in place of the one of its name; of those that ended the oldest are forgotten."""
        lines = [one for one in self.lines if one.name != line.name]
        ended = [one for one in lines if one.status != "active"][:-_KEPT_ENDED]
        return self.model_copy(update={"lines": (*(one for one in lines if one not in ended), line)})

    def ended(self, line: Line, status: Literal["retired", "promoted"], now: float) -> "Lines":
        return self.with_line(line.model_copy(update={"status": status, "ended_at": now}))

    def moved_from(self, model: str, before: "Lines") -> Advance:
        """Return the step that puts these in place of those that were `before`."""
        new = self.model_copy(update={"revision": before.revision + 1})
        state = new.model_dump_json().encode()
        return Advance(lines_consumer(model), f"{before.revision}-0", f"{new.revision}-0", state)

    def fence(self, model: str, taken: int | None = None) -> Advance:
        """Return the step that fails once another line has become main; `taken`: that moves, for one that is to become it."""
        after = self.taken if taken is None else taken
        return Advance(takeover_consumer(model), f"{self.taken}-0", f"{after}-0")


async def read_lines(log: EventLog, model: str) -> Lines:
    _, state = await log.consumer(lines_consumer(model))
    return _parsed(state) if state else Lines()


async def change_lines(log: EventLog, model: str, change: Callable[[Lines], Lines], audit: bytes) -> Lines:
    """Replace a model's lines by what `change` makes of them, and keep the audit record, both or neither; return what there was
    put. Where somebody else was faster it is made again.

    Raises:
        Fenced: others were faster again and again.
    """
    for attempt in range(_TRIES):
        before = await read_lines(log, model)
        new = change(before)
        try:
            await log.advance(new.moved_from(model, before), [(AUDIT, audit), (CONTROL, b"")])
        except Fenced:
            if attempt == _TRIES - 1:
                raise
            continue
        return new.model_copy(update={"revision": before.revision + 1})
    raise AssertionError("unreachable")


async def planned_line(
    store: Store, record: ModelRecord, name: str, start: str, learning: dict[str, Any], shape: dict[str, Any]
) -> Line:
    """Return a line that is to be added: main's way of learning, but for the settings that are named.

    Raises:
        LineError: it cannot be; the text says what would be right.
        NotFound: it is to begin with a line or version that there is not.
    """
    model, lines = record.name, await read_lines(store, record.name)
    await _check_name(store, model, name, lines)
    way = _changed(lines.way(record), learning, shape)
    if record.network and way.shape != lines.way(record).shape:
        raise LineError(f"model '{model}' has a network of its own, which has no shape to set: leave shape out")
    known = [one.name for one in record.features.asked]
    if problem := way.learning.problem(record.objective, record.labels_known, known):
        raise LineError(f"line '{name}': learning: {problem}")
    if start.isdecimal():
        version = await store.version(model, int(start))
        if version.spec != record.model_copy(update={"shape": way.shape}).digest or "method" in version.lineage:
            raise LineError(f"version {start} is of another network: its weights cannot be learned on")
        await store.weights(model, int(start))
    elif start == name:
        raise LineError(f"line '{name}' cannot begin with itself")
    elif start != SCRATCH:
        of = lines.way(record) if start == MAIN else lines.expect(start).way
        # Weights of another shape do not fit.
        start = start if of.shape == way.shape else SCRATCH
    return Line(name=name, way=way, start=start)


def added(lines: Lines, line: Line, *, instead: bool = False) -> Lines:
    """Return the lines with one more, or with `instead` that one in place of the active one of its name.

    Raises:
        LineError: there are as many as there may be, or one of this name.
        NotFound: there is none of this name that it could take the place of.
    """
    if instead:
        lines.expect(line.name)
        return lines.with_line(line.model_copy(update={"born": lines.revision + 1}))
    if any(one.name == line.name for one in lines.active):
        raise LineError(f"line '{line.name}' is there already: retire it first, or take another name")
    if len(lines.active) >= MOST_ACTIVE:
        there = ", ".join(one.name for one in lines.active)
        raise LineError(f"{MOST_ACTIVE} lines learn beside main already: {there}; retire one first")
    return lines.with_line(line.model_copy(update={"born": lines.revision + 1}))


def with_way(spec: ModelSpec, way: Way, declared: Learning) -> ModelSpec:
    """Return a declaration with another way of learning.

    Args:
        declared: what is on record of the declaration. A seed that is given to trainers in place of the declared one stands in
            place of it here, too.
    """
    learning = way.learning
    if learning.seed == declared.seed:
        learning = learning.model_copy(update={"seed": spec.learning.seed})
    return replace(spec, learning=learning, shape=spec.shape if spec.network is not None else way.shape)


async def learned_version(registry: ModelRegistry, model: str, line: str, position: str, state: dict[str, Any]) -> Version:
    """Return the version with the weights of a learner that is at `position`: of its last step if that made one, else the one
    it had before. Not the line's newest: that may have been rejected since, or been rejected and learned from all the same.

    Args:
        state: the learner's; `weighed` in it says whether its last step made one.

    Raises:
        NotFound: no version has them.
    """
    parent = state.get("parent")
    # Other lines may have published many since. What was committed by an earlier release does not say.
    for last in {True: (100, 2**31), False: ()}.get(state.get("weighed", not parent or None), (100,)):
        for version in await registry.versions(model, last):
            if version.line == line and version.position == position and version.weights:
                return version
    if not parent:
        raise NotFound(f"line '{line}' of model '{model}' has no version")
    return await registry.version(model, parent)


async def seen_by(registry: ModelRegistry, version: Version) -> int:
    """Return how many outcomes the feature statistics of a version stand for: what all of its line to it learned."""
    every = await registry.versions(version.model, 2**31)
    return sum(one.outcomes for one in every if one.line == version.line and one.weights and one.number <= version.number)


async def needed_by(log: EventLog, model: str, lines: Lines) -> str | None:
    """Return the position in the outcome stream behind which active lines still need it; None where there are none."""
    needs = list[str]()
    for line in lines.active:
        state = await learner_state(log, model, line)
        needs.append(state["needs"] if state is not None else START)
    return min(needs, key=position_key, default=None)


async def learner_state(log: EventLog, model: str, line: Line) -> dict[str, Any] | None:
    """Return what is known of a line's learner, `position` added; None while it has not begun."""
    position, state = await log.consumer(learner_consumer(model, line.name))
    known: dict[str, Any] = json.loads(state) if state else {}
    return known | {"position": position} if known.get("born") == line.born else None


async def _check_name(log: EventLog, model: str, name: str, lines: Lines) -> None:
    if not _NAME.fullmatch(name):
        raise LineError(f"line '{name[:80]}': use lower-case letters (at least one), digits, '.', '_' and '-', at most 63")
    if name in _TAKEN or name.endswith("-compressed"):
        raise LineError(f"line '{name}' is the platform's: take another name")
    position, _ = await log.consumer(learner_consumer(model, name))
    if position != START and not any(one.name == name for one in lines.lines):
        raise LineError(f"line '{name}' has versions that no learner made: take another name")


def _changed(way: Way, learning: dict[str, Any], shape: dict[str, Any]) -> Way:
    """Raises LineError where a setting makes no sense."""
    before = way.model_dump(mode="json")
    try:
        return Way.model_validate({"learning": before["learning"] | learning, "shape": before["shape"] | shape})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise LineError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None


@lru_cache(maxsize=256)
def _parsed(text: bytes) -> Lines:
    return Lines.model_validate_json(text)
