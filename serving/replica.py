"""A replica's own life: it follows the board, opens versions, swaps them in, and reports what it runs under a lease."""

import asyncio
import logging
import os
import uuid
from collections.abc import Awaitable, Callable
from functools import partial
from time import monotonic, time

import psutil

from router import Planner
from serving.access import Access
from serving.commit import GroupCommit
from serving.hosted import Hosted, Live, State
from serving.metrics import ReplicaMetrics
from serving.settings import ServingSettings
from serving.shadow import ShadowQueue
from store.artefact import SMALL_BYTES, Session, check_digests, check_golden, open_session
from store.errors import StoreError, Unavailable
from store.policy import Applied, Report, Snapshot
from store.protocols import START, Graph, Version
from store.redis_store import RedisStore

log = logging.getLogger(__name__)
_LIST_EVERY_S = 1.0
"""How soon a model that is added is served."""


class Replica:
    """Everything that the routes share. Call `start` on the event loop that serves them."""

    def __init__(self, settings: ServingSettings) -> None:
        self.settings = settings
        self.name = uuid.uuid4().hex[:12]
        self.store = RedisStore(settings.redis_url, settings.prefix, settings.redis_timeout_s)
        self.metrics = ReplicaMetrics()
        self.access = Access(settings.token, settings.api_key, settings.require_key, settings.replicas)
        self.models: dict[str, Hosted] = {}
        self.applied: dict[str, Applied] = {}
        self.control_away = "not connected yet"
        self._graphs: dict[str, Graph] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._looked = asyncio.Event()
        self._process = psutil.Process()
        self._exposition = ""
        self._listed_at = monotonic() - _LIST_EVERY_S - 1.0

    async def start(self) -> None:
        mode, entries = self.settings.when_redis_is_away, self.settings.buffer_entries
        self.log = GroupCommit(self.store, mode, entries)
        self.shadow_queue = ShadowQueue(self.log, self.settings.shadow_queue)
        self._tasks = [asyncio.create_task(self._supervised(task)) for task in (self._follow, self._renew)]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.shadow_queue.close()
        await self.store.close()

    @property
    def away(self) -> dict[str, str]:
        """What this replica cannot reach, and why."""
        reasons = {"prediction log": self.log.away, "control": self.control_away}
        return {name: why for name, why in reasons.items() if why}

    @property
    def ready(self) -> bool:
        """Whether every model has a version for its default arm, and predictions can be logged."""
        if self.log.away and self.settings.when_redis_is_away == "durable":
            return False
        return bool(self.models) and all(
            hosted.state.snapshot.policy.default in hosted.state.live for hosted in self.models.values()
        )

    @property
    def look(self) -> asyncio.Event:
        """Set when this replica has next looked at the board and applied what it found."""
        return self._looked

    def measure(self) -> None:
        """Bring the metrics that are read, not counted, up to date."""
        for verdict, count in self.shadow_queue.counts.items():
            self.metrics.shadows.labels(verdict).set(count)
        self.metrics.buffered.set(self.log.buffered)
        self.metrics.lost.set(self.log.lost)
        self.metrics.resident.set(self._process.memory_info().rss)
        self._exposition = self.metrics.exposition()

    def report(self) -> Report:
        return Report(
            name=self.name,
            pid=os.getpid(),
            ready=self.ready,
            applied=self.applied,
            away=self.away,
            metrics=self._exposition,
            counters={"lost": self.log.lost, "buffered": self.log.buffered, "shadows": dict(self.shadow_queue.counts)},
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
            await self._apply_all()
            self.control_away = ""
            looked, self._looked = self._looked, asyncio.Event()
            looked.set()
            at = await self.store.changes(at, block_s=1.0)

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
                self.measure()
                await self.store.report(self.report(), self.settings.lease_s)
            await asyncio.sleep(self.settings.lease_s / 5)

    async def _apply_all(self) -> None:
        if monotonic() - self._listed_at > _LIST_EVERY_S:
            self.access.keys = {key.id: key for key in await self.store.keys()}
            others = {report.name for report in await self.store.reports() if report.role == "replica"}
            self.access.replicas = len(others | {self.name})
            for name, record in (await self.store.models()).items():
                if record.loaded and name not in self.models:
                    hosted = Hosted(record, self.settings.max_instances, self.metrics)
                    await self._apply(hosted)
                elif not record.loaded and name in self.models:
                    del self.models[name]
                    self.applied.pop(name, None)
            self._listed_at = monotonic()
        for hosted in self.models.values():
            await self._apply(hosted)

    async def _apply(self, hosted: Hosted) -> None:
        name = hosted.record.name
        snapshot = await self.store.snapshot(name)
        before = self.applied.get(name)
        if before and (before.epoch, before.channel_seq) == (snapshot.epoch, snapshot.channel_seq):
            return
        live, failed = await self._open_all(hosted, snapshot)
        hosted.state = State(snapshot, Planner(snapshot.policy), live)
        # Not before its version is open: one more model does not make a replica unready that answers others.
        self.models[name] = hosted
        versions = {variant: version.number for variant, version in live.items()}
        self.applied[name] = Applied(epoch=snapshot.epoch, channel_seq=snapshot.channel_seq, versions=versions, failed=failed)
        for variant, number in versions.items():
            self.metrics.version.labels(name, variant).set(number)
        await self.store.report(self.report(), self.settings.lease_s)

    async def _open_all(self, hosted: Hosted, snapshot: Snapshot) -> tuple[dict[str, Live], dict[int, str]]:
        """Open what the snapshot asks for; where a version does not open, its variant keeps the one it had."""
        opened = {live.number: live for live in hosted.state.live.values()}
        live: dict[str, Live] = {}
        failed: dict[int, str] = {}
        for variant in snapshot.policy.variants:
            number = snapshot.resolve(variant)
            if number is None:
                continue
            if number not in opened and number not in failed:
                try:
                    opened[number] = await self._open(hosted, number)
                except Unavailable:
                    raise
                except StoreError as error:
                    failed[number] = str(error)
                    self.metrics.swap_failures.labels(hosted.record.name).inc()
            if number in opened:
                live[variant.name] = opened[number]
            elif variant.name in hosted.state.live:
                live[variant.name] = hosted.state.live[variant.name]
        return live, failed

    async def _open(self, hosted: Hosted, number: int) -> Live:
        model = hosted.record.name
        version, weights = await asyncio.gather(self.store.version(model, number), self.store.weights(model, number))
        graph = self._graphs.get(version.graph)
        if graph is None:
            graph = self._graphs[version.graph] = await self.store.graph(model, version.graph)
        opening = partial(_opened, version, graph, weights)
        # A small version opens faster than a thread is woken; a large one would hold up everybody's answers.
        large = len(weights) + len(graph.onnx) >= SMALL_BYTES
        session = await asyncio.to_thread(opening) if large else opening()
        self.metrics.swaps.labels(model).inc()
        if hosted.state.live:  # a replica that starts takes in versions that others have long served
            self._observe_freshness(version)
        return Live(number, session)

    def _observe_freshness(self, version: Version) -> None:
        now = time()
        for received_at in version.label_times:
            self.metrics.freshness.labels(version.model).observe(max(0.0, now - received_at))


def _opened(version: Version, graph: Graph, weights: bytes) -> Session:
    """Open a version, warmed up; raises ArtefactError where it is not what its record says."""
    check_digests(version, graph, weights)
    session = open_session(graph.onnx, weights)
    check_golden(session, graph.golden_inputs, version.golden, version.tolerance)
    return session
