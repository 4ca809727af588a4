"""The contract of PolicyBoard, and of all protocols together."""

import asyncio

import pytest

from store.errors import EpochConflict, Fenced, NotFound
from store.names import AUDIT
from store.policy import Policy, Report, Variant
from store.protocols import START, Commit, PolicyBoard, Store, position_key
from store.testing.keys import KeyRingContract
from store.testing.log import EventLogContract
from store.testing.registry import ModelRegistryContract
from store.testing.things import PATIENCE_S, registered, step, version


@pytest.mark.anyio
class PolicyBoardContract:
    """Compare-and-set policies, changes that wake their readers, and reports that end with their lease."""

    async def test_a_model_starts_with_its_main_line_alone(self, store: PolicyBoard) -> None:
        await registered(store)
        snapshot = await store.snapshot("m")
        assert (snapshot.policy, snapshot.epoch, snapshot.channels, snapshot.channel_seq) == (Policy(), 0, {}, 0)

    async def test_every_policy_raises_the_epoch_by_one(self, store: PolicyBoard) -> None:
        await registered(store)
        policies = [Policy(variants=(Variant(name="main"), Variant(name=name, version=3))) for name in "ab"]
        for epoch, policy in enumerate(policies):
            assert await store.set_policy("m", policy, epoch) == epoch + 1
            snapshot = await store.snapshot("m")
            assert (snapshot.policy, snapshot.epoch, snapshot.channel_seq) == (policy, epoch + 1, 0)

    async def test_a_stale_epoch_changes_nothing(self, store: PolicyBoard) -> None:
        await registered(store)
        await store.set_policy("m", Policy(), 0)
        for stale in (0, 2):
            with pytest.raises(EpochConflict) as caught:
                await store.set_policy("m", Policy(default="other"), stale)
            assert (caught.value.expected, caught.value.actual) == (stale, 1)
        assert (await store.snapshot("m")).policy == Policy()

    async def test_of_many_operators_at_one_epoch_one_wins(self, store: PolicyBoard) -> None:
        await registered(store)
        wanted = [Policy(default=f"arm {number}") for number in range(8)]
        results = await asyncio.gather(*(store.set_policy("m", one, 0) for one in wanted), return_exceptions=True)
        assert sorted(map(str, (type(result).__name__ for result in results))) == ["EpochConflict"] * 7 + ["int"]
        assert (await store.snapshot("m")).policy == wanted[results.index(1)]

    async def test_changes_wakes_up_when_a_policy_is_set(self, store: PolicyBoard) -> None:
        await registered(store)
        at = await store.changes(START, 1.0)

        async def wait() -> str:
            while (now := await store.changes(at, 1.0)) == at:
                pass
            return now

        async with asyncio.timeout(PATIENCE_S):
            waiting = asyncio.create_task(wait())
            await store.set_policy("m", Policy(), 0)
            now = await waiting
        assert position_key(now) > position_key(at)
        assert await store.changes(now, 0.01) == now

    async def test_a_report_is_heard_and_the_newer_one_replaces_it(self, store: PolicyBoard) -> None:
        for ready in (False, True):
            await store.report(Report(name="r", pid=1, ready=ready), 60.0)
        await store.report(Report(name="s", pid=2, ready=True), 60.0)
        assert {report.name: report.ready for report in await store.reports()} == {"r": True, "s": True}

    async def test_a_report_ends_with_its_lease(self, store: PolicyBoard) -> None:
        await store.report(Report(name="short", pid=1, ready=True), 0.05)
        await store.report(Report(name="long", pid=2, ready=True), 60.0)
        async with asyncio.timeout(PATIENCE_S):
            while [report.name for report in await store.reports()] != ["long"]:  # noqa: ASYNC110 - nobody tells of it
                await asyncio.sleep(0.01)


