"""Streaming features go on from a snapshot as if they had read everything."""

import pytest

from store.errors import Fenced
from store.following import Follower
from store.memory import MemoryStore
from store.names import log_stream, outcome_stream, streaming_consumer
from store.protocols import START
from store.records import Outcome, Outcomes, Predictions, Served, Tick, pack_log, pack_outcomes
from store.schema import Row
from store.spec import ModelRecord, ModelSpec
from store.streaming import Aggregate
from trainer.joining import TRIM_EVERY_S, Joining
from trainer.testing import OneNumber

pytestmark = pytest.mark.anyio

HOUR = 3600.0
SERVED = Served("main", 1, 1.0)
LATE = Aggregate(name="late", by=("unit",), half_life_s=HOUR)
ASKED = Aggregate(name="asked", by=("unit",), of="predictions", kind="count", window_s=HOUR)


def declared(*aggregates: Aggregate) -> ModelRecord:
    return ModelSpec("m", OneNumber, streaming=aggregates).record


async def happened(store: MemoryStore, *numbers: int) -> None:
    """For each number a prediction and its outcome."""
    for number in numbers:
        unit, at = f"u{number % 3}", 60.0 * number
        row: Row = [float(number), None, None]
        label = float(number % 2)
        logged = Predictions(at, [str(number)], [unit], [row], [[0.5]], [SERVED], [0])
        outcome = Outcome(str(number), unit, row, [0.5], SERVED, label, "label", True, at, at, at)
        log = [(log_stream("m"), pack_log(logged)), (log_stream("m"), pack_log(Tick(at))), (log_stream("m"), b"rubbish")]
        await store.append([*log, (outcome_stream("m"), pack_outcomes(Outcomes([outcome])))])


async def followed(record: ModelRecord, store: MemoryStore) -> Follower:
    follower = Follower(record, store)
    await follower.resume()
    await follower.catch_up()
    return follower


async def test_a_snapshot_and_what_came_after_it_are_everything_bit_for_bit() -> None:
    record, store = declared(LATE, ASKED), MemoryStore()
    writer, witness = Follower(record, store), Follower(record, store)
    await happened(store, *range(10))
    await writer.keep()
    await happened(store, *range(10, 1200))
    await witness.catch_up()
    for stream, needed in zip((outcome_stream("m"), log_stream("m")), writer.needs("9-9", "9-9"), strict=True):
        assert await store.trim(stream, needed) > 0
    restarted = await followed(record, store)
    assert restarted.at == witness.at
    assert restarted.streams.packed() == witness.streams.packed()


async def test_who_was_away_while_streams_were_trimmed_goes_on_from_the_snapshot() -> None:
    record, store = declared(LATE), MemoryStore()
    away, writer = await followed(record, store), Follower(record, store)
    await happened(store, 1, 2, 3)
    await writer.keep()
    await store.trim(outcome_stream("m"), "9-9")
    await happened(store, 4)
    await away.resume()
    await away.catch_up()
    await writer.catch_up()
    assert away.streams.packed() == writer.streams.packed()


async def test_nothing_is_written_where_nothing_happened_and_an_older_writer_is_fenced_off() -> None:
    record, store = declared(LATE), MemoryStore()
    old, new = await followed(record, store), await followed(record, store)
    await old.keep()
    assert await store.consumer(streaming_consumer("m")) == (START, b"")
    await happened(store, 1)
    await new.keep()
    with pytest.raises(Fenced):
        await old.keep()


async def test_what_is_no_part_of_the_state_holds_nothing_back() -> None:
    follower = await followed(declared(ASKED), MemoryStore())
    assert follower.needs("7-1", "7-1") == ("7-1", START)


async def test_the_join_drops_nothing_that_is_not_in_the_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    record, store = declared(LATE), MemoryStore()
    now = [1e9]
    monkeypatch.setattr("trainer.joining.time", lambda: now[0])
    joining = Joining(record, store, retention_s=0.0)
    await joining.start()
    await happened(store, *range(5))
    witness = await followed(record, store)
    now[0] += TRIM_EVERY_S + 1.0
    await joining.trim(await store.last(outcome_stream("m")))
    assert len(await store.read(outcome_stream("m"), START, 100)) == 1  # the last, after which nothing was read
    again = await followed(record, store)
    assert again.streams.packed() == witness.streams.packed()
