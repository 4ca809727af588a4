"""The state behind streaming features: pure, and a function of what it was fed, in that order.

A decayed sum is kept as of the latest time it has seen; what comes late is added with the weight that it has by then, and a
reader at an earlier time sees it undecayed. A window is a row of buckets. What is kept of a key is replaced and never
changed, so that threads may read while the event loop feeds.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from struct import Struct
from typing import Any

import msgpack

from store.records import Label, Outcome, Predictions
from store.schema import Row, Value
from store.spec import ModelRecord
from store.streaming import BUCKETS, SCORE, UNIT, Aggregate

REMEMBERED = 10_000
"""Outcomes whose label a later correction replaces; one of an older outcome changes nothing."""

_LONG_TEXT = 64
_HOUR = 3600.0

_BUCKET = Struct("<qdd")

Part = tuple[Any, ...] | bytes
"""What is kept of a key; empty of a new one."""


@dataclass(frozen=True, slots=True)
class Decay:
    """(weighted sum, weighted count, time): exponential decay."""

    half_life_s: float

    def added(self, part: Part, at: float, value: float, count: float) -> Part:
        if not part:
            return (value, count, at)
        total, known, seen = part
        if at >= seen:
            fade = 2.0 ** ((seen - at) / self.half_life_s)
            return (total * fade + value, known * fade + count, at)
        fade = 2.0 ** ((at - seen) / self.half_life_s)
        return (total + value * fade, known + count * fade, seen)

    def read(self, part: Part, at: float) -> tuple[float, float]:
        """Return (sum, count) as of a time."""
        if not part:
            return 0.0, 0.0
        total, known, seen = part
        if at <= seen:
            return total, known
        fade = 2.0 ** ((seen - at) / self.half_life_s)
        return total * fade, known * fade

    @property
    def hours(self) -> float:
        """Of a steady stream the weighted count comes to that of so many hours."""
        return self.half_life_s / math.log(2.0) / _HOUR


@dataclass(frozen=True, slots=True)
class Window:
    """(number, sum, count) of each bucket that is not empty, in order: a sliding window. Packed: as Python's numbers a key that
    is in all buckets would take ten times as much."""

    window_s: float

    def added(self, part: Part, at: float, value: float, count: float) -> Part:
        number = math.floor(at / self.window_s * BUCKETS)
        if isinstance(part, bytes) and part:
            newest, total, weight = _BUCKET.unpack_from(part, len(part) - _BUCKET.size)
            if number == newest:  # as most are
                return part[: -_BUCKET.size] + _BUCKET.pack(number, total + value, weight + count)
        known = {bucket[0]: bucket for bucket in _buckets(part)}
        newest = max([number, *known])
        if number > newest - BUCKETS and (count or number in known):
            _, total, weight = known.get(number, (number, 0.0, 0.0))
            known[number] = (number, total + value, weight + count)
        return b"".join(_BUCKET.pack(*known[one]) for one in sorted(known) if one > newest - BUCKETS)

    def read(self, part: Part, at: float) -> tuple[float, float]:
        """Return (sum, count) as of a time."""
        oldest = math.floor(at / self.window_s * BUCKETS) - BUCKETS
        total = known = 0.0
        for number, its_sum, its_count in _buckets(part):
            if number > oldest:
                total += its_sum
                known += its_count
        return total, known

    @property
    def hours(self) -> float:
        return self.window_s / _HOUR


def _buckets(part: Part) -> Iterable[tuple[Any, ...]]:
    """Return a window's buckets; a snapshot from before they were packed has them as they are."""
    return part if isinstance(part, tuple) else _BUCKET.iter_unpack(part)


