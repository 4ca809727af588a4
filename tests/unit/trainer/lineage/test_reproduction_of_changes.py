"""What changes how a model learns while it goes on, answers to drift and other declarations, is replayed where it happened."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from store.drift import Drift, Response
from store.memory import MemoryStore
from store.names import log_stream
from store.protocols import Version
from store.records import Cut, Feedback, FeedbackBatch, Predictions, Served, pack_log
from store.spec import LabelPolicy, Learning, ModelSpec, Schedule
from trainer.lineage.reproduction import reproduce
from trainer.loop import Trainer
from trainer.testing import OneNumber

pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("default")]

SPEC = ModelSpec(name="m", features=OneNumber, schedule=Schedule(seconds=None), learning=Learning(passes=1))
ROWS, BATCHES, CHANGE = 128, 22, 16


async def _said(store: MemoryStore, batch: int) -> None:
    """Log a micro-batch, two sources' labels and a correction of the one before among it, and the cut that ends it."""
    draw = np.random.default_rng(batch)
    numbers = draw.normal(3.0 if batch >= CHANGE else 0.0, 1.0, ROWS).tolist()
    ids = [f"{batch}-{row}" for row in range(ROWS)]
    asked = Predictions(1.0, ids, ids, [[one] for one in numbers], [[0.5]] * ROWS, [Served("main", 1, 1.0)], [0] * ROWS)
    labels = (draw.random(ROWS) < 0.4).astype(float).tolist()
    told = [
        Feedback(id_, label, None, "rule" if row % 3 else "") for row, (id_, label) in enumerate(zip(ids, labels, strict=True))
    ]
    told += [Feedback(f"{batch - 1}-{row}", 1.0, None, "rule") for row in range(0, ROWS, 9) if batch]
    await store.append([(log_stream("m"), pack_log(one)) for one in (asked, FeedbackBatch(1.0, told), Cut("hand"))])


async def _trained(store: MemoryStore, spec: ModelSpec, batches: range) -> list[Version]:
    """Let a new trainer learn batches; return the versions, oldest first."""
    trainer = Trainer(spec, store)
    await trainer.start()
    for batch in batches:
        await _said(store, batch)
        while await trainer.step(0.0):
            pass
    return (await store.versions("m"))[::-1]


@pytest.mark.parametrize("stop", [CHANGE + 1, CHANGE + 2, BATCHES])
@pytest.mark.parametrize(
    "respond", [("raise the learning rate",), ("reset the optimiser",), ("raise the learning rate", "reset the optimiser")]
)
async def test_answers_to_drift_are_given_again(respond: tuple[Response, ...], stop: int) -> None:
    store = MemoryStore()
    spec = replace(SPEC, drift=Drift(short=64, long=256, watch=("covariate",), respond=respond, batches=2))
    await _trained(store, spec, range(stop))
    versions = await _trained(store, spec, range(stop, BATCHES))
    paces = [version.lineage.get("drift", {}).get("pace") for version in versions]
    resets = [version.number for version in versions if version.lineage.get("drift", {}).get("reset")]
    assert paces.count(3.0) == (2 if "raise the learning rate" in respond else 0)
    assert len(resets) == ("reset the optimiser" in respond)
    # Watched or not, and answered how now: what was done then is on record.
    assert (await reproduce(SPEC, store, versions[-1].number)).same
    if resets:
        assert (await reproduce(SPEC, store, resets[0])).same


@pytest.mark.parametrize(
    "after",
    [
        {"optimiser": {"kind": "adam"}},
        {"replay": {"capacity": 100}},
        {"seed": 9, "replay": {"capacity": 64}},
        {"loss": {"kind": "focal"}, "memory": 0.9},
        {"rate": {"kind": "warm_up", "steps": 7}, "passes": 2},
        {"sampling": {"kind": "uniform"}, "half_life_s": 60.0},
    ],
)
async def test_a_restart_with_other_learning_is_replayed_and_the_way_back_too(after: dict[str, Any]) -> None:
    store = MemoryStore()
    other = replace(SPEC, learning=Learning.model_validate(after))
    await _trained(store, SPEC, range(3))
    await _trained(store, other, range(3, 6))
    versions = await _trained(store, SPEC, range(6, 8))
    for number in (4, 7, len(versions)):
        assert (await reproduce(SPEC, store, number)).same, number


async def test_labels_are_worth_again_what_they_were() -> None:
    store = MemoryStore()
    doubtful = replace(SPEC, labels=LabelPolicy(sources={"rule": 0.7}))
    await _trained(store, SPEC, range(3))
    await _trained(store, doubtful, range(3, 6))
    versions = await _trained(store, SPEC, range(6, 8))
    for spec in (SPEC, doubtful):
        assert (await reproduce(spec, store, versions[-1].number)).same
