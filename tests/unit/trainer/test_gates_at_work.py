"""Gates in the trainer's loop: what is rejected leaves no trace in the learner, wherever it was killed."""

import json
from collections.abc import Iterator

import numpy as np
import pytest

from store.gates import Gates
from store.memory import MemoryStore
from store.names import learner_consumer, log_stream
from store.policy import Policy, Variant
from store.protocols import Version
from store.records import Cut, Feedback, FeedbackBatch, Predictions, Served, pack_log
from store.schema import Row
from store.spec import ModelSpec, Schedule
from trainer.gates import keeper
from trainer.loop import Trainer
from trainer.testing import OneNumber, exporting_once

pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("default")]

ROWS = 300
GATES = Gates(rows=1200, patience=1100)


class Killed(BaseException):
    """The process is gone."""


@pytest.fixture(autouse=True, scope="module")
def _one_export() -> Iterator[None]:
    with exporting_once():
        yield


async def _log(store: MemoryStore, batch: int, source: str = "") -> None:
    """Log a micro-batch; labels from a source are wrong."""
    draw = np.random.default_rng(batch)
    numbers = draw.normal(size=ROWS)
    rows: list[Row] = [[number] for number in numbers.tolist()]
    labels = (draw.random(ROWS) < 1.0 / (1.0 + np.exp(-3.0 * numbers))) ^ bool(source)
    ids = [f"{batch}-{row}" for row in range(ROWS)]
    asked = Predictions(1.0, ids, ids, rows, [[0.5]] * ROWS, [Served("main", 1, 1.0)], [0] * ROWS)
    said = FeedbackBatch(1.0, [Feedback(id_, float(label), None, source) for id_, label in zip(ids, labels, strict=True)])
    await store.append([(log_stream("m"), pack_log(record)) for record in (asked, said, Cut("hand"))])


async def _train(store: MemoryStore, gates: Gates = GATES, killed_at: str = "", count: int = 1) -> Trainer:
    """Train until the log is learned, or until the trainer is killed at a durable step."""
    left = count

    def reached(stage: str) -> None:
        nonlocal left
        left -= stage == killed_at
        if not left:
            raise Killed

    learning = Trainer(
        ModelSpec(name="m", features=OneNumber, schedule=Schedule(seconds=None), gates=gates), store, reached=reached
    )
    await learning.start()
    while await learning.step(0.01):
        pass
    return learning


def _bits(learning: Trainer) -> tuple[bytes, bytes]:
    return learning.learner.weights(), learning.learner.checkpoint()


async def _lineages(store: MemoryStore) -> list[Version]:
    return (await store.versions("m"))[::-1]


async def test_a_flood_of_wrong_labels_leaves_champion_and_learner_as_they_were() -> None:
    store = MemoryStore()
    for batch in range(8):
        await _log(store, batch)
    good = await _train(store)
    champion = (await store.snapshot("m")).channels["main@latest"]
    pinned = Policy(variants=(Variant(name="main", version=champion),))
    await store.set_policy("m", pinned, (await store.snapshot("m")).epoch)
    before, served = _bits(good), await store.weights("m", champion)

    for batch in range(8, 11):
        await _log(store, batch, source="liar")
    after = await _train(store)
    assert _bits(after) == before
    flood = (await _lineages(store))[-3:]
    assert all(one.status == "rejected" and one.reason.startswith("quality: worse than the last good state") for one in flood)
    assert sum(one.lineage["skipped"]["outcomes"] for one in flood) == 3 * ROWS
    assert [one.lineage["skipped"]["to"] for one in flood] == [one.position for one in flood]
    assert flood[0].lineage["gates"]["evidence"]["quality"]["loss"] > flood[0].lineage["gates"]["evidence"]["quality"]["before"]
    position, state = await store.consumer(learner_consumer("m"))
    assert position == flood[-1].position
    assert json.loads(state)["verdict"].startswith("rejected: quality")
    snapshot = await store.snapshot("m")
    assert (snapshot.channels["main@latest"], snapshot.channels["champion"]) == (champion, champion)
    assert await store.weights("m", champion) == served

    await _log(store, 11)
    await _train(store)
    [newest] = (await _lineages(store))[-1:]
    assert (newest.status, newest.parent) == ("published", champion)