class _Keyed:
    """One aggregate's state."""

    def __init__(self, aggregate: Aggregate, record: ModelRecord) -> None:
        names = [field.name for field in record.features.fields]
        self._places = tuple(-1 if name == UNIT else names.index(name) for name in aggregate.by)
        self._of = names.index(aggregate.of) if aggregate.of in names else -1
        self._horizon = Window(aggregate.window_s) if aggregate.window_s else Decay(aggregate.half_life_s or 1.0)
        self._class = aggregate.of.partition(":")[2]
        self._aggregate = aggregate
        self._parts: dict[Any, Part] = {}
        self._all: Part = ()
        self._ever = (0.0, 0.0)
        self._prior = aggregate.prior
        self._mean = aggregate.kind == "mean"
        self._per = self._horizon.hours if aggregate.kind == "rate" else 1.0

    def _key(self, row: Row, unit: str) -> Any:
        if not self._places:
            return None
        key = tuple([_short(unit if place < 0 else row[place]) for place in self._places])
        return key[0] if len(key) == 1 else key

    def labelled(self, row: Row, unit: str, at: float, label: Label, replaced: Label | None) -> None:
        """Take in an outcome's label, in place of an earlier one if there was one."""
        if replaced is None:
            self._add(self._key(row, unit), at, self._number(label), 1.0)
        elif change := self._number(label) - self._number(replaced):
            self._add(self._key(row, unit), at, change, 0.0)

    def predicted(self, row: Row, unit: str, at: float, score: float) -> None:
        value = score if self._aggregate.of == SCORE else 1.0 if self._of < 0 else row[self._of]
        if value is not None:
            self._add(self._key(row, unit), at, float(value), 1.0)

    def _number(self, label: Label) -> float:
        if self._class:
            return float(label == self._class)
        return 1.0 if isinstance(label, str) else float(label)

    def _add(self, key: Any, at: float, value: float, count: float) -> None:
        if self._mean:
            self._all = self._horizon.added(self._all, at, value, count)
            self._ever = (self._ever[0] + value, self._ever[1] + count)
            if not self._places:
                return
        parts = self._parts
        if not count and key not in parts:
            return  # what this corrects has gone with its key
        before = parts.pop(key, ())  # put back at the end: the first is the one that has waited the longest
        parts[key] = self._horizon.added(before, at, value, count)
        if len(parts) > self._aggregate.keys:
            del parts[next(iter(parts))]

    def value(self, row: Row, unit: str, at: float) -> float | None:
        """Return the feature's value; None where nothing was ever added."""
        read = self._horizon.read
        if not self._mean:
            return read(self._parts.get(self._key(row, unit), ()), at)[1] / self._per
        total, known = self._ever
        if not known:
            return None
        prior = self._prior
        over_all, weight = read(self._all, at)
        mean = (over_all + prior * total / known) / (weight + prior)
        part = self._parts.get(self._key(row, unit)) if self._places else None
        if not part:
            return mean
        total, known = read(part, at)
        return (total + prior * mean) / (known + prior)

    def kept(self) -> Any:
        return self._all, self._ever, [*self._parts], [*self._parts.values()]

    def restore(self, kept: Any) -> None:
        self._all, self._ever, keys, parts = kept
        self._parts = dict(zip(keys, parts, strict=True))


class Streams:
    """A model's streaming features. Feed it outcomes and predictions in their streams' orders; reading changes nothing.

    Aggregates over outcomes follow from the outcomes alone, those over predictions from the log alone.
    """

    def __init__(self, record: ModelRecord) -> None:
        self._record = record
        self._event_clock = record.clock == "event"
        self._all = [_Keyed(one, record) for one in record.streaming]
        pairs = list(zip(record.streaming, self._all, strict=True))
        self._over_outcomes = [keyed for one, keyed in pairs if one.over_outcomes]
        self._over_predictions = [keyed for one, keyed in pairs if not one.over_outcomes]
        self._remembered: dict[str, tuple[Label, float]] = {}

    def outcomes(self, outcomes: Sequence[Outcome]) -> None:
        """Take in outcomes; what lies outside of a prediction's label window is taken at that end of it."""
        for one in outcomes:
            at = one.received_at
            if self._event_clock:  # one wrong time must not let everything else look old
                at = min(max(one.labelled_at, one.predicted_at), one.predicted_at + self._record.labels.window_s)
            if one.kind == "default" and not one.final:
                continue  # what is only supposed
            replaced: Label | None = None
            if one.learned and (known := self._remembered.get(one.id)):
                replaced, at = known
            elif one.kind == "correction":
                continue  # of a label that is long forgotten
            self._remember(one.id, one.label, at)
            for keyed in self._over_outcomes:
                keyed.labelled(one.row, one.unit, at, one.label, replaced)

    def _remember(self, who: str, label: Label, at: float) -> None:
        self._remembered.pop(who, None)
        self._remembered[who] = (label, at)
        if len(self._remembered) > REMEMBERED:
            del self._remembered[next(iter(self._remembered))]

    def predictions(self, record: Predictions, arrived: float) -> None:
        """Take in a request's predictions, logged at `arrived`; an `at` further ahead of that than the skew is taken there."""
        latest = arrived + self._record.max_skew_s
        for index, row in enumerate(record.rows):
            at = min(record.event_times[index], latest) if record.event_times else record.at
            for keyed in self._over_predictions:
                keyed.predicted(row, record.units[index], at, record.outputs[index][0])

    def fill(self, rows: Sequence[Row], units: Sequence[str], times: Sequence[float]) -> None:
        """Put the features' values into rows, in which they come last."""
        first = len(self._record.features.asked)
        for row, unit, at in zip(rows, units, times, strict=True):
            row[first:] = [keyed.value(row, unit, at) for keyed in self._all]

    def packed(self) -> bytes:
        body = [keyed.kept() for keyed in self._all], [*self._remembered.items()]
        return msgpack.packb(body, unicode_errors="surrogatepass")  # pyright: ignore[reportReturnType]

    def restore(self, packed: bytes) -> None:
        """Become what `packed` was made of, bit for bit."""
        kept, remembered = msgpack.unpackb(packed, use_list=False, unicode_errors="surrogatepass", strict_map_key=False)
        for keyed, its in zip(self._all, kept, strict=True):
            keyed.restore(its)
        self._remembered = dict(remembered)


def _short(value: Value) -> Value:
    """A key's part; a long text by its digest, so that keys are bounded in bytes, too."""
    if isinstance(value, str) and len(value) > _LONG_TEXT:
        return blake2b(value.encode("utf-8", "surrogatepass"), digest_size=16).digest()
    return value
