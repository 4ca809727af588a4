"""A version is learned again from its lineage, bit for bit, or refused with the reason."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from store.archive import Archive
from store.memory import MemoryStore
from store.names import log_stream, outcome_stream
from store.policy import Policy
from store.protocols import Version
from store.publishing import publish
from store.records import Cut, Feedback, FeedbackBatch, Outcome, Outcomes, Predictions, Served, pack_log, unpack_outcomes
from store.spec import Learning, ModelSpec, Schedule
from trainer.errors import Irreproducible
from trainer.learner import Learned, Learner
from trainer.lineage.reproduction import reproduce
from trainer.loop import Trainer
from trainer.testing import OneNumber

pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("default")]


learn = Learner.learn


def _refusing(self: Learner, outcomes: Sequence[Outcome], seed: str) -> Learned:
    """Learn, and go back, as after a gate that is not passed."""
    learned = learn(self, outcomes, seed)
    self.undo()
    return replace(learned, rejected="nobody wants it")


SPEC = ModelSpec(name="m", features=OneNumber, schedule=Schedule(seconds=None), learning=Learning(seed=3))
ROWS = 20


async def _said(store: MemoryStore, batch: int, rows: int = ROWS) -> None:
    """Log a micro-batch, and the cut that ends it."""
    ids = [f"{batch}-{row}" for row in range(rows)]
    asked = Predictions(
        1.0, ids, ids, [[(row + batch) / ROWS] for row in range(rows)], [[0.5]] * rows, [Served("main", 1, 1.0)], [0] * rows
    )
    told = FeedbackBatch(1.0, [Feedback(id_, float((row + batch) % 3 == 0)) for row, id_ in enumerate(ids)])
    await store.append([(log_stream("m"), pack_log(record)) for record in (asked, told, Cut("hand"))])


async def _trained(spec: ModelSpec, store: MemoryStore, *batches: int, rows: int = ROWS) -> list[Version]:
    """Let a trainer learn batches, each with its cut, a cut without outcomes behind it; return the versions, oldest first."""
    learning = Trainer(spec, store)
    await learning.start()
    for batch in batches:
        await _said(store, batch, rows)
        await store.append([(log_stream("m"), pack_log(Cut("hand")))])
        while await learning.step(0.01):
            pass
    return (await store.versions("m"))[::-1]


async def _archived(store: MemoryStore, folder: Path) -> None:
    """Put all that is in the outcome stream into the archive."""
    entries = await store.read(outcome_stream("m"), "0-0", 10_000)
    records = [(entry.position, unpack_outcomes(entry.payload)) for entry in entries]
    with Archive(folder, "m", SPEC.record.features) as archive:
        found = [(at, outcome) for at, record in records if isinstance(record, Outcomes) for outcome in record.outcomes]
        archive.write(records[0][0], records[-1][0], found)


async def test_every_version_comes_out_bit_for_bit() -> None:
    store = MemoryStore()
    versions = await _trained(SPEC, store, 1, 2, 3)
    for version in versions:
        again = await reproduce(SPEC, store, version.number)
        assert again.same
        assert (again.learned, again.replayed) == (version.weights, version.number)
    assert [version.outcomes for version in versions] == [0, ROWS, ROWS, ROWS]


async def test_a_refused_batch_is_taken_back_again(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    await _trained(SPEC, store, 1)
    with monkeypatch.context() as patch:
        patch.setattr(Learner, "learn", _refusing)
        await _trained(SPEC, store, 2)
    versions = await _trained(SPEC, store, 3)
    assert [version.status for version in versions] == ["published", "published", "rejected", "published"]
    again = await reproduce(SPEC, store, 4)
    assert again.same
    assert again.outcomes == 3 * ROWS
    with pytest.raises(Irreproducible, match="version 3 was rejected and has no weights: nobody wants it"):
        await reproduce(SPEC, store, 3)


async def test_a_version_that_was_taken_back_later_was_learned_all_the_same() -> None:
    store = MemoryStore()
    versions = await _trained(SPEC, store, 1)
    gone = versions[1].model_copy(update={"status": "rejected", "reason": "it did harm"})
    await store.set_policy("m", Policy(), 0, rejected=gone)
    await _trained(SPEC, store, 2)
    for number in (2, 3):
        assert (await reproduce(SPEC, store, number)).same


@pytest.mark.parametrize("kept", [0, 1, 2, 3])
async def test_what_is_no_longer_in_the_stream_comes_from_the_archive(tmp_path: Path, kept: int) -> None:
    store = MemoryStore()
    versions = await _trained(SPEC, store, 1, 2, 3)
    await _archived(store, tmp_path)
    await store.trim(outcome_stream("m"), _after(versions[3 - kept]))
    again = await reproduce(SPEC, store, 4, tmp_path)
    assert again.same
    assert again.outcomes == 3 * ROWS


def _after(version: Version) -> str:
    milliseconds, _, sequence = version.position.partition("-")
    return f"{milliseconds}-{int(sequence) + 1}"


async def test_what_is_kept_nowhere_is_said() -> None:
    store = MemoryStore()
    versions = await _trained(SPEC, store, 1, 2)
    await store.trim(outcome_stream("m"), _after(versions[1]))
    with pytest.raises(Irreproducible, match=f"version 2 learned {ROWS} outcomes, and 0 of them are kept"):
        await reproduce(SPEC, store, 3)


async def test_other_hyperparameters_hold_from_the_version_that_was_learned_with_them() -> None:
    store = MemoryStore()
    await _trained(SPEC, store, 1, 2)
    faster = ModelSpec(
        name="m", features=OneNumber, schedule=Schedule(seconds=None), learning=Learning(seed=3, learning_rate=0.5)
    )
    await _trained(faster, store, 3, 4)
    for number in (3, 5):
        again = await reproduce(SPEC, store, number)
        assert again.same, number


async def test_another_environment_is_refused_with_each_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    with monkeypatch.context() as patch:
        patch.setattr("trainer.lineage.environment._processor", lambda: "abacus")
        patch.setattr("trainer.lineage.environment._platform_code", lambda: "older")
        await _trained(SPEC, store, 1)
    with pytest.raises(Irreproducible, match=r"version 1 was not learned as it would be here: .*abacus.*code was older"):
        await reproduce(SPEC, store, 2)


async def test_weights_that_are_others_than_on_record_are_found_at_the_first_version() -> None:
    store = MemoryStore()
    versions = await _trained(SPEC, store, 1, 2, 3)
    wrong = versions[2].model_copy(update={"weights": "0" * 64})
    await store.set_policy("m", Policy(), 0, rejected=wrong)
    again = await reproduce(SPEC, store, 4)
    assert (again.same, again.first_different, again.learned) == (False, 3, versions[3].weights)


async def test_what_was_not_learned_here_is_refused() -> None:
    store = MemoryStore()
    [first] = await _trained(SPEC, store)
    graph, weights = await store.graph("m", first.graph), await store.weights("m", 1)
    other = await publish(store, "m", graph, weights, "imported")
    small = await publish(store, "m", graph, weights, "main-fp16", parent=1, lineage={"method": "fp16"})
    with pytest.raises(Irreproducible, match="not learned here: it is on the line imported"):
        await reproduce(SPEC, store, other.number)
    with pytest.raises(Irreproducible, match="compressed, by fp16, from version 1"):
        await reproduce(SPEC, store, small.number)


async def test_a_version_from_before_lineage_was_kept_is_refused() -> None:
    store = MemoryStore()
    [first] = await _trained(SPEC, store)
    await store.set_policy("m", Policy(), 0, rejected=first.model_copy(update={"lineage": {"cut": "start"}}))
    with pytest.raises(Irreproducible, match="no environment on record"):
        await reproduce(SPEC, store, 1)
