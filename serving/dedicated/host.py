"""One variant's own deployment: opens the versions it is asked for, and answers with them.

Which version answers is said by whoever asks, so a caller that is a moment ahead or behind gets just what it planned.
"""

import asyncio
import logging
import os
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import Any

import numpy as np
import onnxruntime
import ray
from pydantic import BaseModel, ConfigDict
from ray import serve
from ray.serve.handle import DeploymentHandle

from serving.dedicated.link import Hosts, Scored
from serving.metrics import HostMetrics
from serving.opening import Opener
from store import tracing
from store.artefact import PROVIDERS, Session
from store.encoding import Encoded
from store.errors import StoreError, Unavailable, first_line
from store.placement import Dedicated
from store.policy import Applied, Report
from store.protocols import START
from store.redis_store import RedisStore
from store.telemetry import QUIET, Telemetry

log = logging.getLogger(__name__)

_KEPT = 4
"""Open versions: the newest, what callers may still ask for, and those of arms that moved."""


class HostSettings(BaseModel):
    """What a host is told when it starts."""

    model_config = ConfigDict(frozen=True)

    redis_url: str
    prefix: str
    app: str
    model: str
    variant: str
    placement: Dedicated
    telemetry: Telemetry = QUIET
    lease_s: float = 5.0


class Host:
    """A replica of a variant's own deployment."""

    async def __init__(self, settings: HostSettings) -> None:  # pyright: ignore[reportGeneralTypeIssues]
        self._settings = settings
        self._store = RedisStore(settings.redis_url, settings.prefix)
        self._opener = Opener(self._store, settings.placement.providers, settings.placement.threads)
        self._sessions: OrderedDict[int, Session] = OrderedDict()
        self._opening: dict[int, asyncio.Task[Session]] = {}
        # One run at a time: while it lasts, the next batch is taken off the wire.
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="runs")
        self._problem = ""
        self._name = f"{settings.app}#{serve.get_replica_context().replica_id.unique_id}"
        self._metrics = HostMetrics(settings.model, settings.variant)
        settings.telemetry.start("host", self._name)
        self._tasks = [asyncio.create_task(self._supervised(work)) for work in (self._follow, self._renew)]

    async def answer(self, number: int, numbers: np.ndarray, categories: np.ndarray, carried: dict[str, str]) -> Scored:
        """Run a version on encoded rows; what the version cannot do comes back as text."""
        about: dict[str, tracing.Value] = {
            "tidemill.model": self._settings.model,
            "tidemill.variant": self._settings.variant,
            "tidemill.version": number,
            "tidemill.rows": len(numbers),
        }
        with tracing.continued(carried), tracing.span("run", about):
            try:
                session = await self._session(number)
            except Unavailable:
                raise
            except StoreError as error:
                return Scored(None, 0.0, str(error))
            self._metrics.rows.observe(len(numbers))
            loop = asyncio.get_running_loop()
            scored = await loop.run_in_executor(self._threads, _run, session, Encoded(numbers, categories))
            self._metrics.seconds.observe(scored.seconds)
            return scored

    async def opens(self, number: int) -> str:
        """Open a version; return what is wrong with it, empty where nothing is."""
        try:
            await self._session(number)
        except Unavailable:
            raise
        except StoreError as error:
            return str(error)
        return ""

    async def _session(self, number: int) -> Session:
        """Open a version, once for all who ask for it meanwhile."""
        if number not in self._sessions:
            if number not in self._opening:
                self._opening[number] = asyncio.create_task(self._open(number))
                self._opening[number].add_done_callback(lambda _: self._opening.pop(number))
            # One caller that goes away must not end it for the others.
            await asyncio.shield(self._opening[number])
        self._sessions.move_to_end(number)
        return self._sessions[number]

    async def _open(self, number: int) -> Session:
        session = await self._opener.open(self._settings.model, number)
        self._sessions[number] = session
        while len(self._sessions) > _KEPT:
            self._sessions.popitem(last=False)
        return session

    async def _follow(self) -> None:
        """Open what the board names before anybody asks for it."""
        settings, at = self._settings, START
        while True:
            snapshot = await self._store.snapshot(settings.model)
            variant = next((one for one in snapshot.policy.variants if one.name == settings.variant), None)
            number = snapshot.resolve(variant) if variant is not None else None
            if number is not None and number not in self._sessions:
                await self._session(number)
                await self._report()
            self._problem = ""
            at = await self._store.changes(at, block_s=1.0)

    async def _renew(self) -> None:
        while True:
            await self._report()
            await asyncio.sleep(self._settings.lease_s / 5)

    async def _report(self) -> None:
        settings = self._settings
        newest = next(reversed(self._sessions), None)
        versions = {settings.variant: newest} if newest is not None else {}
        reasons = {"version": self._problem, "provider": self._fallback()}
        report = Report(
            name=self._name,
            role="host",
            pid=os.getpid(),
            ready=bool(self._sessions),
            applied={settings.model: Applied(versions=versions)},
            metrics=self._metrics.exposition(),
            away={name: why for name, why in reasons.items() if why},
            counters={
                "app": settings.app,
                "node": ray.get_runtime_context().get_node_id(),
                "gpus": ray.get_runtime_context().get_accelerator_ids().get("GPU", []),
                "providers": self._providers(),
                "open": sorted(self._sessions),
            },
        )
        await self._store.report(report, settings.lease_s)

    def _providers(self) -> list[str]:
        """What the newest version runs on."""
        newest = next(reversed(self._sessions.values()), None)
        return list(newest.runtime.get_providers()) if newest is not None else []

    def _fallback(self) -> str:
        """Why the first of the providers is not what runs, where a GPU was asked for; empty where it is."""
        placement, running = self._settings.placement, self._providers()
        first = PROVIDERS[placement.providers[0]]
        if not running or running[0] == first or not placement.gpus:
            return ""
        there = ", ".join(onnxruntime.get_available_providers())
        return f"{first} is not here (there are {there}): answered by {running[0]}"

    async def _supervised(self, work: Any) -> None:
        while True:
            try:
                await work()
            except StoreError as error:
                self._problem = str(error)
            except Exception as error:
                self._problem = f"{type(error).__name__}: {error}"
                log.exception("a task of %s failed and is started again", self._name)
            await asyncio.sleep(0.2)


