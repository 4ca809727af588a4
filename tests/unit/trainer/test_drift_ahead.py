"""A schedule on drift: what waits is looked at as it comes, and a change ends the micro-batch."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from pydantic import BaseModel

from store.drift import Drift
from store.errors import SpecError
from store.memory import MemoryStore
from store.names import AUDIT, log_stream, outcome_stream
from store.protocols import START
from store.records import Cut, Feedback, FeedbackBatch, Predictions, Served, pack_log, unpack_outcomes
from store.spec import Learning, ModelSpec, Schedule
from trainer.loop import Trainer

pytestmark = pytest.mark.anyio
REQUEST, REQUESTS, CHANGE = 50, 60, 40


class Features(BaseModel):
    price: float


SPEC = ModelSpec(
    name="m",
    features=Features,
    schedule=Schedule(seconds=None, on_drift=True),
    learning=Learning(passes=1),
    drift=Drift(short=64, long=256, watch=("covariate",)),
)


class Killed(BaseException):
    """The process is gone."""


async def _ask(store: MemoryStore, number: int, price: float) -> None:
    """Log predictions and at once their labels."""
    draw = np.random.default_rng(number)
    ids = [f"{number}-{row}" for row in range(REQUEST)]
    asked = Predictions(
        1.0, ids, ids, [[one] for one in draw.normal(price, 1.0, REQUEST).tolist()], [[0.5]] * REQUEST,
        [Served("main", 1, 1.0)], [0] * REQUEST,
    )  # fmt: skip
    labels = (draw.random(REQUEST) < 0.4).astype(float).tolist()
    told = FeedbackBatch(1.0, [Feedback(id_, label) for id_, label in zip(ids, labels, strict=True)])
    await store.append([(log_stream("m"), pack_log(one)) for one in (asked, told)])


async def _rest(trainer: Trainer) -> None:
    quiet = 0
    while quiet < 3:
        quiet = 0 if await trainer.step(0.001) else quiet + 1


async def _lived(store: MemoryStore, spec: ModelSpec = SPEC, restart_every: int = REQUESTS) -> Trainer:
    """Let requests come one after the other, to a trainer that starts over now and then."""
    trainer = Trainer(spec, store)
    await trainer.start()
    for number in range(REQUESTS):
        if number and number % restart_every == 0:
            trainer = Trainer(spec, store)
            await trainer.start()
        await _ask(store, number, 3.0 if number >= CHANGE else 0.0)
        await _rest(trainer)
    return trainer


async def _cuts(store: MemoryStore) -> list[str]:
    entries = await store.read(outcome_stream("m"), START, 10_000)
    return [record.reason for entry in entries if isinstance(record := unpack_outcomes(entry.payload), Cut)]


async def test_nothing_is_learned_until_something_drifts_and_then_it_is_at_once() -> None:
    store = MemoryStore()
    trainer = await _lived(store)
    [cut] = await _cuts(store)
    assert cut.startswith("drift: covariate shift since ")
    assert "price" in cut
    learned, _ = await store.versions("m")
    assert learned.lineage["cut"] == cut
    assert CHANGE * REQUEST < learned.outcomes <= CHANGE * REQUEST + 3 * 64, "within three short windows"
    assert trainer.drift["counts"] == {"covariate": 1}
    assert len(await store.read(AUDIT, START, 10)) == 1


async def test_without_the_schedule_nothing_is_looked_at() -> None:
    store = MemoryStore()
    await _lived(store, replace(SPEC, schedule=Schedule(seconds=None)))
    assert await _cuts(store) == []


@pytest.mark.parametrize("restart_every", [3, 7])
async def test_trainers_that_start_over_find_the_same_in_the_same_place(restart_every: int) -> None:
    whole, torn = MemoryStore(), MemoryStore()
    await _lived(whole)
    await _lived(torn, restart_every=restart_every)
    assert await _cuts(torn) == await _cuts(whole)
    assert await torn.weights("m", 2) == await whole.weights("m", 2)


class Mortal(MemoryStore):
    """Its trainer dies at a stage, after it has asked for a cut on drift."""

    def __init__(self, stage: str) -> None:
        super().__init__()
        self.stage = stage
        self._asked = False

    async def append(self, entries: Sequence[tuple[str, bytes]]) -> list[str]:
        positions = await super().append(entries)
        if any(b"drift: " in payload and stream == log_stream("m") for stream, payload in entries):
            self._asked = True
            self.reached("cut")
        return positions

    def reached(self, stage: str) -> None:
        if self._asked and stage == self.stage:
            raise Killed


@pytest.mark.parametrize("stage", ["cut", "join.before", "join.after", "publish.before", "publish.after"])
async def test_a_cut_that_a_killed_trainer_asked_for_is_not_asked_for_again(stage: str) -> None:
    store = Mortal(stage)

    async def live() -> None:
        trainer = Trainer(SPEC, store, reached=store.reached)
        await trainer.start()
        for number in range(REQUESTS):
            await _ask(store, number, 3.0 if number >= CHANGE else 0.0)
            await _rest(trainer)

    with pytest.raises(Killed):
        await live()
    store.stage = ""
    heir = Trainer(SPEC, store)
    await heir.start()
    await _rest(heir)
    assert len(await _cuts(store)) == 1
    assert (await store.versions("m"))[0].outcomes > CHANGE * REQUEST


async def test_on_drift_is_refused_of_a_model_that_is_not_watched() -> None:
    with pytest.raises(SpecError, match="on_drift needs a model that is watched for drift"):
        replace(SPEC, drift=None)
