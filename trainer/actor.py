"""The trainer as a Ray actor: a thread of its own that keeps one model learning, whatever happens to the store."""

import asyncio
import logging
import os
import threading
from dataclasses import replace
from time import monotonic
from typing import TYPE_CHECKING, Any

import ray
import uvloop
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from store.errors import StoreError
from store.policy import Report
from store.redis_store import RedisStore
from store.spec import load_spec
from store.telemetry import QUIET, Telemetry
from trainer.errors import TrainerError

if TYPE_CHECKING:
    from trainer.loop import Trainer

log = logging.getLogger(__name__)
LEASE_S = 5.0
NICENESS = 10
"""Learning gives way to serving."""


class TrainerActor:
    """Trains the model of `spec_path` for as long as it lives. Create it through `start_trainer`."""

    def __init__(self, spec_path: str, redis_url: str, prefix: str, seed: int | None, telemetry: Telemetry = QUIET) -> None:
        self._spec_path, self._seed = spec_path, seed
        telemetry.start("trainer", spec_path)
        self._url, self._prefix = redis_url, prefix
        self._problem = "starting"
        os.nice(NICENESS)
        threading.Thread(target=lambda: uvloop.run(self._run()), daemon=True, name="trainer").start()

    def problem(self) -> str:
        """What keeps the trainer from learning, empty when nothing does."""
        return self._problem

    async def _run(self) -> None:
        """Start over from the store after anything that fails: it holds all that counts."""
        pause_s = 0.2
        while True:
            try:
                await self._train()
            except (StoreError, TrainerError) as error:
                self._problem = str(error)
            except Exception as error:
                log.exception("the trainer of %s failed and is started again", self._spec_path)
                self._problem = f"{type(error).__name__}: {error}"
            await asyncio.sleep(pause_s)
            pause_s = min(5.0, pause_s * 2)

    async def _train(self) -> None:
        from trainer.loop import Trainer  # noqa: PLC0415 - torch, which whoever starts this actor can do without

        spec = load_spec(self._spec_path)
        if self._seed is not None:
            spec = replace(spec, learning=spec.learning.model_copy(update={"seed": self._seed}))
        store = RedisStore(self._url, self._prefix)
        trainer = Trainer(spec, store)  # pyright: ignore[reportArgumentType]
        reporting = asyncio.create_task(self._report_for_ever(spec.name, trainer, store))
        try:
            await trainer.start()
            self._problem = ""
            refreshed_at = monotonic()
            while True:
                await trainer.step()
                if monotonic() - refreshed_at > 1.0:
                    refreshed_at = monotonic()
                    await trainer.refresh()
        finally:
            reporting.cancel()
            await asyncio.gather(reporting, return_exceptions=True)
            await store.close()

    async def _report_for_ever(self, model: str, trainer: "Trainer", store: RedisStore) -> None:
        registry = CollectorRegistry()
        busy = Counter("tidemill_trainer_busy_seconds", "Time by stage", ["model", "stage"], registry=registry)
        version = Gauge("tidemill_trainer_version", "Newest version", ["model"], registry=registry)
        seen = dict.fromkeys(trainer.busy_s, 0.0)
        while True:
            for stage, seconds in trainer.busy_s.items():
                busy.labels(model, stage).inc(seconds - seen[stage])
                seen[stage] = seconds
            version.labels(model).set(float(str(trainer.progress["version"])))
            report = Report(
                name=f"trainer:{model}",
                role="trainer",
                pid=os.getpid(),
                ready=not self._problem,
                away={"trainer": self._problem} if self._problem else {},
                counters=dict(trainer.progress),
                metrics=generate_latest(registry).decode(),
            )
            await store.report(report, LEASE_S)
            await asyncio.sleep(LEASE_S / 5)


def start_trainer(spec_path: str, redis_url: str, prefix: str, seed: int | None = None, telemetry: Telemetry = QUIET) -> Any:
    """Start the trainer of a model. Ray restarts it when it dies; a call is never retried, it could learn twice."""
    actor = ray.remote(TrainerActor).options(  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
        name=f"trainer:{spec_path}", namespace="tidemill", num_cpus=0.1, max_restarts=-1, max_task_retries=0
    )
    return actor.remote(spec_path, redis_url, prefix, seed, telemetry)
