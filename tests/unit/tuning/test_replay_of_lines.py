"""A line has become main: what is replayed is every micro-batch once, and what trials depart from is main's way."""

import pytest

from store.memory import MemoryStore
from store.promoting import promote_line
from tests.unit.trainer.lines.world import ROWS, SPEC, Killed, add, log, train_line, train_main
from trainer.learner import Learner
from tuning.plan import SearchPlan
from tuning.replay import Replay, Sums, progressive

pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("default")]


@pytest.mark.parametrize("where", ["behind", "ahead"])
async def test_every_micro_batch_is_replayed_once(where: str) -> None:
    store = MemoryStore()
    await log(store, 0, 1)
    await train_main(store)
    await add(store, learning_rate=0.1)
    await train_line(store)
    await log(store, 2, 3)
    if where == "behind":
        await train_main(store)
    else:
        with pytest.raises(Killed):
            await train_main(store, killed_at="gates.after")
        await train_line(store)
    await promote_line(store, "m", "x")
    await log(store, 4)
    await train_main(store)
    replay = await Replay.of(store, SPEC.record, None)
    assert [batch.outcomes for batch in replay.batches] == [ROWS] * 5
    assert replay.record.learning.learning_rate == 0.1
    sums = Sums()
    for scored in progressive(Learner(SPEC), replay, range(5)):
        sums.add(scored)
    assert sums.judged == 5 * ROWS


async def test_another_shape_of_main_s_is_what_trials_depart_from() -> None:
    store = MemoryStore()
    await log(store, 0, 1)
    await train_main(store)
    await add(store, start="scratch", shape={"hidden": [8]})
    await train_line(store)
    await promote_line(store, "m", "x")
    await log(store, 2)
    await train_main(store)
    record = (await Replay.of(store, SPEC.record, None)).record
    assert record.shape.hidden == (8,)
    way = SPEC.way.model_copy(update={"learning": record.learning, "shape": record.shape})
    assert SearchPlan(model="m", source="examples.flights:spec", way=way).spec().way == way
