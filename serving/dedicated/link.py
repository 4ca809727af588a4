"""A variant's own deployment as an ingress replica sees it: gathers rows of many requests, sends them together.

One call costs more than a small run, so this is where batches are made: whatever waits goes with the next call.
"""

import asyncio
import hashlib
import logging
import math
import re
from collections import deque
from dataclasses import dataclass
from time import monotonic, perf_counter
from typing import NamedTuple, Protocol

import numpy as np

from serving.errors import NotReady, TimedOut
from store import tracing
from store.encoding import Encoded
from store.errors import first_line
from store.placement import Dedicated
from store.policy import Variant

log = logging.getLogger(__name__)


class Scored(NamedTuple):
    """What a host answers: float32 scores [rows, outputs] and the seconds that the run took, or what went wrong."""

    scores: np.ndarray | None
    seconds: float
    error: str = ""


class Hosts(Protocol):
    """A deployment as its callers know it: one of its replicas answers."""

    async def answer(self, number: int, numbers: np.ndarray, categories: np.ndarray, carried: dict[str, str]) -> Scored:
        """Run version `number` on float32 [rows, n] and int64 [rows, m]; `carried` is the trace that this belongs to."""
        ...

    async def opens(self, number: int) -> str:
        """Open a version; return what is wrong with it, empty where nothing is."""
        ...


PATIENCE_S = 8.0
"""A host that dies is started again, or its variant answered elsewhere, within this time."""

_PAUSE_S = 0.1
_UNDER_WAY = 1
"""Batches on their way to each replica. Two were measured to answer a sixth less: they are smaller, and a call costs more than
what running one while the next travels saves."""


def apps_prefix(prefix: str) -> str:
    """How the names of all applications of this kind begin, for the platform whose keys have this prefix."""
    return f"{prefix}.variant."


def app_name(prefix: str, model: str, variant: Variant) -> str:
    """The application of a variant at its placement: another placement is another application, so both run while it moves."""
    placement = variant.placement.model_dump_json()
    digest = hashlib.sha256("\0".join((model, variant.name, placement)).encode()).hexdigest()[:8]
    return f"{apps_prefix(prefix)}{model}.{re.sub(r'[^A-Za-z0-9_-]', '_', variant.name)}.{digest}"


class HostFailed(Exception):
    """The version itself could not answer these rows; the text is the runtime's."""


@dataclass(slots=True)
class _Ask:
    number: int
    encoded: Encoded
    until: float
    since: float
    carried: dict[str, str]
    scored: "asyncio.Future[tuple[np.ndarray, float]]"

    @property
    def rows(self) -> int:
        return len(self.encoded.numbers)


