"""The contract of EventLog."""

import asyncio

import pytest

from store.errors import Fenced
from store.protocols import START, EventLog, position_key
from store.testing.things import PATIENCE_S, step


@pytest.mark.anyio
class EventLogContract:
    """Order, durability of positions, and consumers that move only together with what they write."""

    async def test_entries_come_back_in_the_order_they_went_in(self, store: EventLog) -> None:
        payloads = [b"%d" % number for number in range(50)]
        positions = await store.append([("s", payload) for payload in payloads])
        assert sorted(positions, key=position_key) == positions
        assert len(set(positions)) == len(positions)
        found = await store.read("s", START, 100)
        assert [(entry.position, entry.payload) for entry in found] == list(zip(positions, payloads, strict=True))

    async def test_payloads_are_any_bytes(self, store: EventLog) -> None:
        payloads = [b"", bytes(range(256)), b"\r\n" * 1000]
        await store.append([("s", payload) for payload in payloads])
        assert [entry.payload for entry in await store.read("s", START, 10)] == payloads

    async def test_concurrent_appends_all_arrive_and_each_caller_keeps_its_order(self, store: EventLog) -> None:
        callers = [[("s", b"%d %d" % (caller, number)) for number in range(5)] for caller in range(10)]
        await asyncio.gather(*(store.append(entries) for entries in callers))
        found = [entry.payload for entry in await store.read("s", START, 100)]
        assert len(found) == 50
        for entries in callers:
            mine = [payload for _, payload in entries]
            assert [payload for payload in found if payload in mine] == mine

    async def test_streams_do_not_mix(self, store: EventLog) -> None:
        await store.append([("s", b"1"), ("t", b"2"), ("s", b"3")])
        assert [entry.payload for entry in await store.read("s", START, 10)] == [b"1", b"3"]
        assert [entry.payload for entry in await store.read("t", START, 10)] == [b"2"]
        assert await store.read("u", START, 10) == []

    async def test_a_read_starts_after_its_position_and_stops_at_its_count(self, store: EventLog) -> None:
        positions = await store.append([("s", b"%d" % number) for number in range(5)])
        assert [entry.payload for entry in await store.read("s", positions[1], 2)] == [b"2", b"3"]
        assert await store.read("s", positions[-1], 2) == []

    async def test_a_blocking_read_wakes_up(self, store: EventLog) -> None:
        async def read() -> bytes:
            while not (found := await store.read("s", START, 10, block_s=1.0)):
                pass
            return found[0].payload

        async with asyncio.timeout(PATIENCE_S):
            reader = asyncio.create_task(read())
            await store.append([("other", b"0")])
            await store.append([("s", b"1")])
            assert await reader == b"1"

    async def test_a_blocking_read_gives_up_empty_handed(self, store: EventLog) -> None:
        assert await store.read("s", START, 10, block_s=0.01) == []

    async def test_a_consumer_moves_together_with_what_it_writes(self, store: EventLog) -> None:
        await store.advance(step(START, "5-1", b"state", b"blob"), [("s", b"1"), ("s", b"2"), ("t", b"3")])
        assert await store.consumer("learner:m:main") == ("5-1", b"state")
        assert await store.blob("learner:m:main") == b"blob"
        assert [entry.payload for entry in await store.read("s", START, 10)] == [b"1", b"2"]
        assert [entry.payload for entry in await store.read("t", START, 10)] == [b"3"]

    async def test_a_step_without_a_blob_keeps_the_one_there_was(self, store: EventLog) -> None:
        await store.advance(step(START, "5-1", b"state", b"blob"), [])
        await store.advance(step("5-1", "5-2", b"later"), [])
        assert await store.consumer("learner:m:main") == ("5-2", b"later")
        assert await store.blob("learner:m:main") == b"blob"

    async def test_a_consumer_that_was_overtaken_writes_nothing(self, store: EventLog) -> None:
        await store.advance(step(START, "5-1", b"first", b"blob"), [])
        with pytest.raises(Fenced) as caught:
            await store.advance(step(START, "6-1", b"second", b"other"), [("s", b"1")])
        assert (caught.value.expected, caught.value.actual) == (START, "5-1")
        assert await store.consumer("learner:m:main") == ("5-1", b"first")
        assert await store.blob("learner:m:main") == b"blob"
        assert await store.read("s", START, 10) == []

    async def test_of_many_that_step_from_one_place_one_moves(self, store: EventLog) -> None:
        steps = [store.advance(step(START, f"{number}-0"), [("s", b"%d" % number)]) for number in range(1, 9)]
        results = await asyncio.gather(*steps, return_exceptions=True)
        assert sum(isinstance(result, Fenced) for result in results) == 7
        [entry] = await store.read("s", START, 10)
        assert await store.consumer("learner:m:main") == (f"{entry.payload.decode()}-0", b"")

    async def test_a_new_consumer_is_at_the_start_with_nothing(self, store: EventLog) -> None:
        assert await store.consumer("new") == (START, b"")
        assert await store.blob("new") == b""

    async def test_last_is_the_newest_position_even_when_all_is_trimmed(self, store: EventLog) -> None:
        assert await store.last("s") == START
        positions = await store.append([("s", b"1"), ("s", b"2")])
        assert await store.last("s") == positions[-1]
        milliseconds, sequence = position_key(positions[-1])
        await store.trim("s", f"{milliseconds}-{sequence + 1}")
        assert await store.last("s") == positions[-1]

    async def test_trim_never_drops_what_it_was_told_to_keep(self, store: EventLog) -> None:
        positions = await store.append([("s", b"%d" % number) for number in range(1000)])
        gone = await store.trim("s", positions[600])
        left = [entry.payload for entry in await store.read("s", START, 2000)]
        assert left == [b"%d" % number for number in range(gone, 1000)]
        assert 0 < gone <= 600
        assert await store.trim("nothing here", positions[0]) == 0
