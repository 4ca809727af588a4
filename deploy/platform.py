"""One machine's platform: Redis, Ray, the trainers and the Serve application, started together and stopped together."""

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import Callable, Sequence

import httpx

from deploy.cluster import Cluster, start_ray, start_serve, stop_ray
from deploy.home import Home, Running
from deploy.settings import Settings
from serving.settings import ServingSettings
from store.embedded import EmbeddedRedis
from store.errors import Unavailable
from store.redis_store import RedisStore
from store.spec import ModelRecord, declared


class StartFailed(RuntimeError):
    """The platform did not come up; the text says which part and why."""


class Platform:
    """Start it from the main thread; `stop` leaves no process, port or socket."""

    def __init__(self, settings: Settings, specs: Sequence[str], on_stage: Callable[[str], None] | None = None) -> None:
        self._settings = settings
        self._specs = tuple(specs)
        self._on_stage = on_stage or _unwatched
        self._home = Home(settings.home)
        self._redis: EmbeddedRedis | None = None
        self._cluster: Cluster | None = None
        self._url = f"http://127.0.0.1:{settings.port}"
        self.redis_url = settings.redis_url

    def start(self) -> Running:
        """Return when every model that was named can answer.

        Raises:
            AlreadyRunning, PortInUse, SpecError, StoreError, StartFailed, TracesUnavailable.
        """
        if os.getcwd() not in sys.path:  # users' modules lie where they start us
            sys.path.insert(0, os.getcwd())
        self._settings.telemetry.check()
        records = [declared(path) for path in self._specs]
        self._names = {record.name for record in records}
        self._home.take()
        try:
            self._start_redis()
            self._stage("registering models")
            asyncio.run(_register(self.redis_url, records, self._settings, self._home))
            self._start_ray()
            self._wait_ready()
            self._start_helpers()
            return self._stage("ready", ready=True)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End everything; what was acknowledged is on disk."""
        # A second Ctrl-C must not leave half of it running.
        with contextlib.suppress(KeyboardInterrupt):
            if self._cluster is not None:
                self._stage("stopping Ray")
                stop_ray(self._cluster)
                self._cluster = None
        with contextlib.suppress(KeyboardInterrupt):
            if self._redis is not None:
                self._stage("stopping Redis")
                self._redis.stop()
                self._redis = None
        self._home.leave()

    def _start_redis(self) -> None:
        if self.redis_url:
            return
        self._stage("starting Redis")
        self._redis = EmbeddedRedis(self._settings.home / "redis", on_progress=self._on_stage)
        self._redis.start()
        self.redis_url = self._redis.url

    def _start_ray(self) -> None:
        settings = self._settings
        self._stage("starting Ray")
        self._cluster = start_ray(
            host=settings.host,
            port=settings.port,
            log_directory=settings.home / "ray-logs",
            use_haproxy=settings.haproxy,
            most_at_work=settings.max_at_work,
        )
        self._url = self._cluster.url
        # Ray reads its environment at the first import, so these come after it is set.
        import ray  # noqa: PLC0415

        from deploy.supervisor import start_supervisor  # noqa: PLC0415

        if (gpus := ray.cluster_resources().get("GPU", 0.0)) < settings.trainer_gpus:
            raise StartFailed(f"TIDEMILL_TRAINER_GPUS is {settings.trainer_gpus:g}, and Ray sees {gpus:g} GPUs here")
        # Trainers take longest: a first version needs torch. Meanwhile Serve starts.
        self._stage("starting trainers and Serve")
        self._supervisor = start_supervisor(
            self.redis_url,
            settings.prefix,
            settings.seed,
            settings.telemetry,
            gpus=settings.trainer_gpus,
            archive=settings.archiving,
        )
        start_serve(self._cluster)
        self._stage("starting replicas")
        from serving.app import application  # noqa: PLC0415

        serving = ServingSettings(
            redis_url=self.redis_url,
            prefix=settings.prefix,
            token=self._home.token(),
            api_key=settings.api_key,
            require_key=settings.needs_key,
            replicas=settings.replicas,
            max_at_work=settings.max_at_work,
            stay_awake=settings.stay_awake,
            when_redis_is_away=settings.when_redis_is_away,
            max_import_bytes=settings.max_import_bytes,
            telemetry=settings.telemetry,
        )
        from ray import serve  # noqa: PLC0415

        serve.run(application(serving, settings.replicas), name="tidemill", route_prefix="/")

    def _start_helpers(self) -> None:
        """Start what no first answer waits for: on a small machine it would only be later."""
        self._stage("starting controllers")
        from serving.control_actor import start_controller  # noqa: PLC0415
        from trainer.joiner import start_joiner  # noqa: PLC0415

        url, prefix, telemetry = self.redis_url, self._settings.prefix, self._settings.telemetry
        self._controller = start_controller(url, prefix, telemetry)
        self._joiner = start_joiner(url, prefix, telemetry, self._settings.archiving)

    def _wait_ready(self, timeout_s: float = 180.0) -> None:
        self._stage("waiting for the first version")
        deadline, look_s = time.monotonic() + timeout_s, 1.0
        said, look_at = "", time.monotonic() + look_s
        with httpx.Client(headers={"authorization": f"Bearer {self._home.token()}"}, timeout=2.0) as client:
            while time.monotonic() < deadline:
                with contextlib.suppress(httpx.HTTPError):
                    reply = client.get(f"{self._url}/readyz")
                    said = reply.text[:500]
                    state = reply.json()
                    if state["ready"] and self._names <= set(state["models"]) - set(state["waiting"]):
                        return
                if time.monotonic() > look_at:
                    asyncio.run(self._raise_trainer_problem())
                    look_at = time.monotonic() + look_s
                time.sleep(0.1)
        raise StartFailed(f"the platform was not ready within {timeout_s:g} s; /readyz said: {said or 'nothing'}")

    async def _raise_trainer_problem(self) -> None:
        store = RedisStore(self.redis_url, self._settings.prefix)
        try:
            said = {report.name: report.away.get("trainer", "") for report in await store.reports()}
        except Unavailable:
            return  # it comes back, or the wait ends
        finally:
            await store.close()
        for name in self._names:
            if (problem := said.get(f"trainer:{name}", "")) not in ("", "starting"):
                raise StartFailed(f"the trainer of '{name}' cannot start: {problem}")

    def _stage(self, stage: str, ready: bool = False) -> Running:
        self._on_stage(stage)
        running = Running(pid=os.getpid(), url=self._url, redis_url=self.redis_url, specs=self._specs, stage=stage, ready=ready)
        self._home.tell(running)
        return running


def _unwatched(_: str) -> None:
    """Nobody watches the start."""


async def _register(url: str, records: Sequence[ModelRecord], settings: Settings, home: Home) -> None:
    """Put models and keys on record before anything expensive starts: a changed declaration is refused here, and so is a
    platform that others can reach and nobody has a key for."""
    store = RedisStore(url, settings.prefix)
    try:
        for record in records:
            await store.register(record)
            await store.set_loaded(record.name, True)  # it was asked for
        for key in home.kept_keys():
            await store.put_key(key)
        home.drop_kept_keys()
        if settings.needs_key and not settings.api_key and not await store.keys():
            raise StartFailed(
                f"predictions at {settings.host} need a key, and there is none; make one first "
                f"(tidemill key create my-app --home {settings.home}), or set TIDEMILL_API_KEY"
            )
    finally:
        await store.close()
