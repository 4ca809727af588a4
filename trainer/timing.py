"""When the clock ends a micro-batch: every so many seconds, and at the times of a cron expression."""

from math import inf

from store.cron import cron
from store.spec import Schedule


class Timing:
    """Says when a cut is due. Pure but for what it has said: times, in seconds since 1970, come as arguments.

    A cron time is due while an outcome waits that was received before it. So what it needs to know follows from the log: a time
    that passed while nobody trained is made up for, once, and one with nothing to learn is none.
    """

    def __init__(self, schedule: Schedule, now: float) -> None:
        self._cut_at = now
        self._begin(schedule, now)
        self._made_up_for = -inf

    def follow(self, schedule: Schedule, now: float) -> None:
        """Go by this schedule from now on; of a new cron expression no time that has passed is made up for."""
        if schedule != self.schedule:
            self._begin(schedule, now)

    def _begin(self, schedule: Schedule, now: float) -> None:
        self.schedule = schedule
        self._cron = cron(schedule.cron, schedule.timezone) if schedule.cron else None
        self._look(now)
        self._made_up_for = self._latest

    def cut(self, now: float) -> None:
        """Take note that a micro-batch ended, whoever asked for it."""
        self._cut_at = now

    def due(self, now: float, waiting_since: float | None) -> str:
        """Return why a micro-batch ends now, empty where none does; the same is not said again before it has ended.

        Args:
            waiting_since: when the first of the outcomes that wait was received; None where none waits.
        """
        if waiting_since is None:
            return ""
        if now >= self._following:
            self._look(now)
        if max(waiting_since, self._made_up_for) < self._latest:
            self._made_up_for, self._cut_at = self._latest, now
            return f"cron {self.schedule.cron}"
        seconds = self.schedule.seconds
        if seconds is not None and now - self._cut_at >= seconds:
            self._cut_at = now
            return f"every {seconds:g} s"
        return ""

    def until_s(self, now: float, waiting_since: float | None) -> float:
        """Return the seconds until a cut may be due, infinity where only new outcomes can make it so."""
        if waiting_since is None:
            return inf
        by_seconds = inf if self.schedule.seconds is None else self._cut_at + self.schedule.seconds
        return max(0.001, min(by_seconds, self._following) - now)

    def _look(self, now: float) -> None:
        self._latest, self._following = -inf, inf
        if self._cron is not None:
            self._latest, self._following = self._cron.latest(now), self._cron.following(now)
