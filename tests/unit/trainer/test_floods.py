"""A flood of lies from one of several sources of labels: found out, it is not believed by the gates either, and what is right
is learned again."""

import json
from collections.abc import Iterator

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.memory import MemoryStore
from store.names import learner_consumer, log_stream
from store.protocols import Version
from store.records import Cut, Feedback, FeedbackBatch, Predictions, Served, Vote, pack_log
from store.schema import Row
from store.spec import LabelPolicy, ModelSpec, Schedule
from trainer.gates.keeper import Keeper, unsealed
from trainer.gates.losses import losses, losses_by_class, losses_of_votes
from trainer.loop import Trainer
from trainer.targets import Teaching
from trainer.testing import OneNumber, exporting_once

pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("default")]

ROWS, HONEST, LIES, AFTER = 200, 12, 8, 6
SOURCES = {"desk": 0.95, "partner": 0.9, "*": 0.85}
SPEC = ModelSpec(name="m", features=OneNumber, schedule=Schedule(seconds=None), labels=LabelPolicy(sources=SOURCES))
CLEAN = np.random.default_rng(99).normal(size=2000)


@pytest.fixture(autouse=True, scope="module")
def _one_export() -> Iterator[None]:
    with exporting_once():
        yield


class Killed(BaseException):
    """The process is gone."""


async def _log(store: MemoryStore, batch: int, source: str, *, lies: bool = False) -> None:
    draw = np.random.default_rng(batch)
    numbers = draw.normal(size=ROWS)
    rows: list[Row] = [[number] for number in numbers.tolist()]
    labels = (draw.random(ROWS) < 1.0 / (1.0 + np.exp(-3.0 * numbers))) != lies
    ids = [f"{batch}-{row}" for row in range(ROWS)]
    asked = Predictions(1.0, ids, ids, rows, [[0.5]] * ROWS, [Served("main", 1, 1.0)], [0] * ROWS)
    said = FeedbackBatch(1.0, [Feedback(id_, float(label), None, source) for id_, label in zip(ids, labels, strict=True)])
    await store.append([(log_stream("m"), pack_log(record)) for record in (asked, said, Cut("hand"))])


async def _written(liar: str) -> MemoryStore:
    """A log of three sources that take turns, in the middle of which one lies for a while."""
    store, turns = MemoryStore(), ("desk", "partner", "key of a client")
    for batch in range(HONEST):
        await _log(store, batch, turns[batch % 3])
    for batch in range(HONEST, HONEST + LIES) if liar else ():
        await _log(store, batch, liar, lies=True)
    for batch in range(HONEST + LIES, HONEST + LIES + AFTER):
        await _log(store, batch, next(one for one in turns if one != liar))
    return store


async def _train(store: MemoryStore, killed_after: int = 0) -> Trainer:
    """Train until the log is learned, or until the trainer is killed between gates and commit."""
    left = killed_after

    def reached(stage: str) -> None:
        nonlocal left
        left -= stage == "gates.after"
        if stage == "gates.after" and not left:
            raise Killed

    learning = Trainer(SPEC, store, reached=reached)
    await learning.start()
    while await learning.step(0.01):
        pass
    return learning


def _clean_loss(learning: Trainer) -> float:
    """The log loss expected where labels are right."""
    scores = learning.learner.score(learning.learner.encode([[one] for one in CLEAN.tolist()]))[:, 0]
    true = 1.0 / (1.0 + np.exp(-3.0 * CLEAN))
    return float(-(true * np.log(scores) + (1.0 - true) * np.log(1.0 - scores)).mean())


async def _versions(store: MemoryStore) -> list[Version]:
    return (await store.versions("m"))[::-1]


@pytest.mark.parametrize("liar", ["partner", "key of a client"])
async def test_after_a_flood_of_lies_what_is_right_is_learned_again(liar: str) -> None:
    store = await _written(liar)
    flooded, calm = await _train(store), await _train(await _written(""))
    after = (await _versions(store))[-AFTER:]
    assert [one.status for one in after] == ["published"] * AFTER, [one.reason for one in after]
    assert _clean_loss(flooded) < _clean_loss(calm) * 1.05


async def test_killed_in_a_flood_the_gates_say_the_same_and_the_learner_is_the_same() -> None:
    stores = [await _written("partner") for _ in range(2)]
    calm = await _train(stores[0])
    for count in (HONEST + 3, 4, 3):
        with pytest.raises(Killed):
            await _train(stores[1], killed_after=count)
    killed = await _train(stores[1])
    assert killed.learner.weights() == calm.learner.weights()
    blobs = [await store.blob(learner_consumer("m")) for store in stores]
    assert blobs[0] == blobs[1]
    told = [[(one.status, one.weights, one.lineage.get("gates")) for one in await _versions(store)] for store in stores]
    assert told[0] == told[1]


async def test_losses_that_were_kept_before_sources_were_declared_are_let_go() -> None:
    store = await _written("")
    learning = await _train(store)
    graph = await store.graph("m", (await _versions(store))[-1].graph)
    state, blob = json.loads((await store.consumer(learner_consumer("m")))[1])["gates"], await store.blob(learner_consumer("m"))

    async def sealed(blob: bytes) -> bytes:
        keeper = Keeper(learning.learner, graph)
        await keeper.resume(state, blob, store)
        return keeper.seal(unsealed(blob))

    assert await sealed(blob) == blob
    packed: bytes = msgpack.packb([unsealed(blob), np.ones(5 * ROWS).tobytes()])  # pyright: ignore[reportAssignmentType]
    assert await sealed(b"tidemill-gates" + packed) == unsealed(blob), "one for each row says nothing of the other class"


def test_a_sure_vote_counts_as_its_label_and_one_that_says_nothing_for_nothing() -> None:
    teaching, scores = Teaching(SPEC.record), np.array([[0.9], [0.2]], dtype=np.float32)
    by_class = losses_by_class(scores)
    worth = teaching.worth([(Vote(1, "nobody", 1.0),), (Vote(0, "desk", 1.0), Vote(0, "partner", 1.0))])
    assert worth[0] == pytest.approx([0.15, 0.85])
    assert worth[1, 0] == pytest.approx(0.95 * 0.9 / (0.95 * 0.9 + 0.05 * 0.1))
    certain = np.array([[0.0, 1.0], [1.0, 0.0]])
    assert losses_of_votes(certain, by_class) == pytest.approx(losses("binary", np.array([1.0, 0.0]), scores))
    assert losses_of_votes(np.full((2, 2), 0.5), by_class) == pytest.approx(-np.log([0.5, 0.5]))


@given(accuracy=st.floats(0.55, 0.99), true=st.floats(0.02, 0.98), said=st.floats(0.02, 0.98))
def test_through_noisy_votes_the_expected_loss_is_least_where_the_model_is_right(
    accuracy: float, true: float, said: float
) -> None:
    votes = np.array([[accuracy, 1.0 - accuracy], [1.0 - accuracy, accuracy]])
    chances = np.array([1.0 - true, true]) @ votes

    def expected(score: float) -> float:
        return float(chances @ losses_of_votes(votes, losses_by_class(np.full((2, 1), score))))

    assert expected(true) <= expected(said) + 1e-9
