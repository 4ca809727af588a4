"""Shadows: they score after the answer, and nothing that happens to them reaches a caller."""

from collections.abc import AsyncIterator
from typing import Any, cast

import numpy as np
import pytest

from serving.commit import GroupCommit
from serving.errors import VersionFailed
from serving.hosted import Answered, Hosted, Live, State
from serving.shadow import ShadowQueue
from serving.testing import FickleLog, until
from store.records import Failures, Predictions, Served, Shadows, unpack_log
from store.schema import Row

pytestmark = pytest.mark.anyio

STATE = State(live={"b": Live(7, cast(Any, None))})


class Scorer:
    """As much of a hosted model as a shadow needs; raises `error` where there is one."""

    stream = "m:log"

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    def slices(self, rows: list[Row]) -> list[list[str]] | None:
        return None

    def live(self, state: State, variant: str) -> Live:
        return state.live[variant]

    def score(self, live: Live, rows: list[Row]) -> np.ndarray:
        if self.error is not None:
            raise self.error
        return np.array([[float(cast(float, row[0])) * 2] for row in rows])


def _answered(*ids: str) -> Answered:
    rows: list[Row] = [[float(index)] for index, _ in enumerate(ids)]
    outputs = [[0.5] for _ in ids]
    predictions = Predictions(0.0, list(ids), list(ids), rows, outputs, [Served("main", 1, 1.0)], [0] * len(ids))
    return Answered(predictions, {("b", "dark"): list(range(1, len(ids)))})


def _hosted(error: Exception | None = None) -> Hosted:
    return cast(Hosted, Scorer(error))


@pytest.fixture
async def log() -> FickleLog:
    return FickleLog()


@pytest.fixture
async def queue(log: FickleLog) -> AsyncIterator[ShadowQueue]:
    running = ShadowQueue(GroupCommit(log), limit=3)
    yield running
    await running.close()


async def test_a_shadow_scores_its_rows_and_joins_by_id(queue: ShadowQueue, log: FickleLog) -> None:
    queue.offer(_hosted(), STATE, _answered("x", "y", "z"))
    await until(lambda: queue.counts["scored"] == 1)
    [record] = [unpack_log(payload) for payload in await log.kept("m:log")]
    assert isinstance(record, Shadows)
    assert (record.ids, record.outputs) == (["y", "z"], [[2.0], [4.0]])
    assert (record.variant, record.version, record.experiment) == ("b", 7, "dark")


async def test_a_full_queue_drops_and_counts(queue: ShadowQueue, log: FickleLog) -> None:
    log.open.clear()
    queue.offer(_hosted(), STATE, _answered("x", "y"))
    await log.tried.wait()
    for _ in range(5):
        queue.offer(_hosted(), STATE, _answered("x", "y"))
    assert queue.counts["dropped"] == 2
    log.open.set()
    await until(lambda: queue.counts["scored"] == 4)
    assert queue.counts["dropped"] == 2


@pytest.mark.parametrize("error", [VersionFailed("version 7 could not answer"), ZeroDivisionError("a bug"), KeyError("b")])
async def test_a_failing_shadow_never_reaches_the_caller(queue: ShadowQueue, log: FickleLog, error: Exception) -> None:
    queue.offer(_hosted(error), STATE, _answered("x", "y"))
    await until(lambda: queue.counts["failed"] == 1)
    queue.offer(_hosted(), STATE, _answered("x", "y"))
    await until(lambda: queue.counts["scored"] == 1)
    records = [unpack_log(payload) for payload in await log.kept("m:log")]
    assert sum(isinstance(record, Shadows) for record in records) == 1
    failures = [record for record in records if isinstance(record, Failures)]
    assert [failure.experiments for failure in failures] == ([("dark",)] if isinstance(error, VersionFailed) else [])


async def test_a_shadow_survives_a_log_that_is_away(queue: ShadowQueue, log: FickleLog) -> None:
    log.broken = True
    queue.offer(_hosted(), STATE, _answered("x", "y"))
    await until(lambda: queue.counts["failed"] == 1)
    log.broken = False
    queue.offer(_hosted(), STATE, _answered("x", "y"))
    await until(lambda: queue.counts["scored"] == 1)
