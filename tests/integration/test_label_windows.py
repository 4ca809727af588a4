"""A click or no click: what nobody labels is learned with the default when its window ends, on a quiet log too."""

import asyncio

import pytest
from pydantic import BaseModel

from serving.settings import ServingSettings
from serving.testing import TOKEN, serving
from store.names import outcome_stream
from store.records import Outcome, Outcomes, unpack_outcomes
from store.redis_store import RedisStore
from store.spec import LabelPolicy, ModelSpec, Schedule
from trainer.loop import Trainer

pytestmark = pytest.mark.anyio


class Offer(BaseModel):
    price: float


SPEC = ModelSpec(
    name="click",
    features=Offer,
    labels=LabelPolicy(kind="at_window", window_s=1.0, default=0),
    schedule=Schedule(outcomes=10, seconds=None),
)
IDS = [f"offer-{number}" for number in range(10)]
CLICKED = IDS[:3]


async def _outcomes(store: RedisStore) -> list[Outcome]:
    records = [unpack_outcomes(entry.payload) for entry in await store.read(outcome_stream("click"), "0-0", 1000)]
    return [outcome for record in records if isinstance(record, Outcomes) for outcome in record.outcomes]


async def test_what_nobody_clicked_is_learned_as_no_click(redis_url: str, prefix: str) -> None:
    store = RedisStore(redis_url, prefix)
    trainer = Trainer(SPEC, store)
    await trainer.start()
    settings = ServingSettings(redis_url=redis_url, prefix=prefix, token="secret")
    async with serving(settings) as client, asyncio.timeout(60):
        offers = [{"features": {"price": 1.0}, "id": id_} for id_ in IDS]
        assert (await client.post("/models/click/predict", json={"instances": offers})).status_code == 200
        clicks = [{"model": "click", "id": id_, "label": 1} for id_ in CLICKED]
        assert (await client.post("/feedback", json={"events": clicks})).status_code == 202
        # From here on nobody writes to the log but the trainer itself.
        while trainer.progress["version"] != 2:
            await trainer.step(0.01)
        learned = {outcome.id: (outcome.kind, outcome.label) for outcome in await _outcomes(store)}
        assert learned == {id_: ("label", 1) if id_ in CLICKED else ("default", 0) for id_ in IDS}
        assert (await store.version("click", 2)).outcomes == len(IDS)
        late = [{"model": "click", "id": IDS[-1], "label": 1}]
        assert (await client.post("/feedback", json={"events": late})).status_code == 202
        while await trainer.step(0.01):
            pass
        status = await client.get("/admin/status", headers=TOKEN)
        counts = status.json()["models"]["click"]["join"]["counts"]
        assert (counts["labelled"], counts["defaulted"], counts["late"]) == (3, 7, 1)
    await store.close()
