"""Point in time: what was logged with a prediction is what the streams said before it, found again by replaying them."""

import json
from random import Random
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel

from serving.errors import Invalid
from serving.hosted import Hosted, State
from serving.metrics import ReplicaMetrics
from store.columns import rows_of
from store.errors import SchemaError
from store.following import Follower
from store.memory import MemoryStore
from store.names import log_stream, outcome_stream
from store.protocols import START, Entry, position_key
from store.records import Feedback, FeedbackBatch, Outcomes, Predictions, Served, pack_log, unpack_log, unpack_outcomes
from store.spec import ModelRecord, ModelSpec
from store.streaming import Aggregate
from store.streams import Streams
from trainer.joining import Joining

pytestmark = pytest.mark.anyio

HOUR = 3600.0


class Features(BaseModel):
    place: str


AGGREGATES = (
    Aggregate(name="late", by=("place",), half_life_s=HOUR),
    Aggregate(name="late_window", by=("place", "unit"), window_s=4 * HOUR),
    Aggregate(name="asked", by=("place",), of="predictions", kind="rate", window_s=HOUR),
    Aggregate(name="scored", of="score", half_life_s=HOUR),
)
RECORD = ModelSpec("m", Features, clock="event", streaming=AGGREGATES).record


def hosted(store: MemoryStore, record: ModelRecord = RECORD) -> Hosted:
    return Hosted(record, 100, ReplicaMetrics(), Follower(record, store))


def body(place: str, at: float, id_: str = "p", **more: Any) -> bytes:
    instance = {"features": {"place": place, **more}, "unit": "u", "id": id_, "at": at}
    return json.dumps({"instances": [instance]}).encode()


@pytest.mark.parametrize("seed", range(5))
async def test_replaying_the_streams_up_to_each_prediction_gives_the_values_that_were_logged(seed: int) -> None:
    draw, store = Random(seed), MemoryStore()
    # Two replicas, which look at the streams whenever they do; each notes how far it had read.
    replicas, joining = [hosted(store), hosted(store)], Joining(RECORD, store)
    await joining.start()
    known: list[tuple[str, str, str]] = []
    for number in range(150):
        one = draw.choice(replicas)
        assert one.features is not None
        if draw.random() < 0.5:
            await one.features.catch_up()
        asked = one.read(State(), body(draw.choice("abc"), 1e6 + 300.0 * number, f"p{number}"))
        at = one.features.at
        known.append((f"p{number}", at.outcomes, at.log))
        served = [Served("main", 1, 1.0)]
        logged = Predictions(
            asked.at, asked.ids, asked.units, asked.rows, [[draw.random()]], served, [0], 0.0, asked.event_times
        )
        await store.append([(log_stream("m"), pack_log(logged))])
        labelled = Feedback(f"p{draw.randint(0, number)}", float(draw.randint(0, 1)), 1e6 + 300.0 * number + 60.0)
        await store.append([(log_stream("m"), pack_log(FeedbackBatch(0.0, [labelled])))])
        while await joining.step(0.0):
            pass
    log = await store.read(log_stream("m"), START, 10_000)
    outcomes = await store.read(outcome_stream("m"), START, 10_000)
    logged_at = {record.ids[0]: (entry.position, record) for entry, record in predictions_of(log)}
    assert any(record.rows[0][1] is not None for _, record in logged_at.values())
    for id_, read_outcomes, read_log in known:
        position, record = logged_at[id_]
        assert position_key(read_log) < position_key(position)
        again = Streams(RECORD)
        for entry in up_to(outcomes, read_outcomes):
            if isinstance(made := unpack_outcomes(entry.payload), Outcomes):
                again.outcomes(made.outcomes)
        for entry, made in predictions_of(up_to(log, read_log)):
            again.predictions(made, position_key(entry.position)[0] / 1000.0)
        row = [record.rows[0][0], None, None, None, None]
        again.fill([row], record.units, record.event_times or [])
        assert row == record.rows[0]


def up_to(entries: list[Entry], position: str) -> list[Entry]:
    return [entry for entry in entries if position_key(entry.position) <= position_key(position)]


def predictions_of(entries: list[Entry]) -> list[tuple[Entry, Predictions]]:
    read = [(entry, unpack_log(entry.payload)) for entry in entries]
    return [(entry, record) for entry, record in read if isinstance(record, Predictions)]


def test_a_client_that_sends_a_streaming_feature_is_refused() -> None:
    one = hosted(MemoryStore())
    with pytest.raises(Invalid, match="late"):
        one.read(State(), body("a", 0.0, late=0.5))
    with pytest.raises(Invalid, match="late"):
        one.rows([{"place": "a", "late": 0.5}])
    columns = {"place": np.array(["a"], dtype=object), "late": np.array([0.5])}
    with pytest.raises(SchemaError, match="late: no feature of this name; there are place"):
        rows_of(RECORD.features, columns)


def test_rows_from_tensors_have_room_for_what_streams() -> None:
    assert rows_of(RECORD.features, {"place": np.array(["a"], dtype=object)}) == [["a", None, None, None, None]]


def test_what_a_request_carried_is_what_is_shown_of_a_row() -> None:
    assert hosted(MemoryStore()).encoder.features(["a", 0.1, 0.2, 3.0, 0.4]) == {"place": "a"}
