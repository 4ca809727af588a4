"""Drift at the learner's side: an alarm is on record once, also after a kill, and the learner answers it as declared."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel

from store.drift import Drift, Response
from store.memory import MemoryStore
from store.names import AUDIT, learner_consumer, log_stream
from store.protocols import START
from store.records import Cut, Feedback, FeedbackBatch, Predictions, Served, pack_log
from store.spec import Learning, ModelSpec, Schedule
from trainer.loop import Trainer

pytestmark = pytest.mark.anyio
BATCH, BATCHES, CHANGE = 128, 24, 16


class Features(BaseModel):
    price: float
    country: str


PLAIN = ModelSpec(name="m", features=Features, schedule=Schedule(seconds=None), learning=Learning(passes=1))


def _spec(*respond: Response) -> ModelSpec:
    settings = Drift(short=64, long=256, respond=respond or ("alert",), batches=2, watch=("covariate", "label", "concept"))
    return replace(PLAIN, drift=settings)


async def _log(store: MemoryStore, name: str = "p") -> None:
    """Micro-batches whose price rises with the 17th."""
    draw = np.random.default_rng(0)
    for number in range(BATCHES):
        prices = draw.normal(3.0 if number >= CHANGE else 0.0, 1.0, BATCH).tolist()
        ids = [f"{name}{number}-{row}" for row in range(BATCH)]
        rows: list[Any] = [[price, "VN"] for price in prices]
        asked = Predictions(1.0, ids, ids, rows, [[0.5]] * BATCH, [Served("main", 1, 1.0)], [0] * BATCH)
        labels = (draw.random(BATCH) < 0.4).astype(float).tolist()
        said = FeedbackBatch(1.0, [Feedback(id_, label) for id_, label in zip(ids, labels, strict=True)])
        await store.append([(log_stream("m"), pack_log(one)) for one in (asked, said, Cut("hand"))])


class Killed(Exception):
    """As if the process had gone."""


def _dying(stage: str, count: int) -> Callable[[str], None]:
    left = [count]

    def reached(at: str) -> None:
        left[0] -= at == stage
        if at == stage and not left[0]:
            raise Killed

    return reached


async def _trained(
    spec: ModelSpec, reached: Callable[[str], None] | None = None, store: MemoryStore | None = None
) -> MemoryStore:
    if store is None:
        store = MemoryStore()
        await store.register(spec.record)
        await _log(store)
    trainer = Trainer(spec, store, reached=reached)
    await trainer.start()
    while await trainer.step(0.0):
        pass
    return store


async def _drift(store: MemoryStore) -> dict[str, Any]:
    return json.loads((await store.consumer(learner_consumer("m")))[1])["drift"]


async def _audit(store: MemoryStore) -> list[dict[str, Any]]:
    return [json.loads(entry.payload) for entry in await store.read(AUDIT, START, 100)]


async def test_an_alarm_is_shown_and_on_record() -> None:
    store = await _trained(_spec())
    found = await _drift(store)
    assert found["counts"]["covariate"] == 1
    [alarm] = [one for one in found["alarms"] if one["kind"] == "covariate"]
    assert alarm["moved"][0]["what"] == "price"
    assert abs(alarm["since"]["outcome"] - CHANGE * BATCH) <= 64
    records = await _audit(store)
    assert {record["action"] for record in records} == {"drift"}
    assert sum("price" in record["why"] for record in records) == 1
    version = int(records[0]["after"].split(";")[0].removeprefix("version "))
    assert (await store.version("m", version)).status == "published"


@pytest.mark.parametrize("stage", ["publish.before", "publish.after"])
async def test_after_a_kill_the_alarms_and_the_weights_are_the_same_and_on_record_once(stage: str) -> None:
    spec = _spec("raise the learning rate", "reset the optimiser", "retrain")
    whole = await _trained(spec)
    for count in (CHANGE, CHANGE + 2, CHANGE + 4):
        store = MemoryStore()
        await store.register(spec.record)
        await _log(store)
        with pytest.raises(Killed):
            await _trained(spec, _dying(stage, count), store)
        await _trained(spec, None, store)
        assert await _drift(store) == await _drift(whole)
        assert await _audit(store) == await _audit(whole)
        last = (await whole.versions("m", 1))[0].number
        assert await store.weights("m", last) == await whole.weights("m", last)
        assert await store.blob(learner_consumer("m")) == await whole.blob(learner_consumer("m"))


async def test_answers_change_how_it_learns_and_a_mere_alert_does_not() -> None:
    silent = await _trained(
        ModelSpec(name="m", features=Features, schedule=Schedule(seconds=None), learning=Learning(passes=1))
    )
    last = (await silent.versions("m", 1))[0].number
    assert await _drift(silent) == {}

    async def weights(*respond: Response) -> bytes:
        return await (await _trained(_spec(*respond))).weights("m", last)

    usual = await silent.weights("m", last)
    assert await weights("alert") == usual
    assert await weights("raise the learning rate") != usual
    assert await weights("reset the optimiser") != usual


async def test_a_request_to_retrain_says_from_where_on() -> None:
    found = await _drift(await _trained(_spec("retrain")))
    assert abs(found["retrain"]["outcome"] - CHANGE * BATCH) <= 64
    assert found["retrain"]["log_position"] != START


async def test_watching_may_begin_and_end_in_a_models_life() -> None:
    store = await _trained(PLAIN)
    await _log(store, "q")
    await _trained(_spec(), None, store)
    assert (await _drift(store))["outcomes"] > 0
    await _log(store, "r")
    await _trained(PLAIN, None, store)
    assert await _drift(store) == {}
