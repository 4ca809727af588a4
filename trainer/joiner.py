"""Labels of models without a trainer, joined all the same: their experiments need outcomes. One Ray actor for all."""

import asyncio
import logging
import os
import threading
from typing import Any

import ray
import uvloop

from store import garbage
from store.errors import StoreError
from store.names import CONTROL
from store.policy import Report
from store.protocols import START
from store.redis_store import RedisStore
from store.telemetry import QUIET, Telemetry
from trainer.archiving import NO_ARCHIVE, ArchiveSettings, archived
from trainer.errors import TrainerError
from trainer.giving_way import NICENESS
from trainer.joining import Joining

log = logging.getLogger(__name__)
LEASE_S = 5.0
_LIST_EVERY_S = 1.0


class Joiner:
    """Joins for every model of a store that cannot be trained; `refresh` takes in what is new and drops what got a trainer."""

    def __init__(self, store: RedisStore, archive: ArchiveSettings = NO_ARCHIVE) -> None:
        self._store = store
        self._archive = archive
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self.problems: dict[str, str] = {}
        """What keeps a model's labels from being joined."""
        self.seen = START
        """The last change of the models that is known here."""

    async def refresh(self) -> None:
        seen = await self._store.last(CONTROL)
        records = {name: record for name, record in (await self._store.models()).items() if not record.trainable}
        gone = self._tasks.keys() - records.keys()
        await _ended([self._tasks.pop(name) for name in gone])
        for name in gone:
            self.problems.pop(name, None)
        for name in records.keys() - self._tasks.keys():
            self._tasks[name] = asyncio.create_task(self._join_for_ever(name))
        self.seen = seen

    async def close(self) -> None:
        await _ended(list(self._tasks.values()))

    async def _join_for_ever(self, model: str) -> None:
        """Start over from the store after anything that fails: it holds all that counts."""
        pause_s = 0.2
        while True:
            try:
                record = (await self._store.models())[model]
                async with archived(record, self._store, self._archive) as archiving:
                    joining = Joining(record, self._store, archiving=archiving)  # pyright: ignore[reportArgumentType]
                    await joining.start()
                    while True:
                        await joining.step()
                        self._tell(model, archiving.problem if archiving is not None else "")
            except (StoreError, TrainerError) as error:
                self.problems[model] = str(error)
            except Exception as error:
                log.exception("the label join of model '%s' failed and is started again", model)
                self.problems[model] = f"{type(error).__name__}: {error}"
            await asyncio.sleep(pause_s)
            pause_s = min(5.0, pause_s * 2)

    def _tell(self, model: str, problem: str) -> None:
        if problem:
            self.problems[model] = problem
        else:
            self.problems.pop(model, None)


class JoinActor:
    """Runs a joiner for as long as it lives. Create it through `start_joiner`."""

    def __init__(
        self, redis_url: str, prefix: str, telemetry: Telemetry = QUIET, archive: ArchiveSettings = NO_ARCHIVE
    ) -> None:
        self._url, self._prefix, self._archive = redis_url, prefix, archive
        telemetry.start("role", "joiner")
        os.nice(NICENESS)
        threading.Thread(target=lambda: uvloop.run(self._run()), daemon=True, name="joiner").start()

    async def _run(self) -> None:
        store = RedisStore(self._url, self._prefix)
        joiner = Joiner(store, self._archive)
        garbage.begin()
        while True:
            garbage.settle()
            try:
                await joiner.refresh()
                away = {f"joining labels of {name}": why for name, why in joiner.problems.items()}
                report = Report(name="joiner", role="joiner", pid=os.getpid(), ready=not away, away=away, seen=joiner.seen)
                await store.report(report, LEASE_S)
            except StoreError:
                pass  # it is away, as everybody else's reports say; this one is back with it
            await asyncio.sleep(_LIST_EVERY_S)


async def _ended(tasks: list[asyncio.Task[None]]) -> None:
    """Cancel tasks; return when they have ended."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def start_joiner(redis_url: str, prefix: str, telemetry: Telemetry = QUIET, archive: ArchiveSettings = NO_ARCHIVE) -> Any:
    """Start joining for models without a trainer. Ray restarts it when it dies."""
    actor = ray.remote(JoinActor).options(  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
        name="joiner", namespace="tidemill", num_cpus=0.1, max_restarts=-1, max_task_retries=0
    )
    return actor.remote(redis_url, prefix, telemetry, archive)
