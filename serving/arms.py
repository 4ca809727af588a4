"""Runs the arms of a request, and sees to it that an arm on trial harms nobody: what it cannot answer, the default arm does."""

import asyncio
import math
from concurrent.futures import ThreadPoolExecutor
from time import monotonic, perf_counter, time
from weakref import WeakSet

import numpy as np

from router import Plan
from serving.dedicated.link import Link
from serving.errors import NotReady, TimedOut, VersionFailed
from serving.hosted import Answered, Asked, Hosted, Live, State
from store.records import Failures, Predictions, Served
from store.schema import Row

SLOW_S = 0.002
"""A run that will take longer goes to a thread: the loop serves everyone, and inference lets go of the interpreter."""

_INLINE_ROWS = 256
_RECENT = 0.1
_SEPARATE_ROWS = 64
"""Up to so many rows are run one by one to find those that their version cannot answer."""


class Runner:
    """Runs versions: short runs at once, others in threads, so many for each model."""

    def __init__(self, name: str, threads: int) -> None:
        self._name, self._threads = name, threads
        self._pools: WeakSet[ThreadPoolExecutor] = WeakSet()

    @property
    def waiting(self) -> int:
        """Runs that wait for a thread."""
        return sum(queued(pool) for pool in self._pools)

    async def run(
        self, hosted: Hosted, live: Live, rows: list[Row], until: float = math.inf, timeout_s: float | None = None
    ) -> tuple[np.ndarray, float]:
        """Return scores [rows, outputs], and the seconds that the run took, not counting a wait for a thread or a batch.

        Raises:
            VersionFailed: the version cannot answer these rows.
            TimedOut: `until`, by the monotonic clock, had passed before it began.
            TimeoutError: it did not within `timeout_s`; its thread is busy until it does.
        """
        if isinstance(live.session, Link):
            return await self._run_elsewhere(hosted, live, live.session, rows, until, timeout_s)
        if live.run_s < SLOW_S and len(rows) <= _INLINE_ROWS:
            scores, seconds = _timed(hosted, live, rows)
        else:
            pool = hosted.pool(self._name, self._threads)
            self._pools.add(pool)
            work = asyncio.get_running_loop().run_in_executor(pool, _timed_until, until, hosted, live, rows)
            scores, seconds = await asyncio.wait_for(work, timeout_s)
        if len(rows) <= _INLINE_ROWS:
            live.run_s += _RECENT * (seconds - live.run_s)
        return scores, seconds

    async def _run_elsewhere(
        self, hosted: Hosted, live: Live, link: Link, rows: list[Row], until: float, timeout_s: float | None
    ) -> tuple[np.ndarray, float]:
        try:
            return await asyncio.wait_for(hosted.score_elsewhere(live, link, rows, until), timeout_s)
        except NotReady:
            # Its deployment is gone; by now this replica may have opened the version itself.
            for other in hosted.state.live.values():
                if other.number == live.number and other.session is not link:
                    return await self.run(hosted, other, rows, until, timeout_s)
            raise


