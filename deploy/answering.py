"""Retraining that drift asks for: a child process learns what was archived since the shift, on a line of its own.

One child at a time, of all models, with a low priority; it dies with the one who started it. Nothing is published before all is
learned, and what is published says which request it answers: killed anywhere, a request is taken up again, and answered once.
"""

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

from pydantic import BaseModel, ConfigDict

from deploy.settings import Settings
from store import tether
from store.protocols import Store
from store.requests import Request, answer_to, asked

log = logging.getLogger(__name__)
RETRY_S = 60.0
"""After what could not be learned, such as what is not archived yet."""


class Order(BaseModel):
    """What a child is told to do; `least` is how many archived outcomes it takes."""

    model_config = ConfigDict(frozen=True)

    redis_url: str
    prefix: str
    archive: str
    seed: int | None
    model: str
    request: Request
    least: int


class Child(Protocol):
    """A process, as `subprocess.Popen` is one."""

    def poll(self) -> int | None: ...


class Answering:
    """Takes requests up. Start it from a thread that lives as long as its children may.

    Args:
        order: completes an order with what is the same for all models.
        start: starts a child.
    """

    def __init__(self, store: Store, order: Callable[[str, Request, int], Order], start: Callable[[Order], Child]) -> None:
        self._store, self._order, self._start = store, order, start
        self._child: tuple[str, str, Child] | None = None
        self._settled: set[tuple[str, str]] = set()
        self._not_before: dict[tuple[str, str], float] = {}

    async def refresh(self, now: float) -> None:
        """Look after the child; without one, take up a request that stands.

        Args:
            now: seconds of any clock that only goes forward.
        """
        if self._child is not None:
            model, name, child = self._child
            if (code := child.poll()) is None:
                return
            self._child = None
            self._not_before[model, name] = now + RETRY_S
            if code:
                log.warning("model %s: what drift asked for was not learned; it is tried again in %g s", model, RETRY_S)
        for model, record in (await self._store.models()).items():
            request = await asked(self._store, record)
            if request is None or record.drift is None or request.outcomes < record.drift.long:
                continue
            if await self._stands(model, request, now):
                child = self._start(self._order(model, request, record.drift.long))
                self._child = model, request.log_position, child
                return

    async def _stands(self, model: str, request: Request, now: float) -> bool:
        name = model, request.log_position
        if name in self._settled or now < self._not_before.get(name, now):
            return False
        if await answer_to(self._store, *name) is None:
            return True
        self._settled.add(name)
        return False


def start(order: Order) -> "subprocess.Popen[bytes]":
    """Start a child that carries out an order and dies with this process; it imports what this process can."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(os.path.abspath(entry) for entry in sys.path if entry)}
    child = tether.spawn(
        [sys.executable, "-P", "-m", "deploy.answering"], env=environment, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    assert child.stdin is not None
    with child.stdin:  # not among the arguments, which everybody sees: the URL may have a password
        child.stdin.write(order.model_dump_json().encode())
    return child


def carry_out(order: Order) -> None:
    """Retrain, and publish what comes of it; raises what `deploy.retraining.retrain` does."""
    from deploy.retraining import retrain  # noqa: PLC0415 - torch, which whoever starts a child can do without

    settings = Settings(prefix=order.prefix, archive=Path(order.archive), seed=order.seed)
    # The archive has microseconds.
    since = datetime.fromtimestamp(order.request.at, UTC) - timedelta(microseconds=1)
    name = order.request.log_position
    retrain(settings, order.redis_url, order.model, since=since, asked=name, least=order.least)


if __name__ == "__main__":
    try:
        carry_out(Order.model_validate_json(sys.stdin.buffer.read()))
    except Exception as error:  # whatever it is, the one who started this tries again
        sys.exit(f"{type(error).__name__}: {error}")
