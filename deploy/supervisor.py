"""The supervisor of trainers: one for every model on record that says where it is declared, and none for others.

It is the same on one machine, where it is a Ray actor, and on a cluster, where it is a deployment of one replica. Trainers
are actors that it owns: Ray starts one again that dies, and ends all of them when the supervisor ends. It then starts them
again, and they go on from what the store holds.
"""

import asyncio
import logging
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import ray
import uvloop

from store.errors import SpecError, StoreError
from store.names import CONTROL
from store.policy import Report
from store.protocols import START, Store
from store.redis_store import RedisStore
from store.spec import ModelRecord
from store.telemetry import QUIET, Telemetry
from trainer.actor import TrainerActor
from trainer.archiving import NO_ARCHIVE, ArchiveSettings

log = logging.getLogger(__name__)
LEASE_S = 5.0
_LIST_EVERY_S = 1.0
T = TypeVar("T")


class Supervisor(Generic[T]):
    """Compares the models on record with the trainers that run.

    Args:
        start: called with a model's name and where it is declared; returns its trainer.
        stop: ends a trainer; when it returns, that one does nothing any more.
        declared: models to put on record first, but for those that were removed meanwhile.
    """

    def __init__(
        self,
        store: Store,
        start: Callable[[str, str], T],
        stop: Callable[[T], None],
        declared: Sequence[ModelRecord] = (),
    ) -> None:
        self._store = store
        self._start, self._stop = start, stop
        self._declared = list(declared)
        self._running: dict[str, tuple[str, T]] = {}
        self.problems: dict[str, str] = {}
        """What keeps a declared model from being on record."""
        self.seen = START
        """The last change of the models that is known here."""

    async def refresh(self) -> None:
        """Stop and start trainers, so that they are those of the models on record."""
        await self._register()
        seen = await self._store.last(CONTROL)
        wanted = {name: record.source for name, record in (await self._store.models()).items() if record.source}
        for name, (source, trainer) in list(self._running.items()):
            if wanted.get(name) != source:
                self._stop(trainer)
                del self._running[name]
        for name in wanted.keys() - self._running.keys():
            self._running[name] = wanted[name], self._start(name, wanted[name])
        self.seen = seen

    async def _register(self) -> None:
        removed = await self._store.removed() if self._declared else {}
        while self._declared:
            record = self._declared[0]
            if record.name not in removed:
                try:
                    await self._store.register(record)
                except SpecError as error:
                    self.problems[record.name] = str(error)
            self._declared.pop(0)


class SupervisorActor:
    """Runs a supervisor for as long as it lives.

    Args:
        resources: what each trainer asks Ray for, as options of an actor.
        seed: replaces the specs' own, if given.
    """

    def __init__(
        self,
        redis_url: str,
        prefix: str,
        resources: dict[str, float],
        seed: int | None = None,
        declared: Sequence[ModelRecord] = (),
        telemetry: Telemetry = QUIET,
        archive: ArchiveSettings = NO_ARCHIVE,
    ) -> None:
        self._archive = archive
        self._url, self._prefix, self._seed = redis_url, prefix, seed
        self._telemetry = telemetry
        telemetry.start("role", "supervisor")
        # Never retried: a call could learn twice.
        self._trainers = ray.remote(TrainerActor).options(  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
            max_restarts=-1, max_task_retries=0, **resources
        )
        self._declared = declared
        threading.Thread(target=lambda: uvloop.run(self._run()), daemon=True, name="supervisor").start()

    async def _run(self) -> None:
        store = RedisStore(self._url, self._prefix)
        supervisor: Supervisor[Any] = Supervisor(store, self._start, ray.kill, self._declared)  # pyright: ignore[reportArgumentType]
        while True:
            problems = {}
            try:
                await supervisor.refresh()
                problems = {f"model {name}": why for name, why in supervisor.problems.items()}
            except StoreError:
                log.warning("the store is away")
            except Exception as error:
                log.exception("trainers cannot be looked after")
                problems = {"trainers": f"{type(error).__name__}: {error}"}
            report = Report(
                name="supervisor", role="supervisor", pid=os.getpid(), ready=not problems, away=problems, seen=supervisor.seen
            )
            try:
                await store.report(report, LEASE_S)
            except StoreError:
                log.warning("the store is away")
            await asyncio.sleep(_LIST_EVERY_S)

    def _start(self, model: str, source: str) -> Any:
        return self._trainers.remote(model, source, self._url, self._prefix, self._seed, self._telemetry, self._archive)


def start_supervisor(
    redis_url: str,
    prefix: str,
    seed: int | None = None,
    telemetry: Telemetry = QUIET,
    *,
    gpus: float = 0.0,
    archive: ArchiveSettings = NO_ARCHIVE,
) -> Any:
    """Start looking after trainers on one machine, each with `gpus`. Ray restarts the supervisor when it dies."""
    actor = ray.remote(SupervisorActor).options(  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
        name="supervisor", namespace="tidemill", num_cpus=0.1, max_restarts=-1, max_task_retries=0
    )
    return actor.remote(redis_url, prefix, {"num_cpus": 0.1, "num_gpus": gpus}, seed, (), telemetry, archive)
