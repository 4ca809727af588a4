"""The controllers of all models as one Ray actor, supervised: Ray restarts it when it dies, it goes on after anything else."""

import asyncio
import logging
import os
import threading
from typing import Any

import ray
import uvloop

from serving.controller import Controller
from serving.dedicated.placer import Placer
from store import garbage
from store.errors import StoreError
from store.names import CONTROL
from store.policy import Report
from store.redis_store import RedisStore
from store.telemetry import QUIET, Telemetry

log = logging.getLogger(__name__)
LEASE_S = 5.0
NICENESS = 5
"""Experiments give way to answers."""

_IDLE_S = 0.2
_LIST_EVERY_S = 1.0


class ControlActor:
    """Runs one controller per model for as long as it lives. Create it through `start_controller`."""

    def __init__(self, redis_url: str, prefix: str, telemetry: Telemetry = QUIET) -> None:
        self._url, self._prefix, self._telemetry = redis_url, prefix, telemetry
        telemetry.start("role", "controller")
        self._problems: dict[str, str] = {}
        os.nice(NICENESS)
        threading.Thread(target=lambda: uvloop.run(self._run()), daemon=True, name="controller").start()

    def problems(self) -> dict[str, str]:
        """What keeps a model's controller, or a variant's own deployment, from its work."""
        return self._problems

    def _say(self, what: str, problem: str) -> None:
        if problem:
            self._problems[what] = problem
        else:
            self._problems.pop(what, None)

    async def _run(self) -> None:
        store = RedisStore(self._url, self._prefix)
        controllers: dict[str, asyncio.Task[None]] = {}
        garbage.begin()
        self._placing = asyncio.create_task(self._place(Placer(store, self._url, self._prefix, self._telemetry)))
        while True:
            garbage.settle()
            try:
                seen = await store.last(CONTROL)
                records = await store.models()
                gone = controllers.keys() - records.keys()
                await _ended([controllers.pop(name) for name in gone])
                for name in gone:
                    self._say(_controller_of(name), "")
                for name in records.keys() - controllers.keys():
                    controllers[name] = asyncio.create_task(self._control(Controller(store, records[name]), name))
                report = Report(
                    name="controller",
                    role="controller",
                    pid=os.getpid(),
                    ready=not self._problems,
                    seen=seen,
                    away=dict(self._problems),
                )
                await store.report(report, LEASE_S)
            except StoreError:
                log.warning("the store is away")
            await asyncio.sleep(_LIST_EVERY_S)

    async def _control(self, controller: Controller, model: str) -> None:
        """Start over from the store after anything that fails: it holds all that counts."""
        pause_s, name = 0.2, _controller_of(model)
        while True:
            try:
                await controller.start()
                while True:
                    busy = await controller.step()
                    self._say(name, controller.problem)
                    pause_s = 0.2
                    await asyncio.sleep(0.0 if busy else _IDLE_S)
            except StoreError as error:
                self._say(name, str(error))
            except Exception as error:
                log.exception("the %s failed and is started again", name)
                self._say(name, f"{type(error).__name__}: {error}")
            await asyncio.sleep(pause_s)
            pause_s = min(5.0, pause_s * 2)

    async def _place(self, placer: Placer) -> None:
        """Keep the deployments that variants have of their own as policies want them."""
        told: set[str] = set()
        adopted = False
        while True:
            try:
                if not adopted:
                    await placer.adopt()
                    adopted = True
                await placer.step()
                for what in told - placer.problems.keys():
                    self._say(what, "")
                for what, why in placer.problems.items():
                    self._say(what, why)
                told = set(placer.problems)
                self._say("placement", "")
            except StoreError as error:
                self._say("placement", str(error))
            except Exception as error:  # Serve's and Ray's errors have no common base
                log.exception("placing deployments failed and is tried again")
                self._say("placement", f"{type(error).__name__}: {error}")
            await asyncio.sleep(_LIST_EVERY_S)


def _controller_of(model: str) -> str:
    return f"controller of {model}"


async def _ended(tasks: list[asyncio.Task[None]]) -> None:
    """Cancel tasks; return when they have ended."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def start_controller(redis_url: str, prefix: str, telemetry: Telemetry = QUIET) -> Any:
    """Start the controllers. A call is never retried: what it decides is decided once, by the policy's epoch."""
    actor = ray.remote(ControlActor).options(  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
        name="controller", namespace="tidemill", num_cpus=0.1, max_restarts=-1, max_task_retries=0
    )
    return actor.remote(redis_url, prefix, telemetry)
