"""A replica's own life: it follows the board, opens versions, swaps them in, and reports what it runs under a lease."""

import asyncio
import contextlib
import logging
import os
import uuid
from collections.abc import Awaitable, Callable
from functools import partial
from time import monotonic

import psutil

from router import Planner
from serving.access import Access
from serving.commit import GroupCommit
from serving.dedicated.link import Link
from serving.hosted import Hosted, State
from serving.metrics import ReplicaMetrics, joined
from serving.settings import ServingSettings
from serving.shadow import ShadowQueue
from serving.swapping import Reach, Swapping
from serving.traced import TracedCommit
from store import tracing
from store.errors import StoreError, Unavailable
from store.expectations import read_expectations
from store.following import Follower
from store.policy import Applied, Report
from store.protocols import START
from store.redis_store import RedisStore
from store.spec import ModelRecord

log = logging.getLogger(__name__)
_LIST_EVERY_S = 1.0
"""How soon a model that is added is served."""
_FIRST_LOOK_S = 10.0
_LOOK_S = 0.01
_FEATURES_S = 0.05
"""How often streaming features take in what is new; when a version comes, they do at once."""


def new_name() -> str:
    return uuid.uuid4().hex[:12]


class Replica:
    """Everything that the routes share. Call `start` on the event loop that serves them.

    Args:
        reach: finds the hosts of an application by its name; None where there are none to find.
        name: what it is called; empty makes a name.
    """

    def __init__(self, settings: ServingSettings, reach: Reach | None = None, name: str = "") -> None:
        self.settings = settings
        self.name = name or new_name()
        self.store = RedisStore(settings.redis_url, settings.prefix, settings.redis_timeout_s)
        self.metrics = ReplicaMetrics()
        self.access = Access(settings.token, settings.api_key, settings.require_key, settings.replicas)
        self.models: dict[str, Hosted] = {}
        self.applied: dict[str, Applied] = {}
        self.control_away = "not connected yet"
        self._swapping = Swapping(self.store, self.metrics, settings.prefix, reach)
        self._leaving: dict[str, asyncio.Task[None]] = {}
        self._failing: dict[str, str] = {}
        self._seen = START
        self._tasks: list[asyncio.Task[None]] = []
        self._looked = asyncio.Event()
        self._process = psutil.Process()
        self._exposition = ""
        self._listed_at = monotonic() - _LIST_EVERY_S - 1.0

    async def start(self) -> None:
        mode, entries = self.settings.when_redis_is_away, self.settings.buffer_entries
        self.settings.telemetry.trace(f"replica:{self.name}")
        commit = TracedCommit if self.settings.telemetry.traces else GroupCommit
        self.log = commit(self.store, mode, entries)
        self.shadow_queue = ShadowQueue(self.log, self.settings.shadow_queue)
        self._watch()
        first_look = self._looked
        self._tasks = [asyncio.create_task(self._supervised(task)) for task in (self._follow, self._renew, self._stream)]
        # Nobody asks a replica that is starting: once it is asked, it knows the models that there are.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(first_look.wait(), _FIRST_LOOK_S)

    async def close(self) -> None:
        tasks = [*self._tasks, *self._leaving.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.shadow_queue.close()
        await self.store.close()
        if self.settings.telemetry.traces:
            await asyncio.to_thread(tracing.stop)

    @property
    def away(self) -> dict[str, str]:
        """What this replica cannot reach, and why."""
        reasons = {"prediction log": self.log.away, "control": self.control_away}
        return {name: why for name, why in reasons.items() if why} | {f"model {k}": why for k, why in self._failing.items()}

    @property
    def ready(self) -> bool:
        """Whether predictions can be answered and logged. Models that have no version yet make no other one wait."""
        if self.log.away and self.settings.when_redis_is_away == "durable":
            return False
        return len(self.waiting) < len(self.models)

    @property
    def waiting(self) -> list[str]:
        """Models without a version for their default arm."""
        found = (name for name, one in self.models.items() if one.state.snapshot.policy.default not in one.state.live)
        return sorted(found)

    @property
    def most_ongoing(self) -> int:
        """How many requests of one model may be at work: where there are others, it does not get all places."""
        most = self.settings.max_ongoing
        return most if len(self.models) < 2 else max(1, most // 2)

    @property
    def look(self) -> asyncio.Event:
        """Set when this replica has next looked at the board and applied what it found."""
        return self._looked

    def _watch(self) -> None:
        metrics, log, shadows = self.metrics, self.log, self.shadow_queue
        metrics.queues.labels("log").set_function(lambda: log.waiting)
        metrics.queues.labels("shadows").set_function(lambda: shadows.waiting)
        metrics.queues.labels("batches").set_function(self._waiting_for_batches)
        metrics.total("tidemill_log_lost", "Log entries lost while Redis was away", "", lambda: {"": log.lost})
        metrics.total("tidemill_shadows", "Shadow scores by what became of them", "verdict", lambda: shadows.counts)

    def _waiting_for_batches(self) -> int:
        """Requests that wait for a batch to variants' own deployments."""
        live = [one for hosted in self.models.values() for one in hosted.state.live.values()]
        return sum(one.session.waiting for one in live if isinstance(one.session, Link))

    async def measure(self) -> None:
        """Bring the metrics that are read, not counted, up to date."""
        self.metrics.buffered.set(self.log.buffered)
        self.metrics.resident.set(self._process.memory_info().rss)
        self._exposition = await joined(self.metrics.parts())

    def report(self) -> Report:
        return Report(
            name=self.name,
            pid=os.getpid(),
            ready=self.ready,
            applied=self.applied,
            away=self.away,
            metrics=self._exposition,
            seen=self._seen,
            used=self.access.used(),
            counters={
                "lost": self.log.lost,
                "buffered": self.log.buffered,
                "shadows": dict(self.shadow_queue.counts),
                "expectations": {
                    name: {"revision": watch.revision, "violated": violated}
                    for name, one in self.models.items()
                    if (watch := one.watch) is not None and (violated := watch.told())
                },
            },
        )

    async def _supervised(self, work: Callable[[], Awaitable[None]]) -> None:
        """Repeat a task for ever; what it meets is said in `away`, logged, and tried again."""
        while True:
            try:
                await work()
            except StoreError as error:
                self.control_away = str(error)
            except Exception as error:
                self.control_away = f"{type(error).__name__}: {error}"
                log.exception("a replica's task failed and is started again")
            await asyncio.sleep(0.2)

    async def _follow(self) -> None:
        """Tail the control stream. Boards are read whole, so a missed entry does no harm."""
        at = START
        while True:
            await self._apply_all(at)
            self.control_away = ""
            looked, self._looked = self._looked, asyncio.Event()
            looked.set()
            at = await self.store.changes(at, block_s=1.0)

    async def _stream(self) -> None:
        """Keep streaming features up to date; after a failure from the snapshot, if that is further."""
        behind = True
        while True:
            followers = [one.features for one in self.models.values() if one.features is not None]
            for features in followers:
                if behind:
                    await features.resume()
                await features.catch_up()
            behind = False
            # Waiting for entries would hold up the connection on which everything else waits.
            await asyncio.sleep(_FEATURES_S if followers else _LIST_EVERY_S)

    async def _renew(self) -> None:
        while True:
            if self.access.keys is not None:
                # With Redis away there may be no request that notices; this does, and clears it when it is back.
                try:
                    await self.store.ping()
                    if self.settings.when_redis_is_away == "durable":
                        self.log.away = ""
                except Unavailable as error:
                    self.log.away = str(error)
                    raise
                await self.measure()
                await self.store.report(self.report(), self.settings.lease_s)
            await asyncio.sleep(self.settings.lease_s / 5)

    async def _apply_all(self, at: str) -> None:
        """Do as the boards say, and now and then as the list of models does, as both are after the change at `at`."""
        if monotonic() - self._listed_at > _LIST_EVERY_S:
            self.access.keys = {key.id: key for key in await self.store.keys()}
            others = [one for one in await self.store.reports() if one.role == "replica" and one.name != self.name]
            self.access.divide([one.used for one in others])
            records = {name: record for name, record in (await self.store.models()).items() if record.loaded}
            for name in self.models.keys() - records.keys():
                self._let_go(name)
            for name in self._failing.keys() - records.keys():
                del self._failing[name]
            for name, record in records.items():
                if name not in self.models and name not in self._leaving:
                    await self._tried(name, partial(self._host, record))
            await asyncio.gather(*(self._tried(one.record.name, partial(self._expect, one)) for one in self.models.values()))
            await self._swapping.refresh(self.models.values())
            self._listed_at = monotonic()
            if not self._leaving:
                self._seen = at
        for name, hosted in list(self.models.items()):
            await self._tried(name, partial(self._apply, hosted))

    async def _tried(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """Keep what is wrong with one model from all others; with the store away, nobody is better off."""
        try:
            await work()
            self._failing.pop(name, None)
        except Unavailable:
            raise
        except Exception as error:
            if name not in self._failing:
                log.exception("model '%s' cannot be brought up to date", name)
            self._failing[name] = f"{type(error).__name__}: {error}"

    async def _host(self, record: ModelRecord) -> None:
        features = Follower(record, self.store) if record.streaming else None  # pyright: ignore[reportArgumentType]
        if features is not None:
            await features.resume()
        await self._apply(Hosted(record, self.settings.max_instances, self.metrics, features))

    async def _expect(self, hosted: Hosted) -> None:
        hosted.expect(await read_expectations(self.store, hosted.record.name))

    def _let_go(self, name: str) -> None:
        """Serve a model no more: what is at work ends as it would have, then nothing is left of it."""
        hosted = self.models.pop(name)
        self.applied.pop(name, None)
        if hosted.ongoing:
            self._leaving[name] = asyncio.create_task(self._released_later(hosted))
        else:
            self._release(hosted)

    async def _released_later(self, hosted: Hosted) -> None:
        while hosted.ongoing:  # noqa: ASYNC110 - requests, which come by the thousand, have nobody to tell
            await asyncio.sleep(_LOOK_S)
        self._release(hosted)
        del self._leaving[hosted.record.name]

    def _release(self, hosted: Hosted) -> None:
        name = hosted.record.name
        hosted.close()
        for keeper in (self.shadow_queue, self.metrics, self.access):
            keeper.forget(name)

    async def _apply(self, hosted: Hosted) -> None:
        name = hosted.record.name
        snapshot = await self.store.snapshot(name)
        # After the snapshot: of whatever its versions have learned from, the outcomes are there by now.
        if hosted.features is not None:
            await hosted.features.catch_up()
        at = hosted.features.at.outcomes if hosted.features is not None else START
        before = self.applied.get(name)
        same = before and (before.epoch, before.channel_seq) == (snapshot.epoch, snapshot.channel_seq)
        if before and same and not self._swapping.moving(hosted):
            if before.outcomes != at:
                self.applied[name] = before.model_copy(update={"outcomes": at})
                await self.store.report(self.report(), self.settings.lease_s)
            return
        live, failed = await self._swapping.versions(hosted, snapshot)
        hosted.state = State(snapshot, Planner(snapshot.policy), live)
        # Not before its version is open: one more model does not make a replica unready that answers others.
        self.models[name] = hosted
        versions = {variant: version.number for variant, version in live.items()}
        placed = {variant: one.session.app for variant, one in live.items() if isinstance(one.session, Link)}
        self.applied[name] = Applied(
            epoch=snapshot.epoch, channel_seq=snapshot.channel_seq, versions=versions, failed=failed, placed=placed, outcomes=at
        )
        self.metrics.version.remove_by_labels({"model": name})
        for variant, number in versions.items():
            self.metrics.version.labels(name, variant).set(number)
        await self.store.report(self.report(), self.settings.lease_s)
