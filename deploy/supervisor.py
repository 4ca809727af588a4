"""The supervisor of trainers: one for every model on record that says where it is declared and one for each line that learns
beside its main, and none for others.

It is the same on one machine, where it is a Ray actor, and on a cluster, where it is a deployment of one replica. Trainers
are actors that it owns: Ray starts one again that dies, and ends all of them when the supervisor ends. It then starts them
again, and they go on from what the store holds.
"""

import asyncio
import logging
import os
import threading
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, Generic, NamedTuple, TypeVar

import ray
import uvloop

from deploy.answering import Answering, Order, start
from store.errors import SpecError, StoreError
from store.lines import read_lines
from store.names import CONTROL
from store.policy import MAIN, Report
from store.protocols import START, Store
from store.redis_store import RedisStore
from store.requests import Request
from store.spec import ModelRecord
from store.telemetry import QUIET, Telemetry
from trainer.actor import TrainerActor
from trainer.archiving import NO_ARCHIVE, ArchiveSettings
from trainer.line_actor import LineActor

log = logging.getLogger(__name__)
LEASE_S = 5.0
_LIST_EVERY_S = 1.0
T = TypeVar("T")


class _Trained(NamedTuple):
    """What one trainer trains: a line as it came with revision `born` of the model's lines, or main."""

    model: str
    source: str
    line: str = MAIN
    born: int = 0


class Supervisor(Generic[T]):
    """Compares the models on record with the trainers that run.

    Args:
        start: called with a model's name, where it is declared, and the line: returns its trainer.
        stop: ends a trainer; when it returns, that one does nothing any more.
        declared: models to put on record first, but for those that were removed meanwhile.
    """

    def __init__(
        self,
        store: Store,
        start: Callable[[str, str, str], T],
        stop: Callable[[T], None],
        declared: Sequence[ModelRecord] = (),
    ) -> None:
        self._store = store
        self._start, self._stop = start, stop
        self._declared = list(declared)
        self._running: dict[_Trained, T] = {}
        self.problems: dict[str, str] = {}
        """What keeps a declared model from being on record."""
        self.seen = START
        """The last change of the models that is known here."""

    async def refresh(self) -> None:
        """Stop and start trainers, so that they are those of the models on record."""
        await self._register()
        seen = await self._store.last(CONTROL)
        wanted = await self._wanted()
        for trained in self._running.keys() - wanted:
            self._stop(self._running.pop(trained))
        for trained in sorted(wanted - self._running.keys()):
            self._running[trained] = self._start(trained.model, trained.source, trained.line)
        self.seen = seen

    async def _wanted(self) -> set["_Trained"]:
        wanted = set[_Trained]()
        for model, record in (await self._store.models()).items():
            if record.source:
                active = (await read_lines(self._store, model)).active
                lines = (_Trained(model, record.source, line.name, line.born) for line in active)
                wanted |= {_Trained(model, record.source), *lines}
        return wanted

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
        self._trainers, self._lines = (
            ray.remote(actor).options(max_restarts=-1, max_task_retries=0, **resources)  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
            for actor in (TrainerActor, LineActor)
        )
        self._declared = declared
        threading.Thread(target=lambda: uvloop.run(self._run()), daemon=True, name="supervisor").start()

    async def _run(self) -> None:
        store = RedisStore(self._url, self._prefix)
        answering = Answering(store, self._order, start)  # pyright: ignore[reportArgumentType]
        supervisor: Supervisor[Any] = Supervisor(store, self._start, ray.kill, self._declared)  # pyright: ignore[reportArgumentType]
        while True:
            problems = {}
            try:
                await supervisor.refresh()
                if self._archive.folder:
                    await answering.refresh(monotonic())
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

    def _order(self, model: str, request: Request, least: int) -> Order:
        return Order(
            redis_url=self._url, prefix=self._prefix, archive=self._archive.folder, seed=self._seed,
            model=model, request=request, least=least,
        )  # fmt: skip

    def _start(self, model: str, source: str, line: str) -> Any:
        if line != MAIN:
            return self._lines.remote(model, line, source, self._url, self._prefix, self._seed, self._telemetry)
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
