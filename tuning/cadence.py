"""When a model is made anew: how often, and at which moments of a stretch of time."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Literal

Cadence = Literal["never", "monthly", "weekly", "daily", "hourly", "continuous"]
CADENCES: tuple[Cadence, ...] = ("never", "monthly", "weekly", "daily", "hourly", "continuous")
"""From the rarest to the most frequent."""

_STEPS = {"weekly": timedelta(weeks=1), "daily": timedelta(days=1), "hourly": timedelta(hours=1)}


def boundaries(cadence: Cadence, since: float, until: float, cuts: Sequence[float] = ()) -> list[float]:
    """Return the moments at which a model is made, ascending, in seconds since 1970; the first is always `since`.

    Months, weeks (from Monday on), days and hours are those of the calendar in UTC.

    Args:
        since: when the first model is made; no later moment is `until` or after it.
        cuts: when production ended its micro-batches, ascending: the moments of a continuous cadence.

    >>> [datetime.fromtimestamp(one, UTC).day for one in boundaries("weekly", 0.0, 20 * 86_400.0)]
    [1, 5, 12, 19]
    """
    if cadence == "never":
        return [since]
    if cadence == "continuous":
        return [since, *sorted({cut for cut in cuts if since < cut < until})]
    found, moment = [since], _floor(cadence, datetime.fromtimestamp(since, UTC))
    while (moment := _next(cadence, moment)).timestamp() < until:
        found.append(moment.timestamp())
    return found


def _floor(cadence: Cadence, moment: datetime) -> datetime:
    if cadence == "hourly":
        return moment.replace(minute=0, second=0, microsecond=0)
    day = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    if cadence == "monthly":
        return day.replace(day=1)
    return day - timedelta(days=day.weekday()) if cadence == "weekly" else day


def _next(cadence: Cadence, moment: datetime) -> datetime:
    if cadence == "monthly":
        return (moment + timedelta(days=32)).replace(day=1)
    return moment + _STEPS[cadence]
