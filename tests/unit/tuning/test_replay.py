"""A replay is what production learned: with production's own way it gives production's own losses, to the last digit."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from store.archive import Archive
from store.artefact import digest_of
from store.labels import LabelPolicy
from store.memory import MemoryStore
from store.names import log_stream, outcome_stream
from store.protocols import Version
from store.records import Cut, Feedback, FeedbackBatch, Outcome, Outcomes, Predictions, Served, pack_log, unpack_outcomes
from store.schema import Row
from store.spec import Learning, ModelSpec, Schedule
from store.streaming import Aggregate
from trainer.learner import Learned, Learner
from trainer.loop import Trainer
from trainer.testing import OneNumber
from tuning.errors import TuningError
from tuning.replay import Replay, Sums, progressive

pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("default")]

PLAIN = ModelSpec(name="m", features=OneNumber, schedule=Schedule(seconds=None), learning=Learning(seed=3))
LATE = 600.0
SPECS = {
    "plain": PLAIN,
    "corrected": replace(PLAIN, labels=LabelPolicy(kind="corrected", default=0, window_s=LATE)),
    "streaming": replace(PLAIN, streaming=(Aggregate(name="usual", window_s=LATE),)),
}
ROWS = 20
learn = Learner.learn


def _refusing(self: Learner, outcomes: Sequence[Outcome], seed: str) -> Learned:
    """Learn, and go back, as after a gate that is not passed."""
    learned = learn(self, outcomes, seed)
    self.undo()
    return replace(learned, rejected="nobody wants it")


async def _trained(spec: ModelSpec, store: MemoryStore, *numbers: int) -> list[Version]:
    """Let a trainer, that begins anew each time this is called, learn micro-batches; return its versions, oldest first."""
    trainer = Trainer(spec, store)
    await trainer.start()
    for number in numbers:
        ids = [f"{number}-{row}" for row in range(ROWS)]
        rows: list[Row] = [[(row + number) / ROWS, *[0.5] * len(spec.streaming)] for row in range(ROWS)]
        asked = Predictions(1.0, ids, ids, rows, [[0.5]] * ROWS, [Served("main", 1, 1.0)], [0] * ROWS)
        told = [Feedback(id_, float((row + number) % 3 == 0)) for row, id_ in enumerate(ids)]
        again = [Feedback(f"{number - 1}-{row}", 1.0) for row in range(3)]  # other labels than before: corrections
        for record in (asked, FeedbackBatch(1.0, told), FeedbackBatch(1.0, again), Cut("hand"), Cut("hand")):
            await store.append([(log_stream("m"), pack_log(record))])
        while await trainer.step(0.01):
            pass
    return (await store.versions("m"))[::-1]


@pytest.mark.parametrize("name", SPECS)
async def test_it_gives_the_losses_and_the_weights_that_production_had(name: str, tmp_path: Path) -> None:
    spec, store = SPECS[name], MemoryStore()
    await _trained(spec, store, 1, 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Learner, "learn", _refusing)
        await _trained(spec, store, 3)
    versions = await _trained(spec, store, 4, 5)
    assert "rejected" in {version.status for version in versions}
    (await Replay.of(store, spec.record, None)).save(tmp_path / "replay")
    replay, learner, sums = Replay.load(tmp_path / "replay"), Learner(spec), Sums()
    assert len(replay) == len(versions) - 1
    for version, scored in zip(versions[1:], progressive(learner, replay, range(len(replay))), strict=True):
        sums.add(scored)
        assert bool(scored.rejected) == (version.status == "rejected")
        if not scored.rejected:
            assert digest_of(learner.weights()) == version.weights
            assert version.metrics.get("loss") == (scored.loss if scored.judged else None)
    assert learner.recent_loss == versions[-1].metrics["recent_loss"]
    assert sums.judged > 0


async def test_a_learner_of_another_way_is_not_held_to_verdicts_on_production_s() -> None:
    store = MemoryStore()
    await _trained(PLAIN, store, 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Learner, "learn", _refusing)
        await _trained(PLAIN, store, 2)
    replay = await Replay.of(store, PLAIN.record, None)
    other = Learner(replace(PLAIN, learning=Learning(seed=3, learning_rate=0.1)))
    assert [scored.rejected for scored in progressive(other, replay, range(2))] == ["", ""]


async def test_the_archive_gives_the_same_as_the_stream(tmp_path: Path) -> None:
    store = MemoryStore()
    versions = await _trained(PLAIN, store, 1, 2, 3)
    before = await Replay.of(store, PLAIN.record, tmp_path)
    entries = [(one.position, unpack_outcomes(one.payload)) for one in await store.read(outcome_stream("m"), "0-0", 10_000)]
    found = [(at, outcome) for at, record in entries if isinstance(record, Outcomes) for outcome in record.outcomes]
    with Archive(tmp_path, "m", PLAIN.record.features) as archive:
        archive.write(entries[0][0], entries[-1][0], found)
    milliseconds, _, sequence = versions[2].position.partition("-")
    await store.trim(outcome_stream("m"), f"{milliseconds}-{int(sequence) + 1}")
    after = await Replay.of(store, PLAIN.record, tmp_path)
    learners = Learner(PLAIN), Learner(PLAIN)
    ran = [list(progressive(one, replay, range(3))) for one, replay in zip(learners, (before, after), strict=True)]
    assert [one.loss for one in ran[0]] == [one.loss for one in ran[1]]
    assert learners[0].weights() == learners[1].weights()
    with pytest.raises(TuningError, match="of them are kept: begin later"):
        await Replay.of(store, PLAIN.record, None)


async def test_a_time_when_nothing_was_learned_is_refused() -> None:
    store = MemoryStore()
    await _trained(PLAIN, store, 1)
    with pytest.raises(TuningError, match="learned nothing in that time"):
        await Replay.of(store, PLAIN.record, None, since=datetime(2100, 1, 1, tzinfo=UTC))


async def test_another_file_is_no_replay(tmp_path: Path) -> None:
    (tmp_path / "replay").write_bytes(b"anything else")
    with pytest.raises(TuningError, match="is no replay"):
        Replay.load(tmp_path / "replay")