async def test_a_trainer_killed_between_gate_and_commit_ends_with_the_same_bits() -> None:
    """Through good versions, rejected ones, and a world that turned over and is believed after its patience."""
    stores = [MemoryStore() for _ in range(2)]
    for store in stores:
        for batch in range(13):
            await _log(store, batch, source="liar" if batch >= 6 else "")
    calm = await _train(stores[0])
    deaths = 0
    for stage, count in (("gates.after", 4), ("publish.before", 3), ("publish.after", 2), ("gates.after", 3)):
        with pytest.raises(Killed):
            await _train(stores[1], killed_at=stage, count=count)
        deaths += 1
    killed = await _train(stores[1])
    for _ in range(3):  # and one that was only restarted
        killed = await _train(stores[1])
    assert deaths == 4
    assert _bits(killed) == _bits(calm)
    told = [[(one.number, one.status, one.reason, one.weights) for one in await _lineages(store)] for store in stores]
    assert told[0] == told[1]
    statuses = [one[1] for one in told[0]]
    assert statuses[7:11] == ["rejected"] * 4, "patience is 1,100 outcomes, of 300 each"
    assert statuses[11:] == ["published"] * 3, "then what was not learned is what versions are judged on"
    blobs = [await store.blob(learner_consumer("m")) for store in stores]
    assert blobs[0] == blobs[1]


async def test_killed_in_the_middle_of_a_gate_nothing_has_happened(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    for batch in range(5):
        await _log(store, batch)
    before = _bits(await _train(store))
    versions = len(await _lineages(store))
    await _log(store, 5, source="liar")

    def killed(_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(keeper, "judge", killed)
        with pytest.raises(Killed):
            await _train(store)
    assert len(await _lineages(store)) == versions
    after = await _train(store)
    assert _bits(after) == before
    assert len(await _lineages(store)) == versions + 1


async def test_a_version_that_is_too_slow_is_not_published_and_the_learner_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also through a restart, though it is not the line's newest whose weights it has then."""

    def slow(_: object, __: object) -> dict[str, dict[int, float]]:
        return {"version": {1: 0.1, 32: 0.2, 512: 0.3}}

    monkeypatch.setattr(keeper, "latencies", slow)
    gates = GATES.model_copy(update={"latency_ms": 50.0})
    stores = [MemoryStore() for _ in range(2)]
    trained: list[Trainer] = []
    for store, declared in zip(stores, (Gates(quality=None), gates), strict=True):
        for batch in range(4):
            await _log(store, batch)
            trained.append(await _train(store, declared))  # each batch by another trainer
    assert _bits(trained[3]) == _bits(trained[7]), "it has learned what one without gates has"
    versions = await _lineages(stores[1])
    assert [one.status for one in versions] == ["published", "published", "rejected", "rejected", "rejected"]
    assert versions[-1].reason == "latency: 200 ms for 32 rows, more than 50 ms"
    assert await stores[1].weights("m", versions[-1].number) == trained[7].learner.weights()
    assert (await stores[1].snapshot("m")).channels["main@latest"] == versions[1].number
    assert "skipped" not in versions[-1].lineage


async def test_what_the_window_needs_of_the_outcomes_is_not_trimmed(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    for batch in range(12):
        await _log(store, batch)
    learning = await _train(store)
    trimmed: list[str] = []

    async def trim(taken: str) -> None:
        trimmed.append(taken)

    monkeypatch.setattr(learning._joining, "trim", trim)  # pyright: ignore[reportPrivateUsage]
    await learning.step(0.01)
    versions = await _lineages(store)
    assert trimmed == [versions[-5].position], "the window is of the newest four batches"