@pytest.mark.anyio
class StoreContract(EventLogContract, KeyRingContract, ModelRegistryContract, PolicyBoardContract):
    """All of them at once, and what holds only between them."""

    async def test_publishing_moves_the_lines_channel_and_never_the_epoch(self, store: Store) -> None:
        await registered(store)
        lines = [("main", "published"), ("main", "rejected"), ("other", "published")]
        for n, (line, status) in enumerate(lines):
            await store.commit("m", Commit(step(f"{n}-0", f"{n + 1}-0"), version(f"{n + 1}-0", status, line), b"w"))
        snapshot = await store.snapshot("m")
        assert snapshot.channels == {"main@latest": 1, "other@latest": 3}
        assert (snapshot.epoch, snapshot.channel_seq) == (0, 2)

    async def test_publishing_wakes_those_who_wait_for_changes(self, store: Store) -> None:
        await registered(store)
        at = await store.changes(START, 1.0)
        await store.commit("m", Commit(step(START, "1-0"), version("1-0"), b"w"))
        assert position_key(await store.changes(at, 1.0)) > position_key(at)

    async def test_a_fenced_learner_moves_no_channel(self, store: Store) -> None:
        await registered(store)
        await store.commit("m", Commit(step(START, "1-0"), version("1-0"), b"w"))
        with pytest.raises(Fenced):
            await store.commit("m", Commit(step(START, "2-0"), version("2-0"), b"other"))
        snapshot = await store.snapshot("m")
        assert (snapshot.channels, snapshot.channel_seq) == ({"main@latest": 1}, 1)
        assert await store.weights("m", 1) == b"w"

    async def test_a_version_and_the_record_of_it_are_one_step(self, store: Store) -> None:
        await registered(store)
        said = b"{'after': 'version {number}, 100 %'}"
        for n in range(2):
            await store.commit("m", Commit(step(f"{n}-0", f"{n + 1}-0"), version(f"{n + 1}-0"), b"w", said))
        with pytest.raises(Fenced):
            await store.commit("m", Commit(step(START, "3-0"), version("3-0"), b"w", said))
        records = [entry.payload for entry in await store.read(AUDIT, START, 10)]
        assert records == [b"{'after': 'version 1, 100 %'}", b"{'after': 'version 2, 100 %'}"]

    async def test_a_decision_its_record_and_what_it_rejects_are_one_step(self, store: Store) -> None:
        await registered(store)
        for n in range(2):
            await store.commit("m", Commit(step(f"{n}-0", f"{n + 1}-0"), version(f"{n + 1}-0"), b"w"))
        rejected = (await store.version("m", 1)).model_copy(update={"status": "rejected", "reason": "it was worse"})
        pinned = Policy(variants=(Variant(name="main", version=2),))
        assert await store.set_policy("m", pinned, 0, b"the record", rejected) == 1
        with pytest.raises(EpochConflict):
            await store.set_policy("m", Policy(), 0, b"another", rejected.model_copy(update={"reason": "another"}))
        assert await store.version("m", 1) == rejected
        assert [entry.payload for entry in await store.read(AUDIT, START, 10)] == [b"the record"]
        assert (await store.snapshot("m")).channels == {"main@latest": 2, "champion": 2}
        await store.set_policy("m", Policy(), 1)
        assert (await store.snapshot("m")).channels == {"main@latest": 2}

    async def test_a_model_goes_only_if_its_policy_is_as_it_was(self, store: Store) -> None:
        await registered(store)
        await store.set_policy("m", Policy(), 0)
        for stale in (0, 2):
            with pytest.raises(EpochConflict) as caught:
                await store.remove("m", b"the record", stale)
            assert (caught.value.expected, caught.value.actual) == (stale, 1)
        assert "m" in await store.models()
        assert await store.last(AUDIT) == START
        await store.remove("m", b"the record", 1)
        assert [entry.payload for entry in await store.read(AUDIT, START, 10)] == [b"the record"]

    async def test_the_policy_of_a_removed_model_stays_as_it_was(self, store: Store) -> None:
        await registered(store)
        await store.remove("m", b"", 0)
        with pytest.raises(NotFound, match="was removed"):
            await store.set_policy("m", Policy(default="other"), 0, b"a record")
        assert await store.last(AUDIT) == START
        await registered(store)
        assert (await store.snapshot("m")).policy == Policy()
        assert await store.set_policy("m", Policy(default="other"), 0) == 1

    async def test_a_line_goes_back_to_the_version_before_the_one_that_is_rejected(self, store: Store) -> None:
        await registered(store)
        for n, line in enumerate(("main", "other", "main", "main")):
            await store.commit("m", Commit(step(f"{n}-0", f"{n + 1}-0"), version(f"{n + 1}-0", line=line), b"w"))
        third, fourth = [(await store.version("m", n)).model_copy(update={"status": "rejected"}) for n in (3, 4)]
        await store.set_policy("m", Policy(), 0, rejected=third)
        assert (await store.snapshot("m")).channels == {"main@latest": 4, "other@latest": 2}
        seq = (await store.snapshot("m")).channel_seq
        await store.set_policy("m", Policy(), 1, rejected=fourth)
        snapshot = await store.snapshot("m")
        assert (snapshot.channels, snapshot.channel_seq) == ({"main@latest": 1, "other@latest": 2}, seq + 1)
        first = (await store.version("m", 1)).model_copy(update={"status": "rejected"})
        await store.set_policy("m", Policy(), 2, rejected=first)
        assert (await store.snapshot("m")).channels["main@latest"] == 1
