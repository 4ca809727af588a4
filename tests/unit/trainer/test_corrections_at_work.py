"""Defaults, labels that come late or change, and doubtful sources in the trainer's loop: killed anywhere, each counts once."""

from collections.abc import Sequence

import numpy as np
import pytest

from store.learning import Replay
from store.memory import MemoryStore
from store.names import learner_consumer, log_stream, outcome_stream
from store.protocols import START
from store.records import Cut, Feedback, FeedbackBatch, LogRecord, Outcomes, Predictions, Served, pack_log, unpack_outcomes
from store.schema import Row
from store.spec import LabelPolicy, Learning, ModelSpec, Schedule
from trainer.loop import Trainer
from trainer.testing import OneNumber

pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("default")]

ROWS, BATCHES = 60, 5
SOURCES = {"hand": 0.95, "rule": 0.75}
STAGES = ("join.before", "join.after", "gates.after", "publish.before", "publish.after")


class Killed(BaseException):
    """The process is gone."""


def _spec(labels: LabelPolicy) -> ModelSpec:
    learning = Learning(replay=Replay(capacity=4096, rows=16))
    return ModelSpec(name="m", features=OneNumber, labels=labels, learning=learning, schedule=Schedule(seconds=None))


def _records(batch: int, liar: bool) -> list[LogRecord]:
    """Predictions; labels of most by a source, of some by two; and other labels for some of the batch before."""
    draw = np.random.default_rng(batch)
    numbers = draw.normal(size=ROWS)
    ids = [f"{batch}-{row}" for row in range(ROWS)]
    rows: list[Row] = [[number] for number in numbers.tolist()]
    truth = (draw.random(ROWS) < 1.0 / (1.0 + np.exp(-3.0 * numbers))).astype(int).tolist()
    events = [Feedback(id_, float(label), None, "hand") for id_, label in zip(ids[::2], truth[::2], strict=True)]
    lies = [1 - label if liar else label for label in truth]
    events += [Feedback(id_, float(label), None, "rule") for id_, label in zip(ids[::3], lies[::3], strict=True)]
    events += [Feedback(f"{batch - 1}-{row}", float(row % 2), None, "hand") for row in range(0, ROWS, 7) if batch]
    asked = Predictions(1.0, ids, ids, rows, [[0.5]] * ROWS, [Served("main", 1, 1.0)], [0] * ROWS)
    return [asked, FeedbackBatch(2.0, events), Cut("hand")]


async def _log(store: MemoryStore, batches: Sequence[int], liar: bool = False) -> None:
    for batch in batches:
        await store.append([(log_stream("m"), pack_log(record)) for record in _records(batch, liar)])


async def _train(store: MemoryStore, spec: ModelSpec, killed_at: str = "", count: int = 1) -> Trainer:
    left = count

    def reached(stage: str) -> None:
        nonlocal left
        left -= stage == killed_at
        if not left:
            raise Killed

    learning = Trainer(spec, store, reached=reached)
    await learning.start()
    while await learning.step(0.01):
        pass
    return learning


@pytest.mark.parametrize("kind", ["on_label", "corrected"])
@pytest.mark.parametrize("stage", STAGES)
async def test_killed_anywhere_corrections_are_applied_once(kind: str, stage: str) -> None:
    policy = LabelPolicy(kind="corrected" if kind == "corrected" else "on_label", default=0, sources=SOURCES)
    whole, cut_short = MemoryStore(), MemoryStore()
    for store in (whole, cut_short):
        await _log(store, range(BATCHES))
    expected = await _train(whole, _spec(policy))
    for count in (1,) if stage.startswith("join") else (2, 2):  # all that is in the log is joined at once
        with pytest.raises(Killed):
            await _train(cut_short, _spec(policy), stage, count)
    found = await _train(cut_short, _spec(policy))
    assert found.learner.weights() == expected.learner.weights()
    assert found.learner.checkpoint() == expected.learner.checkpoint()


async def test_how_right_a_source_is_goes_with_the_learners_state() -> None:
    store, spec = MemoryStore(), _spec(LabelPolicy(sources=SOURCES))
    await _log(store, range(8))
    honest = (await _train(store, spec)).learner.teaching.trust.accuracies()
    await _log(store, range(8, 30), liar=True)
    lying = await _train(store, spec)
    _, state = await store.consumer(learner_consumer("m"))
    assert lying.learner.teaching.trust.accuracies()["rule"] < 0.6 < honest["rule"]
    assert b'"sources": {' in state
    assert (await _train(store, spec)).learner.teaching.trust.accuracies() == lying.learner.teaching.trust.accuracies()


@pytest.mark.parametrize("kind", ["on_label", "corrected"])
async def test_what_is_replayed_has_the_labels_that_hold(kind: str) -> None:
    store, spec = MemoryStore(), _spec(LabelPolicy.model_validate({"kind": kind, "default": 0}))
    await _log(store, range(BATCHES + 1))
    learning = await _train(store, spec)
    entries = await store.read(outcome_stream("m"), START, 10_000)
    records = [unpack_outcomes(entry.payload) for entry in entries]
    told = [outcome for record in records if isinstance(record, Outcomes) for outcome in record.outcomes]
    holds = {tuple(outcome.row): float(outcome.label) for outcome in told}  # the last that is said of each
    assert sum(bool(outcome.learned) for outcome in told) > BATCHES
    replay = learning.learner.descent.replay
    assert replay is not None
    kept = replay.tensors()
    numbers = {np.float32(row[0]): label for row, label in holds.items()}
    found = dict(zip(kept["numbers"][:, 0].numpy(), kept["labels"].tolist(), strict=True))
    assert len(found) == len(kept["labels"]) > ROWS, "none twice"
    assert found == {number: numbers[number] for number in found}