class Arms:
    """Answers requests with the variants that they were planned for.

    Args:
        trial_timeout_s: how long an arm on trial may take before the default one answers instead.
    """

    def __init__(self, trial_timeout_s: float) -> None:
        self._default = Runner("arms", threads=2)
        # A slow arm on trial holds up its own kind alone.
        self._trial = Runner("trials", threads=2)
        self._trial_timeout_s = trial_timeout_s

    async def answer(self, hosted: Hosted, state: State, asked: Asked, until: float = math.inf) -> Answered:
        """Run each group of rows by its plan's variant; what is not begun by `until`, on the monotonic clock, never is.

        Raises:
            TimedOut: `until` has passed.
            NotReady: the default arm has no version.
            VersionFailed: the default arm, or one that the request itself asked for, could not answer; carries the failures.
        """
        made = _Made(asked, state.snapshot.epoch, until)
        for plan, indices in asked.groups.items():
            await self._serve(hosted, state, made, plan, indices)
        predictions = Predictions(
            asked.at, asked.ids, asked.units, asked.rows, made.outputs, made.served, made.arms, time() - asked.at,
            asked.event_times,
        )  # fmt: skip
        return Answered(predictions, asked.shadows, made.failures)

    async def _serve(self, hosted: Hosted, state: State, made: "_Made", plan: Plan, indices: list[int]) -> None:
        default = state.snapshot.policy.default
        on_trial = plan.variant != default and plan.propensity > 0.0
        try:
            live = hosted.live(state, plan.variant)
            scores, seconds = await self.run(hosted, plan.variant, live, made.rows(indices), on_trial, made.until)
        except (VersionFailed, NotReady, TimeoutError) as error:
            if isinstance(error, NotReady) and not on_trial:
                raise
            bad = await self._one_by_one(hosted, state, made, plan, indices, error, on_trial)
            made.failed(plan, state, bad, error, rescued=on_trial)
            if not on_trial:
                raise VersionFailed(str(error), made.failures) from error
            await self._serve(hosted, state, made, Plan(default, 0.0), bad)
        else:
            made.take(plan, live, indices, scores, seconds)

    @property
    def waiting(self) -> dict[str, int]:
        """Runs that wait for a thread, by whose threads these are."""
        return {"arms": self._default.waiting, "trials": self._trial.waiting}

    async def run(
        self, hosted: Hosted, variant: str, live: Live, rows: list[Row], on_trial: bool, until: float = math.inf
    ) -> tuple[np.ndarray, float]:
        """Return scores and seconds; raises VersionFailed, TimedOut, and TimeoutError of an arm on trial."""
        if on_trial:
            return await self._trial.run(hosted, live, rows, until, self._trial_timeout_s)
        return await self._default.run(hosted, live, rows, until)

    async def _one_by_one(
        self,
        hosted: Hosted,
        state: State,
        made: "_Made",
        plan: Plan,
        indices: list[int],
        error: Exception,
        on_trial: bool,
    ) -> list[int]:
        """Answer the rows that can be answered when not all can; return the others."""
        if not isinstance(error, VersionFailed) or not 1 < len(indices) <= _SEPARATE_ROWS:
            return indices
        live, bad = hosted.live(state, plan.variant), list[int]()
        for index in indices:
            try:
                scores, seconds = await self.run(hosted, plan.variant, live, made.rows([index]), on_trial, made.until)
            except (VersionFailed, TimeoutError):
                bad.append(index)
            else:
                made.take(plan, live, [index], scores, seconds)
        return bad or indices


class _Made:
    """A request's answers as they come together."""

    def __init__(self, asked: Asked, epoch: int, until: float) -> None:
        self._asked = asked
        self._epoch = epoch
        self.until = until
        self.outputs: list[list[float]] = [[]] * len(asked.rows)
        self.arms = [0] * len(asked.rows)
        self.served: list[Served] = []
        self.failures: list[Failures] = []

    def rows(self, indices: list[int]) -> list[Row]:
        rows = self._asked.rows
        return rows if len(indices) == len(rows) else [rows[index] for index in indices]

    def take(self, plan: Plan, live: Live, indices: list[int], scores: np.ndarray, seconds: float) -> None:
        arm = len(self.served)
        self.served.append(Served(plan.variant, live.number, plan.propensity, plan.experiments, seconds, self._epoch))
        for index, score in zip(indices, scores.tolist(), strict=True):
            self.outputs[index] = score
            self.arms[index] = arm

    def failed(self, plan: Plan, state: State, indices: list[int], error: Exception, rescued: bool) -> None:
        asked = self._asked
        ids, units = ([of[index] for index in indices] for of in (asked.ids, asked.units))
        times = [asked.event_times[index] for index in indices] if asked.event_times else None
        self.failures.append(failure_of(error, state, plan, rescued, asked.at, ids, units, times))


def failure_of(
    error: Exception,
    state: State,
    plan: Plan,
    rescued: bool,
    at: float,
    ids: list[str],
    units: list[str],
    event_times: list[float] | None = None,
) -> Failures:
    """Return the record of what a plan's variant could not answer."""
    live = state.live.get(plan.variant)
    return Failures(
        at=at,
        ids=ids,
        units=units,
        variant=plan.variant,
        version=live.number if live is not None else 0,
        experiments=plan.experiments,
        epoch=state.snapshot.epoch,
        reason="timeout" if isinstance(error, TimeoutError) else "error",
        rescued=rescued,
        text=str(error)[:300] or "it took too long",
        event_times=event_times,
    )


def queued(threads: ThreadPoolExecutor) -> int:
    """Return how much work waits for one of these threads."""
    return threads._work_queue.qsize()  # pyright: ignore[reportPrivateUsage] - nothing public says so


def _timed_until(until: float, hosted: Hosted, live: Live, rows: list[Row]) -> tuple[np.ndarray, float]:
    if monotonic() > until:
        raise TimedOut("the request's deadline passed while it waited for a thread; nothing was answered")
    return _timed(hosted, live, rows)


def _timed(hosted: Hosted, live: Live, rows: list[Row]) -> tuple[np.ndarray, float]:
    started = perf_counter()
    scores = hosted.score(live, rows)
    return scores, perf_counter() - started
