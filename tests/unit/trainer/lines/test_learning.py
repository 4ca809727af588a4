"""Lines beside main learn what main learns, in their own way; killed anywhere, they end with the same bits."""

from typing import Any

import pytest

import trainer.lines
from store.errors import LineError, NotFound
from store.lines import learner_state, needed_by, read_lines
from store.memory import MemoryStore
from store.names import learner_consumer, outcome_stream
from store.promoting import promote_line
from store.protocols import START, Advance, Commit, Version
from store.publishing import publish
from tests.unit.trainer.lines.world import ROWS, SPEC, Killed, add, bits, log, retire, train_line, train_main
from trainer.errors import LineEnded
from trainer.loop import Trainer
from trainer.retention import forget

pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("default")]


async def test_a_line_with_mains_own_way_and_state_is_main_bit_for_bit() -> None:
    """Its gates refuse what main's refuse."""
    store = MemoryStore()
    await log(store, 0, 1, 2, 3, 4, 5)
    await train_main(store)
    await add(store)
    line = await train_line(store)
    await log(store, 6, 7)
    await log(store, 8, source="liar")
    await log(store, 9)
    main = await train_main(store)
    again = await train_line(store)
    assert bits(again) == bits(main)
    assert again.learning.at == main.learning.at != line.learning.at
    told = {name: {} for name in ("main", "x")}
    for version in await store.versions("m"):
        told[version.line][version.position] = (version.status, version.weights, version.reason, version.outcomes)
    shared = told["x"].keys()
    assert len(shared) == 5
    assert [one[0] for one in told["x"].values()].count("rejected") == 1
    first = min(shared)
    assert {place: told["main"][place][:3] for place in shared} == {place: told["x"][place][:3] for place in shared}
    assert told["x"][first][3] == 0, "its first version has learned nothing that main had not"
    snapshot = await store.snapshot("m")
    newest = {line: await store.version("m", snapshot.channels[f"{line}@latest"]) for line in ("main", "x")}
    assert newest["main"].weights == newest["x"].weights


async def test_a_line_learns_in_its_own_way() -> None:
    store = MemoryStore()
    await log(store, 0, 1)
    await train_main(store)
    await add(store, learning_rate=0.1, optimiser={"kind": "adam"}, memory=0.999)
    await train_line(store)
    await log(store, 2)
    main, line = await train_main(store), await train_line(store)
    assert bits(line)[0] != bits(main)[0]
    [version] = [one for one in await store.versions("m", 1) if one.line == "x"]
    assert (version.lineage["learning"]["learning_rate"], version.outcomes) == (0.1, ROWS)
    assert version.lineage["line"] == {"name": "x", "start": "main", "born": 1}


STAGES = ("gates.after", "publish.before", "publish.after")


@pytest.mark.parametrize("start", ["main", "scratch"])
async def test_a_line_that_is_killed_at_any_step_ends_with_the_same_bits(start: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer.lines, "SAVED_EVERY", 3)
    stores = [MemoryStore() for _ in range(2)]
    for store in stores:
        await log(store, *range(7))
        await train_main(store)
        await add(store, start=start, learning_rate=0.05)
    calm = await train_line(stores[0])
    for stage in STAGES:
        with pytest.raises(Killed):
            await train_line(stores[1], killed_at=stage)
    await train_line(stores[1])
    for store in stores:
        await log(store, 7, 8, 9)
        await train_main(store)
    calm = await train_line(stores[0])
    for stage in STAGES:
        with pytest.raises(Killed):
            await train_line(stores[1], killed_at=stage)
    killed = await train_line(stores[1])
    assert bits(killed) == bits(calm)
    assert await stores[0].blob(learner_consumer("m", "x")) == await stores[1].blob(learner_consumer("m", "x"))


async def test_a_line_from_scratch_publishes_nothing_before_it_has_caught_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer.lines, "SAVED_EVERY", 3)
    store = MemoryStore()
    await log(store, *range(8))
    main = await train_main(store)
    line = await add(store, start="main", shape={"hidden": [8]})
    assert line.start == "scratch", "another shape cannot take weights over"
    with pytest.raises(Killed):  # the third step: behind after three and after six micro-batches
        await train_line(store, killed_at="publish.after", count=3)
    assert "x@latest" not in (await store.snapshot("m")).channels
    state = await learner_state(store, "m", line)
    assert state is not None
    assert not state["caught_up"]
    with pytest.raises(LineError, match="has not caught up"):
        await promote_line(store, "m", "x")
    caught = await train_line(store)
    assert caught.caught_up
    versions = [one for one in await store.versions("m") if one.line == "x"]
    assert [one.status for one in versions] == ["published", "behind", "behind", "behind"]
    assert versions[0].position == main.learning.at
    assert versions[0].graph != (await store.version("m", 1)).graph


