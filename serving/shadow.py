"""Shadows: score after the answer, in a bounded queue that drops and counts when it is full."""

import asyncio
import logging
from collections import Counter
from time import time
from typing import NamedTuple

from serving.commit import GroupCommit
from serving.errors import LogUnavailable, ServingError
from serving.hosted import Answered, Hosted, State
from store.records import Shadows, pack_log
from store.schema import Row

log = logging.getLogger(__name__)


GATHER_S, GATHER_ROWS = 0.01, 256
"""Shadows are in no hurry: those of a moment are scored, and logged, together."""


class _Work(NamedTuple):
    """The rows of one request that one shadowing variant scores."""

    hosted: Hosted
    state: State
    variant: str
    experiment: str
    ids: list[str]
    rows: list[Row]


class ShadowQueue:
    """Runs shadows a little later. Nothing that goes wrong here reaches a caller: it is counted."""

    def __init__(self, log: GroupCommit, limit: int) -> None:
        self._log = log
        self._queue: asyncio.Queue[tuple[Hosted, State, Answered]] = asyncio.Queue(limit)
        self.counts: Counter[str] = Counter()
        self._worker = asyncio.create_task(self._run())

    def offer(self, hosted: Hosted, state: State, answered: Answered) -> None:
        """Queue the shadows of an answered request, or drop and count them; never waits."""
        try:
            self._queue.put_nowait((hosted, state, answered))
        except asyncio.QueueFull:
            self.counts["dropped"] += len(answered.shadows)

    async def close(self) -> None:
        self._worker.cancel()
        await asyncio.gather(self._worker, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            works = _split(*await self._queue.get())
            await asyncio.sleep(GATHER_S)
            while not self._queue.empty() and sum(len(work.rows) for work in works) < GATHER_ROWS:
                works += _split(*self._queue.get_nowait())
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
            outputs = first.hosted.score(first.state, first.variant, [row for work in works for row in work.rows])
            record = Shadows(
                at=started,
                ids=[id_ for work in works for id_ in work.ids],
                outputs=outputs,
                variant=first.variant,
                version=first.state.live[first.variant].number,
                experiment=first.experiment,
                latency_s=time() - started,
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
        else:
            self.counts["scored"] += len(works)


def _split(hosted: Hosted, state: State, answered: Answered) -> list[_Work]:
    predictions = answered.predictions
    return [
        _Work(
            hosted, state, variant, experiment, [predictions.ids[row] for row in rows], [predictions.rows[row] for row in rows]
        )
        for (variant, experiment), rows in answered.shadows.items()
    ]
