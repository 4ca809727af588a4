"""When the clock ends a micro-batch, by schedule and in the trainer's loop; the clock is the test's."""

from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from store.memory import MemoryStore
from store.names import log_stream, outcome_stream
from store.protocols import START
from store.records import Cut, pack_log, unpack_outcomes
from store.spec import ModelSpec, Schedule
from trainer.loop import Trainer
from trainer.testing import OneNumber, labelled, predicted
from trainer.timing import Timing

BERLIN = ZoneInfo("Europe/Berlin")
MIDNIGHT = datetime(2026, 6, 1, tzinfo=BERLIN).timestamp()
HOUR = 3600.0
AT_THREE = Schedule(seconds=None, cron="0 3 * * *", timezone="Europe/Berlin")


class TestTiming:
    def test_nothing_is_due_where_nothing_waits(self) -> None:
        timing = Timing(Schedule(seconds=1.0, cron="* * * * *"), MIDNIGHT)
        assert timing.due(MIDNIGHT + HOUR, None) == ""
        assert timing.until_s(MIDNIGHT + HOUR, None) == float("inf")

    def test_what_came_before_a_cron_time_is_due_then_and_once(self) -> None:
        timing = Timing(AT_THREE, MIDNIGHT)
        came = MIDNIGHT + HOUR
        assert timing.due(MIDNIGHT + 3 * HOUR - 1, came) == ""
        assert timing.until_s(MIDNIGHT + 3 * HOUR - 1, came) == 1.0
        assert timing.due(MIDNIGHT + 3 * HOUR, came) == "cron 0 3 * * *"
        assert timing.due(MIDNIGHT + 3 * HOUR + 1, came) == ""

    def test_what_came_after_a_cron_time_waits_for_the_next(self) -> None:
        timing = Timing(AT_THREE, MIDNIGHT)
        came = MIDNIGHT + 3 * HOUR + 1
        assert timing.due(came + 1, came) == ""
        assert timing.due(MIDNIGHT + 26 * HOUR, came) == ""
        assert timing.due(MIDNIGHT + 27 * HOUR, came) == "cron 0 3 * * *"

    def test_times_that_passed_while_nobody_trained_are_made_up_for_once(self) -> None:
        came, now = MIDNIGHT + HOUR, MIDNIGHT + 80 * HOUR
        timing = Timing(AT_THREE, now)
        assert timing.due(now, came) == "cron 0 3 * * *"
        assert timing.due(now + 1, came) == ""

    def test_a_new_expression_makes_up_for_nothing(self) -> None:
        timing = Timing(Schedule(seconds=None), MIDNIGHT)
        timing.follow(AT_THREE, MIDNIGHT + 10 * HOUR)
        assert timing.due(MIDNIGHT + 10 * HOUR, MIDNIGHT) == ""
        assert timing.due(MIDNIGHT + 27 * HOUR, MIDNIGHT) == "cron 0 3 * * *"

    def test_seconds_and_cron_go_together(self) -> None:
        timing = Timing(AT_THREE.model_copy(update={"seconds": 7200.0}), MIDNIGHT)
        assert timing.due(MIDNIGHT + 2 * HOUR - 1, MIDNIGHT) == ""
        assert timing.due(MIDNIGHT + 2 * HOUR, MIDNIGHT) == "every 7200 s"
        timing.cut(MIDNIGHT + 2 * HOUR)
        assert timing.due(MIDNIGHT + 3 * HOUR, MIDNIGHT + 2.5 * HOUR) == "cron 0 3 * * *"


class Clock:
    def __init__(self) -> None:
        self.now = MIDNIGHT

    def __call__(self) -> float:
        return self.now


async def _started(store: MemoryStore, clock: Clock, **schedule: Any) -> Trainer:
    spec = ModelSpec(name="m", features=OneNumber, schedule=Schedule.model_validate({"seconds": None} | schedule))
    started = Trainer(spec, store, clock=clock)
    await started.start()
    return started


async def _posted(store: MemoryStore, at: float, *ids: str) -> None:
    """Log predictions and, at once, their labels."""
    records = [predicted(at, *ids), *(labelled(at, id_) for id_ in ids)]
    await store.append([(log_stream("m"), pack_log(record)) for record in records])


async def _rest(started: Trainer) -> None:
    """Step until nothing is left to do."""
    quiet = 0
    while quiet < 3:
        quiet = 0 if await started.step(0.001) else quiet + 1


async def _cuts(store: MemoryStore) -> list[str]:
    entries = await store.read(outcome_stream("m"), START, 1000)
    return [record.reason for entry in entries if isinstance(record := unpack_outcomes(entry.payload), Cut)]


@pytest.mark.anyio
async def test_a_cron_cut_goes_through_the_log_and_a_version_follows() -> None:
    store, clock = MemoryStore(), Clock()
    started = await _started(store, clock, cron="0 3 * * *", timezone="Europe/Berlin")
    await _posted(store, clock.now, "a", "b")
    await _rest(started)
    assert await _cuts(store) == []
    clock.now += 3 * HOUR
    await _rest(started)
    assert await _cuts(store) == ["cron 0 3 * * *"]
    [newest, _] = await store.versions("m")
    assert (newest.outcomes, newest.lineage["cut"]) == (2, "cron 0 3 * * *")
    clock.now += 24 * HOUR
    await _rest(started)
    assert await _cuts(store) == ["cron 0 3 * * *"], "without new outcomes nothing happens"


@pytest.mark.anyio
async def test_a_cron_time_that_passed_while_the_trainer_was_down_is_made_up_for_once() -> None:
    store, clock = MemoryStore(), Clock()
    when: dict[str, Any] = {"cron": "0 3 * * *", "timezone": "Europe/Berlin"}
    await _rest(await _started(store, clock, **when))
    await _posted(store, clock.now, "seen before it went down")
    await _rest(await _started(store, clock, **when))
    await _posted(store, clock.now + HOUR, "posted meanwhile")
    clock.now += 75 * HOUR
    for _ in range(2):
        await _rest(await _started(store, clock, **when))
        assert await _cuts(store) == ["cron 0 3 * * *"]
    assert (await store.versions("m"))[0].outcomes == 2
    await _posted(store, clock.now, "after it")
    await _rest(await _started(store, clock, **when))
    assert len(await _cuts(store)) == 1, "what comes after a time waits for the next one"


@pytest.mark.anyio
async def test_a_schedule_that_is_changed_holds_from_then_on() -> None:
    store, clock = MemoryStore(), Clock()
    started = await _started(store, clock)
    await _posted(store, clock.now, "a")
    await _rest(started)
    clock.now += HOUR
    await store.set_schedule("m", Schedule(seconds=None, cron="*/10 * * * *"))
    await started.refresh()
    await _rest(started)
    assert await _cuts(store) == []
    clock.now += 600
    await _rest(started)
    assert await _cuts(store) == ["cron */10 * * * *"]
