"""Times at which something is due, as the five fields of cron: minute, hour, day of the month, month, day of the week.

Read as Debian's cron reads them: where both days are given one of them is enough; a time of day that the clocks skip in
spring comes as soon as they have, one that they repeat in autumn comes once.
"""

from datetime import UTC, datetime, tzinfo
from functools import lru_cache
from math import floor
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

_EXAMPLE = "expected minute, hour, day of the month, month and day of the week, such as '0 3 * * *' for 3 o'clock every day"


class Cron:
    """When an expression is due in a time zone. Times are seconds since 1970.

    Raises:
        ValueError: the expression or the time zone is none, or the expression never comes.
    """

    def __init__(self, expression: str, timezone: str = "UTC") -> None:
        if len(expression.split()) != 5:
            raise ValueError(f"cron '{expression[:80]}': it has {len(expression.split())} fields; {_EXAMPLE}")
        self._expression = expression
        self._zone = _zone(timezone)
        try:
            found = next(self._from(0.0), None)
        except CronSimError as error:
            raise ValueError(f"cron '{expression[:80]}': {str(error).lower()}; {_EXAMPLE}") from None
        if found is None:
            raise ValueError(f"cron '{expression[:80]}': there is no such day")

    def latest(self, at: float) -> float:
        """Return the newest due time that is not after `at`; minus infinity where there was none in 50 years."""
        found = next(self._from(floor(at) + 1.0, reverse=True), None)
        if found is None:
            return float("-inf")
        latest = found.timestamp()
        # Backwards, times of the hour that is repeated in autumn are not all found.
        while latest < (following := self.following(latest)) <= at:
            latest = following
        return latest

    def following(self, at: float) -> float:
        """Return the first due time after `at`; infinity where none comes in 50 years."""
        found = self._next(floor(at))
        if found == float("inf") or self._offset_s(found) <= self._offset_s(at):
            return found
        # Over clocks that go on by half an hour CronSim leaves times out, and within an hour after: look again from there.
        before, behind = floor(at), floor(found)
        while behind - before > 1:
            middle = (before + behind) // 2
            before, behind = (before, middle) if self._offset_s(middle) != self._offset_s(at) else (middle, behind)
        return min(found, *(self._next(behind + seconds) for seconds in (0, 1800, 3600)))

    def _next(self, at: float) -> float:
        found = next(self._from(at), None)
        return float("inf") if found is None else found.timestamp()

    def _offset_s(self, at: float) -> float:
        offset = datetime.fromtimestamp(at, self._zone).utcoffset()
        return offset.total_seconds() if offset else 0.0

    def words(self) -> str:
        """
        >>> Cron("30 3 * * MON-FRI", "Europe/Berlin").words()
        'At 03:30 on Monday through Friday (Europe/Berlin)'
        """
        return f"{self._from(0.0).explain()} ({self._zone})"

    def _from(self, at: float, reverse: bool = False) -> CronSim:
        return CronSim(self._expression, datetime.fromtimestamp(at, self._zone), reverse)


@lru_cache(maxsize=256)
def cron(expression: str, timezone: str = "UTC") -> Cron:
    """Return the cron of an expression, read once; raises ValueError as it does."""
    return Cron(expression, timezone)


def _zone(name: str) -> tzinfo:
    if name == "UTC":
        return UTC  # which needs no list of time zones
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(
            f"timezone '{name[:80]}': there is none of this name here; expected one like 'Europe/Berlin'"
        ) from None
