"""Behind each version of a line comes its compressed child, once, wherever the trainer was killed."""

from collections.abc import Iterator

import numpy as np
import pytest
from safetensors.numpy import load

from store.artefact import check_golden, open_session
from store.memory import MemoryStore
from store.names import log_stream
from store.policy import Policy, Variant
from store.protocols import Version
from store.records import Cut, Feedback, FeedbackBatch, Predictions, Served, pack_log
from store.spec import Compression, ModelSpec, Schedule
from trainer.compression.recipe import recipe_of
from trainer.errors import NotApplicable
from trainer.loop import Trainer
from trainer.retention import forget
from trainer.testing import OneNumber, exporting_once

pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("default")]

CHILDREN = "main-compressed"


class Killed(BaseException):
    """The process is gone."""


@pytest.fixture(autouse=True, scope="module")
def _one_export() -> Iterator[None]:
    with exporting_once():
        yield


def _spec(method: Compression) -> ModelSpec:
    return ModelSpec(name="m", features=OneNumber, schedule=Schedule(seconds=None), compress=method)


async def _outcomes(store: MemoryStore, batch: str, rows: int = 40) -> None:
    """Log a micro-batch: predictions, their labels, and the cut that ends it."""
    ids = [f"{batch}-{row}" for row in range(rows)]
    asked = Predictions(
        1.0, ids, ids, [[row / rows] for row in range(rows)], [[0.5]] * rows, [Served("main", 1, 1.0)], [0] * rows
    )
    said = FeedbackBatch(1.0, [Feedback(id_, float(row % 2)) for row, id_ in enumerate(ids)])
    await store.append([(log_stream("m"), pack_log(record)) for record in (asked, said, Cut("hand"))])


async def _train(store: MemoryStore, method: Compression = "dynamic_int8", killed_at: str = "", count: int = 1) -> None:
    """Train until the log is learned, or until the trainer is killed at a durable step."""
    left = count

    def reached(stage: str) -> None:
        nonlocal left
        left -= stage == killed_at
        if not left:
            raise Killed

    learning = Trainer(_spec(method), store, reached=reached)
    await learning.start()
    while await learning.step(0.01):
        pass


async def _lines(store: MemoryStore) -> tuple[list[Version], list[Version]]:
    versions = (await store.versions("m"))[::-1]
    return [one for one in versions if one.line == "main"], [one for one in versions if one.line == CHILDREN]


async def _assert_paired(store: MemoryStore) -> None:
    parents, children = await _lines(store)
    assert [(one.parent, one.position) for one in children] == [(one.number, one.position) for one in parents]
    assert (await store.snapshot("m")).channels[f"{CHILDREN}@latest"] == children[-1].number


@pytest.mark.parametrize("method", ["dynamic_int8", "fp16"])
async def test_every_version_has_a_child_that_replicas_can_open(method: Compression) -> None:
    store = MemoryStore()
    await _outcomes(store, "a")
    await _outcomes(store, "b")
    await _train(store, method)
    await _assert_paired(store)
    parents, children = await _lines(store)
    assert len(parents) == 3
    assert len({one.graph for one in children}) == 1, "the graph is made once"
    for parent, child in zip(parents, children, strict=True):
        graph = await store.graph("m", child.graph)
        weights = await store.weights("m", child.number)
        check_golden(open_session(graph.onnx, weights), graph.golden_inputs, child.golden, child.tolerance)
        recipe = recipe_of(graph.onnx)
        assert recipe is not None
        made = recipe.tensors(load(await store.weights("m", parent.number)))
        for name, tensor in load(weights).items():
            np.testing.assert_array_equal(tensor, made[name])
        assert child.lineage["parent"] == parent.number
        assert child.lineage["method"] == method


@pytest.mark.parametrize("stage", ["publish.before", "publish.after", "compress.after"])
@pytest.mark.parametrize("count", [1, 2])
async def test_a_trainer_that_is_killed_neither_skips_nor_doubles_a_child(stage: str, count: int) -> None:
    store = MemoryStore()
    await _outcomes(store, "a")
    await _outcomes(store, "b")
    with pytest.raises(Killed):
        await _train(store, killed_at=stage, count=count)
    await _train(store)
    await _assert_paired(store)
    assert len((await _lines(store))[0]) == 3
    await _train(store)
    assert len((await _lines(store))[1]) == 3


async def test_static_scales_wait_for_predictions_and_then_stay() -> None:
    store = MemoryStore()
    learning = Trainer(_spec("static_int8"), store)
    await learning.start()
    assert not (await _lines(store))[1], "nothing to calibrate on"
    for batch in "ab":
        await _outcomes(store, batch, rows=100)
        while await learning.step(0.01):
            pass
    await _outcomes(store, "c", rows=100)
    await _train(store, "static_int8")
    parents, children = await _lines(store)
    assert [one.parent for one in children] == [one.number for one in parents[1:]]
    assert len({one.graph for one in children}) == 1, "the scales are those of the first calibration"


async def test_another_method_takes_over_at_the_next_version() -> None:
    store = MemoryStore()
    await _train(store, "dynamic_int8")
    await _outcomes(store, "a")
    await _train(store, "fp16")
    _, children = await _lines(store)
    assert [one.lineage["method"] for one in children] == ["dynamic_int8", "fp16"]


async def test_a_method_that_does_not_apply_is_said_at_once() -> None:
    with pytest.raises(NotApplicable, match="at least 256 columns"):
        await _train(MemoryStore(), "int4")


async def test_old_weights_go_but_for_those_that_somebody_may_still_open() -> None:
    store = MemoryStore()
    for batch in range(40):
        await _outcomes(store, f"b{batch}")
    await _train(store)
    assert (await store.versions("m", 1))[0].number == 82
    await store.set_policy("m", Policy(variants=(Variant(name="main", version=35),)), 0)
    assert all(number not in store._models["m"].weights for number in range(1, 31))  # pyright: ignore[reportPrivateUsage]
    await forget(store, "m", 82, 139)
    left = sorted(store._models["m"].weights)  # pyright: ignore[reportPrivateUsage]
    assert left == [35, 81, 82], "the pinned one, and each line's newest"
