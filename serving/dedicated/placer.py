"""Starts the deployments that policies ask for, and ends those that nobody uses any more."""

import asyncio
import logging
from time import monotonic

from ray import serve
from ray.serve import RunTarget
from ray.serve.schema import ApplicationStatus

from serving.dedicated.host import HostSettings, host_app
from serving.dedicated.link import app_name, apps_prefix
from store.placement import Dedicated
from store.redis_store import RedisStore
from store.telemetry import QUIET, Telemetry

log = logging.getLogger(__name__)

_UNUSED_S = 3.0
"""For so long no replica must have said that it uses an application before it is ended: some may have requests there."""

_WELL = {ApplicationStatus.RUNNING, ApplicationStatus.DELETING}


class Placer:
    """Compares what policies ask for with what Serve runs, and asks Serve for the difference.

    `problems` says of each deployment that is not running why, by model and variant.
    """

    def __init__(self, store: RedisStore, redis_url: str, prefix: str, telemetry: Telemetry = QUIET) -> None:
        self._store = store
        self._url, self._prefix, self._telemetry = redis_url, prefix, telemetry
        self._used_at: dict[str, float] = {}
        self.problems: dict[str, str] = {}

    async def step(self) -> None:
        """Look once, and act.

        Raises:
            StoreError: the store is away.
        """
        wanted = await self._wanted()
        if not wanted and not self._used_at and not self.problems:
            return  # nobody has ever asked for one
        running = await asyncio.to_thread(_applications, apps_prefix(self._prefix))
        missing = [settings for app, settings in wanted.items() if app not in running]
        if missing:
            await asyncio.to_thread(_start, missing)
        await self._end_unused(wanted, running)
        self.problems = {
            f"deployment of {settings.model}/{settings.variant}": running[app][1]
            for app, settings in wanted.items()
            if app in running and running[app][0] not in _WELL and running[app][1]
        }

    async def adopt(self) -> None:
        """Take over what an earlier one of these has started."""
        for app in await asyncio.to_thread(_applications, apps_prefix(self._prefix)):
            self._used_at[app] = monotonic()

    async def _wanted(self) -> dict[str, HostSettings]:
        wanted: dict[str, HostSettings] = {}
        for model, record in (await self._store.models()).items():
            if not record.loaded:
                continue
            snapshot = await self._store.snapshot(model)
            for variant in snapshot.policy.variants:
                # Before there is a version, there is nothing to host.
                if isinstance(variant.placement, Dedicated) and snapshot.resolve(variant) is not None:
                    app = app_name(self._prefix, model, variant)
                    wanted[app] = HostSettings(
                        redis_url=self._url,
                        prefix=self._prefix,
                        app=app,
                        model=model,
                        variant=variant.name,
                        placement=variant.placement,
                        telemetry=self._telemetry,
                    )
        return wanted

    async def _end_unused(self, wanted: dict[str, HostSettings], running: dict[str, tuple[ApplicationStatus, str]]) -> None:
        used = set(wanted)
        for report in await self._store.reports():
            used |= {app for applied in report.applied.values() for app in applied.placed.values()}
        now = monotonic()
        for app in running:
            if app in used or app not in self._used_at:
                self._used_at[app] = now
            elif now - self._used_at[app] > _UNUSED_S and running[app][0] != ApplicationStatus.DELETING:
                log.info("ending application %s", app)
                await asyncio.to_thread(serve.delete, app, _blocking=False)
        for app in self._used_at.keys() - running.keys() - wanted.keys():
            del self._used_at[app]


def _applications(prefix: str) -> dict[str, tuple[ApplicationStatus, str]]:
    """What Serve runs of ours: by name, how it is, and why it is not well."""
    found: dict[str, tuple[ApplicationStatus, str]] = {}
    for name, app in serve.status().applications.items():
        if name.startswith(prefix):
            why = [app.message, *(deployment.message for deployment in app.deployments.values())]
            found[name] = app.status, " ".join(text for text in why if text)[:500]
    return found


def _start(missing: list[HostSettings]) -> None:
    log.info("starting applications %s", ", ".join(settings.app for settings in missing))
    targets = [RunTarget(target=host_app(settings), name=settings.app, route_prefix=None) for settings in missing]
    serve.run_many(targets, wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)
