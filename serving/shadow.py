"""Shadows: score after the answer, in a bounded queue that drops and counts when it is full."""

import asyncio
import logging
from collections import Counter
from time import time
from typing import NamedTuple, TypeVar

from router import Plan
from serving.arms import Runner, failure_of
from serving.commit import GroupCommit
from serving.errors import LogUnavailable, NotReady, ServingError, VersionFailed
from serving.hosted import Answered, Hosted, State
from store.names import log_stream
from store.records import Shadows, pack_log
from store.schema import Row

log = logging.getLogger(__name__)
T = TypeVar("T")

GATHER_S, GATHER_ROWS = 0.01, 256
"""Shadows are in no hurry: those of a moment are scored, and logged, together."""


class _Work(NamedTuple):
    """The rows of one request that one shadowing variant scores."""

    hosted: Hosted
    state: State
    variant: str
    experiment: str
    answered: Answered
    picked: list[int]

    def of(self, values: list[T]) -> list[T]:
        return [values[index] for index in self.picked]

    @property
    def rows(self) -> list[Row]:
        return self.of(self.answered.predictions.rows)

    @property
    def answered_s(self) -> float:
        """The time of the runs that answered, for each of the picked rows, together."""
        predictions = self.answered.predictions
        sizes = Counter(predictions.arms)
        return sum(predictions.served[arm].latency_s / sizes[arm] for arm in self.of(predictions.arms))


_Queue = asyncio.Queue[tuple[Hosted, State, Answered]]


class ShadowQueue:
    """Runs shadows a little later, each model's in a queue of its own. Nothing that goes wrong here reaches a caller: it is
    counted."""

    def __init__(self, log: GroupCommit, limit: int) -> None:
        self._log = log
        self._limit = limit
        self._queues: dict[str, tuple[_Queue, asyncio.Task[None]]] = {}
        self._runner = Runner("shadows", threads=1)
        self.counts: Counter[str] = Counter()

    @property
    def waiting(self) -> int:
        """Requests whose shadows have not been scored yet."""
        return sum(queue.qsize() for queue, _ in self._queues.values())

    def offer(self, hosted: Hosted, state: State, answered: Answered) -> None:
        """Queue the shadows of an answered request, or drop and count them; never waits."""
        if hosted.stream not in self._queues:
            queue = _Queue(self._limit)
            self._queues[hosted.stream] = queue, asyncio.create_task(self._run(queue))
        try:
            self._queues[hosted.stream][0].put_nowait((hosted, state, answered))
        except asyncio.QueueFull:
            self.counts["dropped"] += len(answered.shadows)

    def forget(self, model: str) -> None:
        """Score no more for a model that is served no more."""
        if (stream := log_stream(model)) in self._queues:
            self._queues.pop(stream)[1].cancel()

    async def close(self) -> None:
        workers = [worker for _, worker in self._queues.values()]
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)

    async def _run(self, queue: _Queue) -> None:
        while True:
            works = _split(*await queue.get())
            await asyncio.sleep(GATHER_S)
            while not queue.empty() and sum(len(work.picked) for work in works) < GATHER_ROWS:
                works += _split(*queue.get_nowait())
            together: dict[tuple[int, int, str, str], list[_Work]] = {}
            for work in works:
                key = (id(work.hosted), id(work.state), work.variant, work.experiment)
                together.setdefault(key, []).append(work)
            for alike in together.values():
                await self._score(alike)

    async def _score(self, works: list[_Work]) -> None:
        """Score requests together; where that fails, each by itself, so that one bad row costs only its own request."""
        first, started = works[0], time()
        try:
            live = first.hosted.live(first.state, first.variant)
            scores, seconds = await self._runner.run(first.hosted, live, [row for work in works for row in work.rows])
            count = len(scores)
            record = Shadows(
                at=started,
                ids=[id_ for work in works for id_ in work.of(work.answered.predictions.ids)],
                units=[unit for work in works for unit in work.of(work.answered.predictions.units)],
                outputs=scores.tolist(),
                answers=[output for work in works for output in work.of(work.answered.predictions.outputs)],
                variant=first.variant,
                version=live.number,
                experiment=first.experiment,
                latency_s=seconds / count,
                slices=first.hosted.slices([row for work in works for row in work.rows]),
                answered_s=sum(work.answered_s for work in works) / count,
            )
            await self._log.append(first.hosted.stream, pack_log(record))
        except Exception as error:  # the worker must outlive what nobody foresaw
            if len(works) > 1 and not isinstance(error, LogUnavailable):
                for work in works:
                    await self._score([work])
                return
            if not isinstance(error, ServingError):
                log.exception("a shadow failed")
            self.counts["failed"] += len(works)
            if isinstance(error, VersionFailed | NotReady):
                self._tell(first, started, error)
        else:
            self.counts["scored"] += len(works)

    def _tell(self, work: _Work, at: float, error: Exception) -> None:
        predictions = work.answered.predictions
        plan = Plan(work.variant, 0.0, (work.experiment,))
        failure = failure_of(error, work.state, plan, True, at, work.of(predictions.ids), work.of(predictions.units))
        self._log.tell(work.hosted.stream, pack_log(failure))


def _split(hosted: Hosted, state: State, answered: Answered) -> list[_Work]:
    return [
        _Work(hosted, state, variant, experiment, answered, picked)
        for (variant, experiment), picked in answered.shadows.items()
    ]
