"""Group commit: one round trip for many, a failure for all who waited, and a buffer with a bound."""

import asyncio

import pytest

from serving.commit import GroupCommit
from serving.errors import LogUnavailable
from serving.testing import FickleLog, until

pytestmark = pytest.mark.anyio


async def _held_up(commit: GroupCommit, log: FickleLog, count: int) -> list["asyncio.Task[None]"]:
    """Start a first append that is held up in the log, and `count` more that gather behind it."""
    log.open.clear()
    log.tried.clear()
    first = asyncio.create_task(commit.append("s", b"first"))
    await log.tried.wait()
    rest = [asyncio.create_task(commit.append("s", b"%d" % number)) for number in range(count)]
    await asyncio.sleep(0)
    return [first, *rest]


async def test_an_entry_alone_goes_at_once() -> None:
    log = FickleLog()
    commit = GroupCommit(log)
    await commit.append("s", b"1")
    assert await log.kept("s") == [b"1"]


async def test_many_appends_share_one_round_trip_in_their_order() -> None:
    log = FickleLog()
    commit = GroupCommit(log)
    tasks = await _held_up(commit, log, 500)
    log.open.set()
    await asyncio.gather(*tasks)
    assert [len(call) for call in log.calls] == [1, 500]
    assert await log.kept("s") == [b"first", *(b"%d" % number for number in range(500))]


async def test_nobody_is_answered_before_the_entry_is_in_the_log() -> None:
    log = FickleLog()
    tasks = await _held_up(GroupCommit(log), log, 3)
    assert not any(task.done() for task in tasks)
    log.open.set()
    await asyncio.gather(*tasks)


async def test_a_failure_is_raised_to_all_who_wait() -> None:
    log = FickleLog()
    commit = GroupCommit(log)
    tasks = await _held_up(commit, log, 5)
    log.broken = True
    log.open.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [LogUnavailable] * 6
    assert "broken" in commit.away
    assert await log.kept("s") == []


async def test_a_log_that_is_back_takes_entries_and_clears_the_reason() -> None:
    log = FickleLog()
    commit = GroupCommit(log)
    log.broken = True
    with pytest.raises(LogUnavailable):
        await commit.append("s", b"1")
    log.broken = False
    await commit.append("s", b"2")
    assert commit.away == ""
    assert await log.kept("s") == [b"2"]


async def test_what_fails_in_an_unforeseen_way_leaves_nobody_waiting() -> None:
    class Surprising(FickleLog):
        async def append(self, entries: object) -> list[str]:
            raise ZeroDivisionError

    commit = GroupCommit(Surprising())
    async with asyncio.timeout(30):
        for _ in range(2):
            with pytest.raises((LogUnavailable, ZeroDivisionError)):
                await commit.append("s", b"1")


async def test_a_waiter_who_goes_away_takes_nobody_along() -> None:
    log = FickleLog()
    tasks = await _held_up(GroupCommit(log), log, 4)
    for gone in (tasks[0], tasks[2]):
        gone.cancel()
    log.open.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [
        asyncio.CancelledError, type(None), asyncio.CancelledError, type(None), type(None),
    ]  # fmt: skip
    # What was handed over is written, whether or not anybody still wants to know.
    assert await log.kept("s") == [b"first", b"0", b"1", b"2", b"3"]


async def test_available_answers_while_the_log_is_away_and_writes_in_order_when_it_is_back() -> None:
    log = FickleLog()
    commit = GroupCommit(log, "available", buffer_entries=5000)
    log.broken = True
    for number in range(1200):
        await commit.append("s", b"%d" % number)
    assert (commit.buffered, commit.lost) == (1200, 0)
    assert commit.away
    log.broken = False
    await until(lambda: commit.buffered == 0 and not commit.away)
    assert await log.kept("s") == [b"%d" % number for number in range(1200)]


async def test_available_counts_what_does_not_fit_into_its_buffer() -> None:
    log = FickleLog()
    commit = GroupCommit(log, "available", buffer_entries=10)
    log.broken = True
    for number in range(25):
        await commit.append("s", b"%d" % number)
    assert (commit.buffered, commit.lost) == (10, 15)
    log.broken = False
    await until(lambda: commit.buffered == 0)
    assert await log.kept("s") == [b"%d" % number for number in range(10)]


async def test_entries_that_come_while_the_buffer_is_written_keep_their_place() -> None:
    log = FickleLog()
    commit = GroupCommit(log, "available")
    log.broken = True
    await commit.append("s", b"0")
    log.broken = False
    log.open.clear()
    log.tried.clear()
    await log.tried.wait()
    await commit.append("s", b"1")
    log.open.set()
    await until(lambda: commit.buffered == 0 and not commit.away)
    await commit.append("s", b"2")
    assert await log.kept("s") == [b"0", b"1", b"2"]


async def test_available_does_not_wait_for_a_log_that_is_away() -> None:
    log = FickleLog()
    commit = GroupCommit(log, "available")
    log.broken = True
    await commit.append("s", b"0")
    log.open.clear()
    async with asyncio.timeout(30):
        await commit.append("s", b"1")
    assert commit.buffered == 2
    log.broken = False
    log.open.set()
    await until(lambda: commit.buffered == 0)
