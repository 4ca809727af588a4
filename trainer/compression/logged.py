"""What a model's log holds that a version can be calibrated on and measured by: the newest of it."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from store.names import log_stream, outcome_stream
from store.protocols import EventLog, position_key
from store.records import Outcome, Outcomes, Predictions, unpack_log, unpack_outcomes
from store.schema import Row

_T = TypeVar("_T")
_ENTRIES = 500
_FIRST_MS = 60_000


async def newest_rows(store: EventLog, model: str, last: int = 2000) -> list[Row]:
    """Return the features of the newest predictions, oldest first."""

    def rows(payload: bytes) -> Sequence[Row]:
        record = unpack_log(payload)
        return record.rows if isinstance(record, Predictions) else ()

    return await _newest(store, log_stream(model), rows, last)


async def newest_outcomes(store: EventLog, model: str, last: int = 20_000) -> list[Outcome]:
    """Return the newest outcomes that are final, oldest first."""

    def final(payload: bytes) -> Sequence[Outcome]:
        record = unpack_outcomes(payload)
        return [one for one in record.outcomes if one.final] if isinstance(record, Outcomes) else ()

    return await _newest(store, outcome_stream(model), final, last)


async def _newest(store: EventLog, stream: str, parts: Callable[[bytes], Sequence[_T]], last: int) -> list[_T]:
    """Read back from the end of a stream, further and further, until there is enough or all of it has been read."""
    end, _ = position_key(await store.last(stream))
    span_ms = _FIRST_MS
    while True:
        found: list[_T] = []
        after = f"{max(0, end - span_ms)}-0"
        while entries := await store.read(stream, after, _ENTRIES):
            after = entries[-1].position
            for entry in entries:
                found += parts(entry.payload)
        if len(found) >= last or span_ms >= end:
            return found[-last:]
        span_ms *= 8