async def test_a_line_from_a_version_begins_where_that_one_was() -> None:
    store = MemoryStore()
    await log(store, 0, 1, 2, 3)
    await train_main(store)
    origin = await store.version("m", 3)
    await add(store, start="3")
    with pytest.raises(Killed):
        await train_line(store, killed_at="publish.after")
    [first] = [one for one in await store.versions("m") if one.line == "x"]
    assert (first.position, first.weights, first.parent, first.status) == (origin.position, origin.weights, 3, "behind")
    line = await train_line(store)
    count = line.learning.learner.scorer.network.get_buffer("standardise.count")
    assert count.tolist() == [4.0 * ROWS], "its feature statistics weigh what the version had learned"


async def test_a_line_takes_over_another_ones_state() -> None:
    store = MemoryStore()
    await log(store, 0, 1)
    await train_main(store)
    await add(store, learning_rate=0.1)
    await train_line(store)
    await log(store, 2)
    await train_main(store)
    first = await train_line(store)
    await add(store, "y", start="x", learning_rate=0.1)
    await log(store, 3)
    await train_main(store)
    second, first = await train_line(store, "y"), await train_line(store)
    assert bits(second) == bits(first)


async def test_an_active_line_holds_the_outcome_stream_and_a_retired_one_lets_it_go() -> None:
    store = MemoryStore()
    await log(store, *range(6))
    main = await train_main(store)
    await add(store)
    assert await needed_by(store, "m", await read_lines(store, "m")) == START, "it has not begun"
    line = await train_line(store)
    held = await needed_by(store, "m", await read_lines(store, "m"))
    assert held == line.learning.needs
    await log(store, *range(6, 14))
    main = Trainer(SPEC, store, retention_s=0.0)
    await main.start()
    while await main.step(0.01):
        pass
    main._joining._trimmed_at = 0.0  # pyright: ignore[reportPrivateUsage]
    await main.step(0.0)
    assert (await store.read(outcome_stream("m"), START, 1))[0].position == held
    await train_line(store)
    await retire(store)
    with pytest.raises(LineEnded):
        await line.refresh()
    await main.refresh()
    main._joining._trimmed_at = 0.0  # pyright: ignore[reportPrivateUsage]
    await main.step(0.0)
    assert (await store.read(outcome_stream("m"), START, 1))[0].position == main.learning.needs != held


async def test_lines_that_cannot_be_are_refused() -> None:
    store = MemoryStore()
    await log(store, 0)
    await train_main(store)
    await store.advance(Advance(learner_consumer("m", "theirs"), START, "1-0"), [])
    for name in ("main", "main-compressed", "retrained", "scratch", "theirs", "12", "A", "a b", ""):
        with pytest.raises(LineError, match="line"):
            await add(store, name)
    wrong: dict[str, Any]
    for wrong in ({"learning_rate": 0.0}, {"unknown": 1}, {"loss": {"kind": "cost_matrix", "costs": [[0.0]]}}):
        with pytest.raises(LineError):
            await add(store, **wrong)
    with pytest.raises(LineError, match="shape"):
        await add(store, shape={"hidden": [0]})
    for nowhere in ("nobody", "99"):
        with pytest.raises(NotFound, match=nowhere):
            await add(store, start=nowhere)
    for number in range(8):
        await add(store, f"l{number}")
    with pytest.raises(LineError, match="8 lines learn beside main already"):
        await add(store, "ninth")
    await retire(store, "l3")
    await add(store, "ninth")
    with pytest.raises(LineError, match="there already"):
        await add(store, "ninth")


async def test_nobody_else_publishes_on_an_active_line() -> None:
    store = MemoryStore()
    await log(store, 0)
    main = await train_main(store)
    await add(store)
    graph, weights = await store.graph("m", (await store.version("m", 1)).graph), main.learning.learner.weights()
    with pytest.raises(LineError, match="published by its learner"):
        await publish(store, "m", graph, weights, "x")
    await retire(store)
    assert (await publish(store, "m", graph, weights, "other")).line == "other"


async def test_what_a_learner_goes_on_from_is_kept_while_others_publish() -> None:
    """A line that has not learned for a hundred versions, and whose newest good version is not what it learns from."""
    store = MemoryStore()
    await log(store, 0, 1)
    await train_main(store)
    await add(store)
    line = await train_line(store)
    before = bits(line)
    kept = line.learning.version
    for number in range(120):
        at, _ = await store.consumer("other")
        step = Advance("other", at, f"{number + 1}-0")
        made = await store.commit("m", Commit(step, Version(model="m", line="other", position=step.position), b"w"))
        assert made is not None
        await forget(store, "m", made.number - 1, made.number)
    gone = [one.number for one in await store.versions("m", 1000) if one.number not in store._models["m"].weights]  # pyright: ignore[reportPrivateUsage]
    assert len(gone) > 50
    assert kept not in gone
    assert bits(await train_line(store)) == before
