"""A process's log, as text or as JSON lines on standard error, in which a storm of one kind of line leaves most of it out."""

import json
import logging
import sys
import threading
from datetime import UTC, datetime
from time import monotonic
from typing import Literal

from store import tracing

LogFormat = Literal["text", "json"]
FIELDS = ("model", "prediction_id", "error", "left_out")
"""What a line may know beside its message: what was given to `extra=` by these names."""

MOST, PERIOD_S = 10, 10.0
"""So many lines of one kind in so many seconds; a kind is a logger's message before its values are put in, and its `error`."""

_KINDS = 1000


def configure(log_format: LogFormat, **who: str) -> None:
    """Write warnings and worse of this process to standard error, and no more of one kind than `Throttle` lets through.

    Args:
        who: what all lines are to say, such as replica="…".
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(who) if log_format == "json" else Lines(who))
    handler.addFilter(Throttle())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)


def fields_of(record: logging.LogRecord) -> dict[str, str | int]:
    """Return what a record knows of `FIELDS`, and of the trace that it was written in."""
    known = {name: value for name in FIELDS if (value := getattr(record, name, None))}
    return known | ({"trace_id": trace} if (trace := tracing.trace_id()) else {})


class JsonLines(logging.Formatter):
    """One JSON object a line."""

    def __init__(self, who: dict[str, str]) -> None:
        super().__init__()
        self._who = who

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **self._who,
            **fields_of(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class Lines(logging.Formatter):
    """The same for people."""

    def __init__(self, who: dict[str, str]) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s%(fields)s")
        self._who = who

    def format(self, record: logging.LogRecord) -> str:
        record.fields = "".join(f" {name}={value}" for name, value in (self._who | fields_of(record)).items())
        return super().format(record)


class Throttle(logging.Filter):
    """Lets `most` lines of one kind through in `period_s`; the next one after that says in `left_out` how many there were
    besides. So a storm costs the disk some lines a second, whatever its size."""

    def __init__(self, most: int = MOST, period_s: float = PERIOD_S) -> None:
        super().__init__()
        self._most, self._period_s = most, period_s
        self._lock = threading.Lock()
        self._kinds: dict[tuple[str, str, object], tuple[float, int]] = {}
        """When the period of a kind began, and how many came in it."""

    def filter(self, record: logging.LogRecord) -> bool:
        kind = (record.name, str(record.msg), getattr(record, "error", None))
        now = monotonic()
        with self._lock:
            since, count = self._kinds.get(kind, (now, 0))
            if now - since >= self._period_s:
                record.left_out = max(0, count - self._most)
                since, count = now, 0
            if len(self._kinds) >= _KINDS:  # libraries may put values into their messages themselves
                self._kinds.clear()
            self._kinds[kind] = since, count + 1
        return count < self._most
