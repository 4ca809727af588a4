"""A line made main: main's learner takes over its way of learning and its whole state, in one step.

Main's consumer moves to where the line's learner is, be that ahead or behind, together with the line's state; a version with
the line's weights is published on main, and the line has ended. Main's trainer finds its position moved, and starts over from
there: what the line has not learned it learns, as long as the outcome stream has it.
"""

import json
from collections.abc import Callable, Sequence
from time import time
from typing import Any

from store.errors import Fenced, LineError
from store.lines import Line, learned_version, learner_state, read_lines
from store.names import learner_consumer, outcome_stream
from store.policy import MAIN, AuditRecord
from store.protocols import NUMBER, START, Advance, Commit, Store, Version, position_key

_TRIES = 20


async def promote_line(
    store: Store,
    model: str,
    name: str,
    *,
    who: str = "operator",
    why: str = "",
    experiment: str = "",
    report: dict[str, Any] | None = None,
    evidence: Sequence[dict[str, Any]] = (),
    check: Callable[[Version], str] | None = None,
) -> Version:
    """Make a line main; return the version that is published on main.

    Args:
        report: of the experiment that it won, if there was one; `evidence` what else speaks for it. Both are for the record.
        check: says why the line's version is not to be promoted, or nothing.

    Raises:
        NotFound: no such line learns beside main.
        LineError: it has not begun or has not caught up, its last version may not be promoted, or the outcome stream no longer
            has what main would have to learn again.
        Fenced: its learner and main's move too fast to be caught at rest.
    """
    for attempt in range(_TRIES):
        lines = await read_lines(store, model)
        line, now = lines.expect(name), time()
        known = await learner_state(store, model, line)
        version = await _promotable(store, model, line, known, check)
        assert known is not None
        blob, weights = await store.blob(learner_consumer(model, name)), await store.weights(model, version.number)
        main_at, main_state = await store.consumer(learner_consumer(model))
        at: str = known.pop("position")
        await _refuse_gap(store, model, line, at, main_at)
        ended = line.model_copy(update={"status": "promoted", "ended_at": now})
        changed = lines.ended(line, "promoted", now).model_copy(update={"main": ended, "taken": lines.taken + 1})
        how = {"line": name, "born": line.born, "version": version.number, "main was at": main_at}
        taken = version.model_copy(
            update={
                "number": 0, "line": MAIN, "parent": version.number, "created_at": now,
                "position": at, "log_position": known["log_position"],
                "lineage": {**version.lineage, "cut": f"line {name} became main", "promoted": how},
            }
        )  # fmt: skip
        before = _version_of(main_state)
        said = AuditRecord(
            at=now, who=who, model=model, action="promote line", experiment=experiment,
            before=f"'{MAIN}' learned from version {before}" if before else "",
            after=f"'{MAIN}' is what line '{name}' was, as version {NUMBER}", why=why,
            evidence=tuple(evidence), report=report or {},
        )  # fmt: skip
        state = known | {"verdict": "published", "reason": f"line {name} became main", "at": now, "parent": before, "born": 0}
        step = Advance(learner_consumer(model), main_at, at, json.dumps(state | {"weighed": True}).encode(), blob)
        # Who learns now gets no further: not the line's learner, and not main's, where both are at one place.
        rest = Advance(learner_consumer(model, name), at, START, b"{}")
        beside = (changed.moved_from(model, lines), rest, lines.fence(model, changed.taken))
        try:
            published = await store.commit(model, Commit(step, taken, weights, said.model_dump_json().encode(), beside))
        except Fenced:
            if attempt == _TRIES - 1:
                raise
            continue
        assert published is not None
        return published
    raise AssertionError("unreachable")


async def _promotable(
    store: Store, model: str, line: Line, known: dict[str, Any] | None, check: Callable[[Version], str] | None
) -> Version:
    """Return the version with the weights of a line's learner."""
    where = f"line '{line.name}' cannot become main"
    if known is None:
        raise LineError(f"{where}: its learner has not begun; 'tidemill line list {model}' says when it has")
    if not known["caught_up"]:
        raise LineError(f"{where}: its learner has not caught up with main; 'tidemill line list {model}' says how far it is")
    version = await learned_version(store, model, line.name, known["position"], known)
    if version.status != "published":
        raise LineError(f"{where}: its version {version.number} is {version.status}: {version.reason}")
    if check is not None and (problem := check(version)):
        raise LineError(f"{where}: {problem}; --force (in the body: force) promotes it all the same, and needs a why")
    return version


async def _refuse_gap(store: Store, model: str, line: Line, at: str, main_at: str) -> None:
    """Raises LineError where main would have to learn again what is no longer there."""
    if position_key(at) >= position_key(main_at):
        return
    first = await store.read(outcome_stream(model), START, 1)
    if at != START and (not first or position_key(first[0].position) > position_key(at)):
        raise LineError(
            f"line '{line.name}' cannot become main: it is at {at} and main at {main_at}, and the outcome stream no longer "
            "has all that lies between; it can when it has caught up"
        )


def _version_of(state: bytes) -> int:
    return json.loads(state).get("parent", 0) if state else 0