class Link:
    """Sends rows to the deployment of the application `app`, in batches as its placement says."""

    def __init__(self, app: str, placement: Dedicated, hosts: Hosts) -> None:
        self.app = app
        self._placement = placement
        self._hosts = hosts
        self._waiting: deque[_Ask] = deque()
        self._under_way: set[asyncio.Task[None]] = set()
        batched = placement.max_batch_size > 1
        self._limit = _UNDER_WAY * placement.max_replicas if batched else math.inf
        self._alarm: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        """Requests that wait for a batch."""
        return len(self._waiting)

    async def opens(self, number: int, within_s: float = 2.0) -> str:
        """Return what is wrong with a version, empty where nothing is.

        Raises:
            NotReady: no host has answered in time.
        """
        try:
            async with asyncio.timeout(within_s):
                return await self._hosts.opens(number)
        except Exception as error:  # Serve's and Ray's errors have no common base
            raise NotReady(f"the deployment '{self.app}' does not answer: {error!r}") from error

    async def run(self, number: int, encoded: Encoded, until: float = math.inf) -> tuple[np.ndarray, float]:
        """Return float32 scores [rows, outputs] by version `number`, and the seconds that its batch was away.

        Args:
            until: by the monotonic clock; what waits longer is not sent.

        Raises:
            HostFailed: the version cannot answer these rows.
            TimedOut: `until` has passed.
            NotReady: no host answers.
        """
        size = self._placement.max_batch_size
        parts = [
            Encoded(encoded.numbers[start : start + size], encoded.categories[start : start + size])
            for start in range(0, len(encoded.numbers), size)
        ]
        since, carried, loop = monotonic(), tracing.carrier(), asyncio.get_running_loop()
        asks = [_Ask(number, part, until, since, carried, loop.create_future()) for part in parts]
        self._waiting += asks
        self._pump()
        done = await asyncio.gather(*(ask.scored for ask in asks))
        if len(done) == 1:
            return done[0]
        return np.concatenate([scores for scores, _ in done]), max(seconds for _, seconds in done)

    def _pump(self) -> None:
        """Send what is due, as far as there is room on the way."""
        while self._waiting and len(self._under_way) < self._limit:
            wait_s = self._waiting[0].since + self._placement.batch_wait_ms / 1000 - monotonic()
            if wait_s > 0 and sum(ask.rows for ask in self._waiting) < self._placement.max_batch_size:
                if self._alarm is None:
                    self._alarm = asyncio.get_running_loop().call_later(wait_s, self._ring)
                return
            if batch := self._take():
                task = asyncio.create_task(self._send(batch))
                self._under_way.add(task)
                task.add_done_callback(self._sent)

    def _ring(self) -> None:
        self._alarm = None
        self._pump()

    def _sent(self, task: "asyncio.Task[None]") -> None:
        self._under_way.discard(task)
        self._pump()

    def _take(self) -> list[_Ask]:
        """The longest waiting, and what fits beside them; those that nobody waits for are dropped."""
        batch: list[_Ask] = []
        rows = 0
        while self._waiting:
            ask = self._waiting[0]
            if batch and (ask.number != batch[0].number or rows + ask.rows > self._placement.max_batch_size):
                break
            self._waiting.popleft()
            if ask.scored.done():
                continue
            if monotonic() > ask.until:
                ask.scored.set_exception(TimedOut("the request's deadline passed while it waited for its batch"))
                continue
            batch.append(ask)
            rows += ask.rows
        return batch

    async def _send(self, batch: list[_Ask]) -> None:
        started = perf_counter()
        try:
            scored = await self._patiently(batch)
        except NotReady as error:
            for ask in batch:
                _tell(ask, error)
            return
        if scored.scores is None:
            if len(batch) == 1:
                _tell(batch[0], HostFailed(scored.error))
            else:  # one request's rows must not fail those of others
                await asyncio.gather(*(self._send([ask]) for ask in batch))
            return
        seconds, start = perf_counter() - started, 0
        for ask in batch:
            if not ask.scored.done():
                ask.scored.set_result((scored.scores[start : start + ask.rows], seconds))
            start += ask.rows

    async def _patiently(self, batch: list[_Ask]) -> Scored:
        """Ask until a host answers: asking twice does no harm."""
        numbers = np.concatenate([ask.encoded.numbers for ask in batch]) if len(batch) > 1 else batch[0].encoded.numbers
        categories = (
            np.concatenate([ask.encoded.categories for ask in batch]) if len(batch) > 1 else batch[0].encoded.categories
        )
        # One span can have one parent: a batch is part of the first request's trace that has one.
        carried = next((ask.carried for ask in batch if ask.carried), {})
        end = monotonic() + PATIENCE_S
        while True:
            try:
                async with asyncio.timeout(max(0.01, end - monotonic())):
                    return await self._hosts.answer(batch[0].number, numbers, categories, carried)
            except Exception as error:  # Serve's and Ray's errors have no common base
                log.warning("%s does not answer: %s", self.app, first_line(error, 200))
                if monotonic() + _PAUSE_S > end:
                    raise NotReady(f"the deployment '{self.app}' does not answer") from error
            await asyncio.sleep(_PAUSE_S)


def _tell(ask: _Ask, error: Exception) -> None:
    if not ask.scored.done():
        ask.scored.set_exception(error)
