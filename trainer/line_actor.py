"""The trainer of a line as a Ray actor of its own: it starts over after anything, as the model's does."""

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Gauge, generate_latest

from store.errors import StoreError
from store.policy import Report
from store.redis_store import RedisStore
from store.telemetry import QUIET, Telemetry
from trainer.actor import LEASE_S, TrainerActor

if TYPE_CHECKING:
    from trainer.lines import LineTrainer


class LineActor(TrainerActor):
    """Trains a line of a model, declared at `source` (package.module:attribute), for as long as it lives."""

    def __init__(
        self, model: str, line: str, source: str, redis_url: str, prefix: str, seed: int | None, telemetry: Telemetry = QUIET
    ) -> None:
        self._line = line
        self._learning: LineTrainer | None = None
        super().__init__(model, source, redis_url, prefix, seed, telemetry)

    async def _train(self) -> None:
        from trainer.lines import LineTrainer  # noqa: PLC0415 - torch, which whoever starts this actor can do without

        spec, store = self._spec(), RedisStore(self._url, self._prefix)
        try:
            self._learning = LineTrainer(spec, store, self._line, tell=self._tracking.tell)
            await self._learn(self._learning)
        finally:
            self._learning = None
            await store.close()

    async def _report_for_ever(self, store: RedisStore) -> None:
        registry = CollectorRegistry()
        names, labels = ["model", "line"], (self._model, self._line)
        version = Gauge("tidemill_line_version", "Newest version of a line", names, registry=registry)
        caught_up = Gauge("tidemill_line_caught_up", "Whether a line has been where main was", names, registry=registry)
        while True:
            learning, progress = self._learning, dict[str, object]()
            if learning is not None and learning.begun:
                progress = learning.progress
                version.labels(*labels).set(learning.learning.version)
                caught_up.labels(*labels).set(learning.caught_up)
            report = Report(
                name=f"trainer:{self._model}:{self._line}",
                role="trainer",
                pid=os.getpid(),
                ready=not self._problem,
                away={"trainer": self._problem} if self._problem else {},
                counters=progress,
                metrics=generate_latest(registry).decode(),
            )
            with contextlib.suppress(StoreError):  # which is what the trainer's problem says, too
                await store.report(report, LEASE_S)
            await asyncio.sleep(LEASE_S / 5)
