"""A line becomes main with all that it is, or not at all; one that is added again is another one."""

from collections.abc import Awaitable, Callable

import pytest

from store.errors import Fenced, LineError, NotFound
from store.lines import added, change_lines, planned_line, read_lines
from store.memory import MemoryStore
from store.names import AUDIT, learner_consumer, outcome_stream
from store.policy import AuditRecord
from store.promoting import promote_line
from store.protocols import START
from tests.unit.trainer.lines.world import SPEC, Killed, add, bits, exhaust, log, retire, train_line, train_main
from trainer.errors import LineEnded, TakenOver
from trainer.lines import LineTrainer
from trainer.loop import Trainer

pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("default")]


async def _together(store: MemoryStore) -> None:
    await log(store, 0, 1)
    await train_main(store)
    await add(store, learning_rate=0.1)
    await train_line(store)
    await log(store, 2, 3)


async def _only_main(store: MemoryStore) -> None:
    await train_main(store)


async def _join_only(store: MemoryStore) -> None:
    """Main joins what is there, and is killed before it learns it."""
    with pytest.raises(Killed):
        await train_main(store, killed_at="gates.after")


async def _both(store: MemoryStore) -> None:
    await train_main(store)
    await train_line(store)


@pytest.mark.parametrize("before", [_only_main, _join_only, _both], ids=["behind", "ahead", "level"])
async def test_who_becomes_main_goes_on_with_the_bits_that_it_would_have_had(
    before: Callable[[MemoryStore], Awaitable[None]],
) -> None:
    stores = [MemoryStore() for _ in range(2)]
    for store in stores:
        await _together(store)
    alone, store = stores
    await train_main(alone)
    await train_line(alone)
    await before(store)
    if before is _join_only:
        await train_line(store)
    at, _ = await store.consumer(learner_consumer("m", "x"))
    running = Trainer(SPEC, store)
    if before is _both:
        await running.start()
    winner = (await store.snapshot("m")).channels["x@latest"]
    main_at, _ = await store.consumer(learner_consumer("m"))
    promoted = await promote_line(store, "m", "x", who="ann", why="it is better", evidence=[{"line": "x"}])
    assert (promoted.line, promoted.parent, promoted.position) == ("main", winner, at)
    assert promoted.weights == (await store.version("m", winner)).weights
    assert (await store.consumer(learner_consumer("m")))[0] == at
    assert (at > main_at, at < main_at) == (before is _join_only, before is _only_main)
    assert (await store.snapshot("m")).channels["main@latest"] == promoted.number
    for one in stores:
        await log(one, 4, 5)
    if before is _both:
        with pytest.raises(TakenOver):
            await running.refresh()
        with pytest.raises(Fenced):  # who learned main before gets no further
            await exhaust(running)
    main = await train_main(store)
    await train_main(alone)
    line = await train_line(alone)
    assert bits(main) == bits(line)
    newest = await store.version("m", main.learning.version)
    assert (newest.line, newest.lineage["way"]["line"]) == ("main", "x")
    assert newest.lineage["learning"]["learning_rate"] == 0.1
    assert bits(await train_main(store)) == bits(line), "a restart keeps it, whatever is declared"
    lines = await read_lines(store, "m")
    assert [(one.name, one.status) for one in lines.lines] == [("x", "promoted")]
    [said] = [
        AuditRecord.model_validate_json(one.payload) for one in await store.read(AUDIT, START, 10) if b"promote" in one.payload
    ]
    assert (said.who, said.why, said.evidence) == ("ann", "it is better", ({"line": "x"},))
    assert said.after.endswith(f"as version {promoted.number}")


async def test_a_line_that_became_main_gets_no_further_itself() -> None:
    store = MemoryStore()
    await _together(store)
    await train_main(store)
    await train_line(store)
    running = LineTrainer(SPEC, store, "x")
    await running.start()
    await promote_line(store, "m", "x")
    await log(store, 4)
    await train_main(store)
    with pytest.raises(Fenced):
        await running.step(0.01)
    with pytest.raises(LineEnded):
        await running.refresh()


async def test_a_line_added_again_is_another_one() -> None:
    store = MemoryStore()
    await _together(store)
    await _both(store)
    await retire(store)
    await add(store)
    line, main = await train_line(store), await train_main(store)
    assert bits(line) == bits(main)


async def test_a_line_in_place_of_another_begins_anew_with_what_it_is_told() -> None:
    store = MemoryStore()
    await _together(store)
    await _both(store)
    await add(store, "y")
    best = await train_line(store, "y")
    running = LineTrainer(SPEC, store, "x")
    await running.start()
    planned = await planned_line(store, (await store.models())["m"], "x", "y", {}, {})
    lines = await change_lines(store, "m", lambda lines: added(lines, planned, instead=True), b"replaced")
    assert [one.name for one in lines.active] == ["y", "x"]
    with pytest.raises(LineEnded):
        await running.refresh()
    assert bits(await train_line(store)) == bits(best)
    with pytest.raises(LineError, match="with itself"):
        await add(store, "x", start="x")
    with pytest.raises(NotFound):
        added(lines, planned.model_copy(update={"name": "z"}), instead=True)


async def test_what_a_promotion_would_have_to_learn_again_must_be_there() -> None:
    store = MemoryStore()
    await _together(store)
    await train_main(store)
    await store.trim(outcome_stream("m"), (await store.consumer(learner_consumer("m")))[0])
    with pytest.raises(LineError, match="no longer has all"):
        await promote_line(store, "m", "x")


async def test_what_cannot_be_promoted_is_refused() -> None:
    store = MemoryStore()
    await log(store, 0)
    await train_main(store)
    with pytest.raises(NotFound, match="'x'"):
        await promote_line(store, "m", "x")
    await add(store)
    with pytest.raises(LineError, match="has not begun"):
        await promote_line(store, "m", "x")
    await train_line(store)
    with pytest.raises(LineError, match="too old"):
        await promote_line(store, "m", "x", check=lambda _: "it is too old")
    assert (await read_lines(store, "m")).expect("x").status == "active"
