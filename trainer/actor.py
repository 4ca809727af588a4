"""The trainer as a Ray actor: a thread of its own that keeps one model learning, whatever happens to the store."""

import asyncio
import contextlib
import logging
import os
import sys
import threading
from dataclasses import replace
from time import monotonic
from typing import TYPE_CHECKING

import uvloop
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from store import garbage
from store.errors import SpecError, StoreError
from store.policy import Report
from store.redis_store import RedisStore
from store.spec import ModelSpec, load_spec
from store.telemetry import QUIET, Telemetry
from trainer.archiving import NO_ARCHIVE, ArchiveSettings, Archiving, archived
from trainer.errors import TakenOver, TrainerError
from trainer.giving_way import NICENESS
from trainer.lag import LagMetric
from trainer.tracking import tracking

if TYPE_CHECKING:
    from trainer.lines import LineTrainer
    from trainer.loop import Trainer

log = logging.getLogger(__name__)
LEASE_S = 5.0
STARTING = "starting"
"""The problem of a trainer that has not come to its first step yet."""


class TrainerActor:
    """Trains a model, declared at `source` (package.module:attribute), for as long as it lives."""

    def __init__(
        self,
        model: str,
        source: str,
        redis_url: str,
        prefix: str,
        seed: int | None,
        telemetry: Telemetry = QUIET,
        archive: ArchiveSettings = NO_ARCHIVE,
    ) -> None:
        self._model, self._source, self._seed, self._archive = model, source, seed, archive
        self._archiving: Archiving | None = None
        self._tracking = tracking(telemetry.tracking, model)
        telemetry.start("trainer", model)
        self._url, self._prefix = redis_url, prefix
        self._problem = STARTING
        self._trainer: Trainer | None = None
        threading.Thread(target=lambda: uvloop.run(self._run()), daemon=True, name="trainer").start()

    async def _run(self) -> None:
        """Start over from the store after anything that fails: it holds all that counts."""
        store = RedisStore(self._url, self._prefix)
        if not await _awaited(store, self._model):
            _give_way()
        self._reporting = asyncio.create_task(self._report_for_ever(store))
        pause_s = 0.2
        while True:
            try:
                await self._train()
            except TakenOver:
                continue
            except (StoreError, TrainerError) as error:
                self._problem = str(error)
            except Exception as error:
                log.exception("the trainer of %s failed and is started again", self._model)
                self._problem = f"{type(error).__name__}: {error}"
            await asyncio.sleep(pause_s)
            pause_s = min(5.0, pause_s * 2)

    def _spec(self) -> ModelSpec:
        spec = load_spec(self._source)
        if spec.name != self._model:
            raise SpecError(f"spec '{self._source}' declares model '{spec.name}', not '{self._model}'")
        if self._seed is not None:
            spec = replace(spec, learning=spec.learning.model_copy(update={"seed": self._seed}))
        return spec

    async def _train(self) -> None:
        from trainer.loop import Trainer  # noqa: PLC0415 - torch, which whoever starts this actor can do without

        spec = self._spec()
        store = RedisStore(self._url, self._prefix)
        try:
            async with archived(spec.record, store, self._archive) as self._archiving:  # pyright: ignore[reportArgumentType]
                # Who removes a model takes it off the record, and a trainer that has not heard of it must not put it back.
                self._trainer = Trainer(spec, store, register=False, archiving=self._archiving, tell=self._tracking.tell)  # pyright: ignore[reportArgumentType]
                await self._learn(self._trainer)
        finally:
            self._trainer = self._archiving = None
            await store.close()

    async def _learn(self, trainer: "Trainer | LineTrainer") -> None:
        garbage.begin()
        await trainer.start()
        _give_way()
        self._problem = ""
        trainer.learning.learner.prepare()
        refreshed_at = monotonic()
        while True:
            await trainer.step()
            if monotonic() - refreshed_at > 1.0:
                refreshed_at = monotonic()
                garbage.settle()
                await trainer.refresh()

    async def _report_for_ever(self, store: RedisStore) -> None:
        registry = CollectorRegistry()
        busy = Counter("tidemill_trainer_busy_seconds", "Time by stage", ["model", "stage"], registry=registry)
        version = Gauge("tidemill_trainer_version", "Newest version", ["model"], registry=registry)
        alarms = Counter("tidemill_drift_alarms", "Alarms of drift", ["model", "kind"], registry=registry)
        lag = LagMetric(self._model)
        registry.register(lag)
        seen = _Seen()
        while True:
            trainer, progress = self._trainer, dict[str, object]()
            away = {"trainer": self._problem} if self._problem else {}
            away |= {"tracking": self._tracking.problem} if self._tracking.problem else {}
            if (archiving := self._archiving) is not None:
                progress["archived"] = archiving.at
                away |= {"archive": archiving.problem} if archiving.problem else {}
            if trainer is not None and trainer.begun:
                progress |= trainer.progress
                lag.follow(trainer.lag)
                for stage, seconds in trainer.busy_s.items():
                    busy.labels(self._model, stage).inc(seen.more(stage, seconds))
                version.labels(self._model).set(float(str(progress["version"])))
                drift = trainer.drift
                away |= {f"drift ({name})": f"switched off: {why}" for name, why in drift.get("off", {}).items()}
                for kind, count in drift.get("counts", {}).items():
                    alarms.labels(self._model, kind).inc(seen.more(f"drift {kind}", count))
            report = Report(
                name=f"trainer:{self._model}",
                role="trainer",
                pid=os.getpid(),
                ready=not self._problem,
                away=away,
                counters=progress,
                metrics=generate_latest(registry).decode(),
            )
            with contextlib.suppress(StoreError):  # which is what the trainer's problem says, too
                await store.report(report, LEASE_S)
            await asyncio.sleep(LEASE_S / 5)


async def _awaited(store: RedisStore, model: str) -> bool:
    """Whether nothing can be answered before this model has its first version."""
    with contextlib.suppress(StoreError):
        answering = any(report.role == "replica" and report.ready for report in await store.reports())
        return not answering and not (await store.snapshot(model)).channels
    return False


def _give_way() -> None:
    """Let serving go first from now on."""
    if sys.platform == "linux":  # where a thread has its own niceness, and those it starts inherit it
        for thread in threading.enumerate():
            with contextlib.suppress(ProcessLookupError):
                os.setpriority(os.PRIO_PROCESS, thread.native_id or 0, NICENESS)
    else:
        os.setpriority(os.PRIO_PROCESS, 0, NICENESS)


class _Seen:
    """How far rising numbers have been counted; one that falls has begun anew."""

    def __init__(self) -> None:
        self._seen: dict[str, float] = {}

    def more(self, name: str, number: float) -> float:
        """Return what has come since the last time."""
        before = self._seen.get(name, 0.0)
        self._seen[name] = number
        return number - before if number >= before else number
