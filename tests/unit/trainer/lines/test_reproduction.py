"""What a line learned, and main after a line became main, is learned again through all lines that it came by."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

import pytest

import trainer.lines
from store.errors import NotFound
from store.memory import MemoryStore
from store.promoting import promote_line
from store.protocols import Version
from store.records import Outcome
from tests.unit.trainer.lines.world import ROWS, SPEC, Killed, add, log, retire, train_line, train_main
from trainer.errors import Irreproducible
from trainer.learner import Learned, Learner
from trainer.lineage.reproduction import reproduce

pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("default")]


async def _all_the_same(store: MemoryStore) -> list[Version]:
    """Reproduce each version that has weights; return all versions, oldest first."""
    versions = (await store.versions("m", 2**31))[::-1]
    for version in versions:
        if version.weights:
            again = await reproduce(SPEC, store, version.number)
            assert again.same, (version.number, version.line, again.first_different)
            assert again.learned == version.weights
    return versions


async def _beside(store: MemoryStore) -> None:
    """Main and a line that learns faster, both at the same place."""
    await log(store, 0, 1)
    await train_main(store)
    await add(store, learning_rate=0.1)
    await train_line(store)
    await log(store, 2, 3)
    await train_main(store)
    await train_line(store)


async def _level(store: MemoryStore) -> None:
    pass


async def _behind(store: MemoryStore) -> None:
    await log(store, 4, 5)
    await train_main(store)


async def _ahead(store: MemoryStore) -> None:
    await log(store, 4, 5)
    with pytest.raises(Killed):
        await train_main(store, killed_at="gates.after")
    await train_line(store)


@pytest.mark.parametrize("where", [_level, _behind, _ahead])
async def test_main_goes_on_with_what_a_line_was(where: Callable[[MemoryStore], Awaitable[None]]) -> None:
    store = MemoryStore()
    await _beside(store)
    await where(store)
    promoted = await promote_line(store, "m", "x")
    await log(store, 6, 7)
    await train_main(store)
    versions = await _all_the_same(store)
    after = [version for version in versions if version.line == "main" and version.number > promoted.number]
    assert after[-1].lineage["learning"]["learning_rate"] == 0.1
    again = await reproduce(SPEC, store, versions[-1].number)
    assert again.outcomes == ROWS * (6 if where is _level else 8)


async def test_one_line_after_another_becomes_main() -> None:
    store = MemoryStore()
    await _beside(store)
    await promote_line(store, "m", "x")
    await log(store, 4)
    await train_main(store)
    await add(store, "x", optimiser={"kind": "sgd"}, learning_rate=0.01)
    await train_line(store)
    await add(store, "y", start="x", learning_rate=0.03)
    await log(store, 5)
    for name in ("y", "x"):
        await train_line(store, name)
    await train_main(store)
    await log(store, 6)
    await train_main(store)
    for name in ("y", "x"):
        await train_line(store, name)
    await promote_line(store, "m", "y")
    await log(store, 7)
    await train_main(store)
    versions = await _all_the_same(store)
    assert {version.line for version in versions} == {"main", "x", "y"}


@pytest.mark.parametrize("start", ["scratch", "2"])
async def test_a_line_that_caught_up_kept_few_of_what_it_learned(start: str) -> None:
    store = MemoryStore()
    await log(store, *range(6))
    await train_main(store)
    shape = {"hidden": [8]} if start == "scratch" else None
    await add(store, start=start, shape=shape, learning_rate=0.1)
    await train_line(store)
    kept = [version for version in await store.versions("m", 2**31) if version.line == "x"]
    assert len(kept) < 5
    await promote_line(store, "m", "x")
    await log(store, 8)
    await train_main(store)
    await _all_the_same(store)


async def test_what_was_refused_on_the_way_is_taken_back_again(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    await log(store, *range(6))
    await train_main(store)
    refused = (await store.versions("m", 2**31))[2]
    learn = Learner.learn
    unwanted = {refused.log_position}

    def refusing(self: Learner, outcomes: Sequence[Outcome], seed: str) -> Learned:
        learned = learn(self, outcomes, seed)
        if seed not in unwanted:
            return learned
        self.undo()
        return replace(learned, rejected="nobody wants it")

    monkeypatch.setattr(trainer.lines, "SAVED_EVERY", 100)
    await add(store, start="scratch", learning_rate=0.1)
    with monkeypatch.context() as patch:
        patch.setattr(Learner, "learn", refusing)
        await train_line(store)
    await log(store, 6)
    await train_main(store)
    unwanted.add((await store.versions("m", 1))[0].log_position)
    with monkeypatch.context() as patch:
        patch.setattr(Learner, "learn", refusing)
        await train_line(store)
    await log(store, 7)
    await train_main(store)
    await train_line(store)
    versions = await _all_the_same(store)
    behind, caught_up = [version for version in versions if version.line == "x" and version.status == "rejected"]
    assert (behind.position, behind.lineage["taken back"]) == (refused.position, True)
    with pytest.raises(Irreproducible, match=f"version {caught_up.number} of line x was rejected and has no weights"):
        await reproduce(SPEC, store, caught_up.number)


async def test_another_line_of_the_same_name_is_not_on_the_way() -> None:
    store = MemoryStore()
    await _beside(store)
    await retire(store)
    await add(store, learning_rate=0.3)
    await train_line(store)
    await log(store, 4)
    await train_main(store)
    await train_line(store)
    versions = await _all_the_same(store)
    assert len({version.lineage["line"]["born"] for version in versions if version.line == "x"}) == 2


async def test_weights_that_are_gone_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    await log(store, *range(3))
    await train_main(store)
    await add(store, start="2")
    await train_line(store)

    async def gone(_self: MemoryStore, _model: str, number: int) -> bytes:
        raise NotFound(f"the weights of version {number} are not kept")

    monkeypatch.setattr(MemoryStore, "weights", gone)
    newest = (await store.versions("m", 1))[0]
    with pytest.raises(Irreproducible, match=r"line x began with the weights of version 2: .* not kept"):
        await reproduce(SPEC, store, newest.number)