def _run(session: Session, encoded: Encoded) -> Scored:
    started = perf_counter()
    try:
        scores = session.run(encoded)
    except Exception as error:  # whatever the runtime says of rows that it cannot take
        return Scored(None, perf_counter() - started, first_line(error, 200))
    return Scored(scores, perf_counter() - started)


class _Handle:
    """Hosts behind Serve's handle of their application."""

    def __init__(self, handle: DeploymentHandle[Any]) -> None:
        # Serve's own choice pickles in Python what C can; and each `handle.method` is a new handle.
        quick = handle.options(request_serialization="pickle", response_serialization="pickle")
        self._answer, self._opens = quick.answer, quick.opens

    async def answer(self, number: int, numbers: np.ndarray, categories: np.ndarray, carried: dict[str, str]) -> Scored:
        return await self._answer.remote(number, numbers, categories, carried)

    async def opens(self, number: int) -> str:
        return await self._opens.remote(number)


async def reach(app: str) -> Hosts:
    """Return the hosts of an application; raises what Serve raises where there is none."""
    return _Handle(await asyncio.to_thread(serve.get_app_handle, app))


def host_app(settings: HostSettings) -> serve.Application:
    """Return the application of a variant's own deployment, to be run without a route."""
    placement = settings.placement
    scaled = placement.max_replicas > placement.min_replicas
    resources: dict[str, Any] = {"num_cpus": placement.cpus, "num_gpus": placement.gpus}
    if placement.resources:
        resources["resources"] = placement.resources
    deployment = serve.deployment(
        name="host",
        num_replicas=None if scaled else placement.min_replicas,
        autoscaling_config={
            "min_replicas": placement.min_replicas,
            "initial_replicas": placement.min_replicas,
            "max_replicas": placement.max_replicas,
            "target_ongoing_requests": placement.target_batches,
            "upscale_delay_s": placement.up_after_s,
            "downscale_delay_s": placement.down_after_s,
            "look_back_period_s": max(1.0, min(30.0, placement.up_after_s)),
            "metrics_interval_s": 0.5,
        }
        if scaled
        else None,
        # Callers bound what is under way themselves.
        max_ongoing_requests=1000,
        ray_actor_options=resources,
        health_check_period_s=2,
        health_check_timeout_s=30,
        graceful_shutdown_timeout_s=5,
        logging_config={"enable_access_log": False, "log_level": "WARNING"},
    )(Host)
    return deployment.bind(settings)
