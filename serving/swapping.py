"""Brings versions into service: opened in this process, or found in a deployment of their own."""

import logging
from collections.abc import Awaitable, Callable, Iterable
from time import time

from serving.arms import SLOW_S
from serving.dedicated.link import Hosts, Link, app_name
from serving.errors import NotReady
from serving.hosted import Hosted, Live
from serving.metrics import ReplicaMetrics
from serving.opening import Opener
from store import tracing
from store.errors import StoreError, Unavailable
from store.placement import Dedicated
from store.policy import Snapshot, Variant
from store.protocols import Version
from store.redis_store import RedisStore

log = logging.getLogger(__name__)

Reach = Callable[[str], Awaitable[Hosts]]
"""Finds the hosts of an application by its name."""


class Swapping:
    """What one replica answers with, for all its models.

    A variant with a deployment of its own is answered there while hosts report that they are ready, and here before and
    after: so it moves, or loses its hosts, without a request that nobody answers.

    Args:
        prefix: of the platform's keys.
        reach: None where there are no deployments to find.
    """

    def __init__(self, store: RedisStore, metrics: ReplicaMetrics, prefix: str, reach: Reach | None) -> None:
        self._store = store
        self._metrics = metrics
        self._prefix = prefix
        self._reach = reach
        self._opener = Opener(store)
        self._hosts: set[str] = set()

    async def refresh(self, models: Iterable[Hosted]) -> None:
        """Look up which applications have hosts that are ready."""
        self._hosts = set()
        if any(
            isinstance(variant.placement, Dedicated) for hosted in models for variant in hosted.state.snapshot.policy.variants
        ):
            reports = await self._store.reports()
            self._hosts = {str(one.counters["app"]) for one in reports if one.role == "host" and one.ready}

    def moving(self, hosted: Hosted) -> bool:
        """Whether a variant is to be answered elsewhere than it is."""
        live = hosted.state.live
        return any(
            variant.name in live and self._app(hosted, variant) != _where(live[variant.name])
            for variant in hosted.state.snapshot.policy.variants
        )

    async def versions(self, hosted: Hosted, snapshot: Snapshot) -> tuple[dict[str, Live], dict[int, str]]:
        """Return the version of each variant of a snapshot, and why some do not open: their variants keep what they had.

        Raises:
            Unavailable: the store is away.
        """
        before = hosted.state.live
        opened = {live.number: live for live in before.values() if not isinstance(live.session, Link)}
        live: dict[str, Live] = {}
        failed: dict[int, str] = {}
        for variant in snapshot.policy.variants:
            number = snapshot.resolve(variant)
            if number is None:
                continue
            now = await self._elsewhere(hosted, variant, number, failed) or await self._here(hosted, number, opened, failed)
            if now is not None:
                live[variant.name] = now
            elif variant.name in before:
                live[variant.name] = before[variant.name]
        return live, failed

    async def _here(self, hosted: Hosted, number: int, opened: dict[int, Live], failed: dict[int, str]) -> Live | None:
        if number in opened or number in failed:
            return opened.get(number)
        try:
            with tracing.span("swap", {"tidemill.model": hosted.record.name, "tidemill.version": number}):
                before = hosted.state.live.values()
            quick = bool(before) and all(one.run_s < SLOW_S for one in before)
            version, session, run_s = await self._opener.opened(hosted.record.name, number, quick)
        except Unavailable:
            raise
        except StoreError as error:
            self._failed(hosted, number, str(error), failed)
            return None
        self._swapped(hosted, version)
        opened[number] = Live(number, session, run_s)
        return opened[number]

    async def _elsewhere(self, hosted: Hosted, variant: Variant, number: int, failed: dict[int, str]) -> Live | None:
        """The version at the variant's own deployment; None where there is none, or the version does not open."""
        link = await self._link(hosted, variant)
        if link is None:
            return None
        before = hosted.state.live.get(variant.name)
        if before is not None and before.session is link and before.number == number:
            return before
        try:
            problem = await link.opens(number)
        except NotReady as error:
            log.warning("%s", error)
            return None
        if problem:
            self._failed(hosted, number, problem, failed)
            return None
        self._swapped(hosted, await self._store.version(hosted.record.name, number))
        return Live(number, link)

    async def _link(self, hosted: Hosted, variant: Variant) -> Link | None:
        app = self._app(hosted, variant)
        if not app or self._reach is None or not isinstance(variant.placement, Dedicated):
            return None
        before = hosted.state.live.get(variant.name)
        if before is not None and isinstance(before.session, Link) and before.session.app == app:
            return before.session
        try:
            return Link(app, variant.placement, await self._reach(app))
        except Exception as error:  # Serve's errors have no common base
            log.warning("application %s is not there: %s", app, error)
            return None

    def _app(self, hosted: Hosted, variant: Variant) -> str:
        """The application that is to answer for a variant and can; empty where this replica is to answer itself."""
        if not isinstance(variant.placement, Dedicated) or self._reach is None:
            return ""
        app = app_name(self._prefix, hosted.record.name, variant)
        return app if app in self._hosts else ""

    def _failed(self, hosted: Hosted, number: int, why: str, failed: dict[int, str]) -> None:
        failed[number] = why
        self._metrics.swap_failures.labels(hosted.record.name).inc()

    def _swapped(self, hosted: Hosted, version: Version) -> None:
        self._metrics.swaps.labels(version.model).inc()
        if hosted.state.live:  # a replica that starts takes in versions that others have long served
            now = time()
            for received_at in version.label_times:
                self._metrics.freshness.labels(version.model).observe(max(0.0, now - received_at))


def _where(live: Live) -> str:
    return live.session.app if isinstance(live.session, Link) else ""
