"""Expectations follow what the learner has had: each outcome once, and never against who edits them."""

import pytest

from store.expectations import Expectation, Expectations, read_expectations, write_expectations
from store.memory import MemoryStore
from store.names import outcome_stream, profile_consumer
from store.records import Cut, Outcome, Outcomes, Served, pack_outcomes
from store.spec import LabelPolicy
from trainer import expecting
from trainer.expecting import Expecting
from trainer.profile import ENOUGH
from trainer.testing import DAY_1, binary_model

pytestmark = pytest.mark.anyio
MODEL = binary_model(LabelPolicy())
EDITED = Expectation(feature="x", kind="range", low=-5.0)


def _outcomes(first: int, count: int) -> list[Outcome]:
    served = Served("main", 1, 1.0)
    return [
        Outcome(str(n), "u", [float(n % 100)], [0.5], served, 1.0, "label", True, DAY_1, DAY_1 + n, DAY_1 + n)
        for n in range(first, first + count)
    ]


async def _batch(store: MemoryStore, first: int, count: int) -> tuple[list[Outcome], str]:
    """Put a micro-batch into the stream; return it, and where it ends."""
    outcomes = _outcomes(first, count)
    records = (Outcomes(outcomes), Cut("hand"))
    positions = await store.append([(outcome_stream("m"), pack_outcomes(record)) for record in records])
    return outcomes, positions[-1]


async def _learned(store: MemoryStore, following: Expecting, first: int, count: int) -> str:
    outcomes, position = await _batch(store, first, count)
    following.take(outcomes)
    await following.follow(position)
    return position


async def _started(store: MemoryStore, at: str = "0-0") -> Expecting:
    following = Expecting(MODEL, store)
    await following.start(at)
    return following


async def test_expectations_are_inferred_when_enough_was_learned_and_again_when_it_is_twice_as_much() -> None:
    store = MemoryStore()
    following = await _started(store)
    await _learned(store, following, 0, ENOUGH - 1)
    assert (await read_expectations(store, "m")).awaited
    await _learned(store, following, ENOUGH, expecting.SAVED_EVERY)
    first = await read_expectations(store, "m")
    assert (first.revision, first.origin, first.who) == (1, "inferred", "trainer")
    [one] = first.expectations
    assert (one.feature, one.kind, one.low) == ("x", "range", 0.0)
    assert one.high is not None
    assert 99.0 < one.high < 200.0
    following.take([Outcome("far", "u", [1e6], [0.5], Served("main", 1, 1.0), 1.0, "label", True, 0.0, 0.0, 0.0)] * 100)
    for number in range(5):
        await _learned(store, following, 10_000 + number * 500, 500)
    assert (await read_expectations(store, "m")).revision == 2


async def test_each_outcome_counts_once_wherever_it_was_killed() -> None:
    """One goes on without a break; the other starts over after each batch, from what is in the store."""
    whole, broken = MemoryStore(), MemoryStore()
    at = "0-0"
    following = await _started(whole)
    restarted = await _started(broken)
    for number, count in enumerate((3, 700, 120, 499, 1, 2, 900, 40)):
        await _learned(whole, following, number * 1000, count)
        at = await _learned(broken, restarted, number * 1000, count)
        restarted = await _started(broken, at)
        assert restarted.progress == following.progress
        assert await broken.blob(profile_consumer("m")) == await whole.blob(profile_consumer("m"))
    assert (await read_expectations(broken, "m")).expectations == (await read_expectations(whole, "m")).expectations


async def test_what_the_learner_has_not_had_is_not_taken_at_the_start() -> None:
    store = MemoryStore()
    await _started(store)
    _, at = await _batch(store, 0, 10)
    await _batch(store, 10, 10)
    assert (await _started(store, at)).lag.summary()["labels"] == 10


async def test_one_that_never_was_begins_where_the_learner_is() -> None:
    store = MemoryStore()
    _, at = await _batch(store, 0, 2000)
    following = await _started(store, at)
    assert following.progress == {"profiled": 0, "label_lag": {}}


async def test_an_edit_is_not_overwritten() -> None:
    store = MemoryStore()
    following = await _started(store)
    mine = await write_expectations(store, "m", Expectations(expectations=(EDITED,), origin="edited"), 0)
    await _learned(store, following, 0, 3 * ENOUGH)
    await following.refresh()
    assert await read_expectations(store, "m") == mine


async def test_an_edit_while_it_is_inferred_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    following = await _started(store)
    read = expecting.read_expectations

    async def slow(log: MemoryStore, model: str) -> Expectations:
        """Somebody edits between the look and the change."""
        seen = await read(log, model)
        if not seen.revision:
            await write_expectations(log, model, Expectations(expectations=(EDITED,), origin="edited"), 0)
        return seen

    monkeypatch.setattr(expecting, "read_expectations", slow)
    await _learned(store, following, 0, 2 * ENOUGH)
    kept = await read(store, "m")
    assert (kept.revision, kept.origin, kept.expectations) == (1, "edited", (EDITED,))


async def test_who_asks_for_inference_gets_it_without_new_outcomes() -> None:
    store = MemoryStore()
    following = await _started(store)
    await _learned(store, following, 0, 2 * ENOUGH)
    await write_expectations(store, "m", Expectations(expectations=(EDITED,), origin="edited"), 1)
    await write_expectations(store, "m", Expectations(), 2)
    await following.refresh()
    inferred = await read_expectations(store, "m")
    assert (inferred.revision, inferred.rows, inferred.origin) == (4, 2 * ENOUGH, "inferred")


async def test_a_model_that_wants_none_gets_none_and_its_lag_is_measured() -> None:
    store = MemoryStore()
    following = Expecting(MODEL.model_copy(update={"infer_expectations": False}), store)
    await following.start("0-0")
    await _learned(store, following, 0, 3 * ENOUGH)
    assert (await read_expectations(store, "m")).awaited
    assert following.progress["profiled"] == 0
    assert following.lag.summary()["labels"] == 3 * ENOUGH


async def test_what_another_release_saved_is_begun_anew() -> None:
    store = MemoryStore()
    following = await _started(store)
    at = await _learned(store, following, 0, 2 * ENOUGH)
    store._blobs[profile_consumer("m")] = b"\x93\xc0\xc0\xc0"  # pyright: ignore[reportPrivateUsage]
    again = await _started(store, at)
    assert again.progress == {"profiled": 0, "label_lag": {}}
    await _learned(store, again, 5000, 600)
    assert again.progress["profiled"] == 600
