"""Shadows: score after the answer, in a bounded queue that drops and counts when it is full."""

import asyncio
import logging
from collections import Counter
from time import time

from serving.commit import GroupCommit
from serving.errors import ServingError
from serving.hosted import Answered, Hosted, State
from store.records import Shadows, pack_log

log = logging.getLogger(__name__)


class ShadowQueue:
    """Runs shadows one request at a time. Nothing that goes wrong here reaches a caller: it is counted."""

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
            hosted, state, answered = await self._queue.get()
            for (variant, experiment), rows in answered.shadows.items():
                try:
                    await self._score(hosted, state, answered, variant, experiment, rows)
                    self.counts["scored"] += 1
                except ServingError:
                    self.counts["failed"] += 1
                except Exception:  # the worker must outlive what nobody foresaw
                    log.exception("a shadow failed")
                    self.counts["failed"] += 1
            # A queue that is never empty must not keep the loop from the requests.
            await asyncio.sleep(0)

    async def _score(
        self, hosted: Hosted, state: State, answered: Answered, variant: str, experiment: str, rows: list[int]
    ) -> None:
        started = time()
        predictions = answered.predictions
        outputs = hosted.score(state, variant, [predictions.rows[row] for row in rows])
        record = Shadows(
            at=started,
            ids=[predictions.ids[row] for row in rows],
            outputs=outputs,
            variant=variant,
            version=state.live[variant].number,
            experiment=experiment,
            latency_s=time() - started,
        )
        await self._log.append(hosted.stream, pack_log(record))
