"""The label join: from the log of predictions and feedback to outcomes, in one order, each exactly once.

What the join knows is a function of the log alone: of a stretch of it, from `low_water` to its position. So its state needs
no checkpoint: after a crash the stretch is read again without emitting anything. Counters and the clock are kept with the
position, and move with it and with the outcomes in one atomic step (see trainer/loop.py).

A prediction is open until its label window ends; it is then remembered for one more window, to tell late feedback from
unknown. Feedback that overtakes its prediction is held for `HOLD_S`.
"""

import re
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice

from pydantic import BaseModel

from store.protocols import Entry, position_key
from store.records import (
    Cut,
    Feedback,
    FeedbackBatch,
    Label,
    Outcome,
    OutcomeKind,
    OutcomeRecord,
    Outcomes,
    Predictions,
    Served,
    Shadows,
    Tick,
    unpack_log,
)
from store.schema import Row
from store.spec import ModelRecord

HOLD_S = 60.0
HOLD_IDS = 100_000
SKEW_QUORUM = 100
SERVER_ID = re.compile(r"[^:]+:([0-9a-f]{1,12})\.[\w-]{12}:\d+")


class JoinCounts(BaseModel):
    """What became of everything in the log. `unreadable` entries are skipped."""

    predictions: int = 0
    feedback: int = 0
    labelled: int = 0
    defaulted: int = 0
    corrected: int = 0
    repeated: int = 0
    late: int = 0
    unknown: int = 0
    duplicate_ids: int = 0
    skewed: int = 0
    unreadable: int = 0


class JoinState(BaseModel):
    """What is stored with the join's position. `low_water` is the oldest entry that still matters, empty when none does;
    `low_clock` and `low_skewed` are what `clock` and `skewed_in_a_row` were there."""

    low_water: str = ""
    low_clock: float = 0.0
    low_skewed: int = 0
    clock: float = 0.0
    skewed_in_a_row: int = 0
    since_cut: int = 0
    counts: JoinCounts = JoinCounts()


@dataclass(frozen=True, slots=True)
class _Mark:
    """Where in the log something began, and what the clocks were."""

    position: str
    clock: float
    skewed: int
    arrived: float


@dataclass(slots=True)
class _Open:
    """A prediction that may still get labels. `row` is dropped when its window has ended."""

    mark: _Mark
    opened_at: float
    predicted_at: float
    unit: str
    row: Row | None
    output: list[float]
    served: Served
    labels: dict[tuple[str, str], Label] = field(default_factory=dict[tuple[str, str], Label])
    last: tuple[Feedback, float] | None = None


@dataclass(slots=True)
class _Held:
    """Feedback that came before its prediction."""

    mark: _Mark
    events: list[tuple[Feedback, float]]


class LabelJoin:
    """Feed it log entries in order; it returns outcomes and cuts in order. Same entries, same outcomes."""

    def __init__(self, model: ModelRecord, state: JoinState | None = None) -> None:
        self._model = model
        self._policy = model.labels
        self._event_clock = model.clock == "event"
        self.every = model.schedule.outcomes
        self.state = state or JoinState()
        self._open: OrderedDict[str, _Open] = OrderedDict()
        self._closed: OrderedDict[str, _Open] = OrderedDict()
        self._held: OrderedDict[str, _Held] = OrderedDict()
        self._mark = _Mark("", 0.0, 0, 0.0)
        self._out: list[OutcomeRecord] = []
        self._silent = False

    def rebuild(self, entries: Sequence[Entry]) -> None:
        """Read the log from `low_water` to the position again: the same knowledge, nothing emitted or counted."""
        kept = self.state.model_copy(deep=True)
        self._silent = True
        self.state.clock, self.state.skewed_in_a_row = kept.low_clock, kept.low_skewed
        self.feed(entries)
        self._silent = False
        self.state = kept

    def feed(self, entries: Sequence[Entry]) -> list[OutcomeRecord]:
        """Take in entries; return what follows from them, in order."""
        self._out = []
        for entry in entries:
            self._take(entry)
            self._expire()
        marks = [first.mark for kept in (self._closed, self._open, self._held) for first in islice(kept.values(), 1)]
        low = min(marks, key=lambda mark: position_key(mark.position), default=None)
        self.state.low_water = low.position if low else ""
        self.state.low_clock, self.state.low_skewed = (low.clock, low.skewed) if low else (0.0, 0)
        return self._out

    def _take(self, entry: Entry) -> None:
        arrived = position_key(entry.position)[0] / 1000.0
        self._mark = _Mark(entry.position, self.state.clock, self.state.skewed_in_a_row, arrived)
        try:
            record = unpack_log(entry.payload)
        except (ValueError, TypeError, IndexError):
            self._count("unreadable")
            return
        if not self._event_clock:
            self.state.clock = max(self.state.clock, arrived)
        match record:
            case Predictions():
                if record.event_times:
                    self._follow(max(record.event_times))
                self._predicted(record)
            case FeedbackBatch():
                for event in record.events:
                    self._labelled(event, record.at)
            case Cut():
                self._cut(record.reason, record.at)
            case Tick() | Shadows():
                pass

    def _follow(self, at: float) -> None:
        """Advance the event clock, by no more than the skew: one wrong `at` must not close windows.

        A jump that a hundred entries in a row agree on is a gap in the replay, and is followed.
        """
        state = self.state
        if state.clock and at > state.clock + self._model.max_skew_s:
            state.skewed_in_a_row += 1
            self._count("skewed")
            if state.skewed_in_a_row < SKEW_QUORUM:
                return
        state.skewed_in_a_row = 0
        state.clock = max(state.clock, at)

    def _predicted(self, record: Predictions) -> None:
        self._count("predictions", len(record.ids))
        for index, id_ in enumerate(record.ids):
            if id_ in self._open or id_ in self._closed:
                self._count("duplicate_ids")
                continue
            at = min(record.event_times[index], self.state.clock) if record.event_times else record.at
            served = record.served[record.arms[index]]
            unit, row, output = record.units[index], record.rows[index], record.outputs[index]
            prediction = _Open(self._mark, self.state.clock, at, unit, row, output, served)
            self._open[id_] = prediction
            if held := self._held.pop(id_, None):
                for event, received_at in held.events:
                    self._apply(event, received_at, prediction)

    def _labelled(self, event: Feedback, received_at: float) -> None:
        self._count("feedback")
        if prediction := self._open.get(event.id):
            self._apply(event, received_at, prediction)
        elif closed := self._closed.get(event.id):
            known = closed.labels.get((event.item, event.source))
            self._count("repeated" if known == event.label else "late")
        elif self._made_long_ago(event.id):
            self._count("late")
        elif held := self._held.get(event.id):
            held.events.append((event, received_at))
        elif len(self._held) < HOLD_IDS:
            self._held[event.id] = _Held(self._mark, [(event, received_at)])
        else:
            self._count("unknown")

    def _made_long_ago(self, id_: str) -> bool:
        """Whether an id made by the platform, which carries its time, is older than all that is remembered."""
        made = SERVER_ID.fullmatch(id_)
        if made is None or self._event_clock:
            return False
        return int(made[1], 16) / 1000.0 + 2 * self._policy.window_s < self.state.clock

    def _apply(self, event: Feedback, received_at: float, prediction: _Open) -> None:
        key = (event.item, event.source)
        known = prediction.labels.get(key)
        if known is not None and known == event.label:
            self._count("repeated")
            return
        prediction.labels[key] = event.label
        prediction.last = (event, received_at)
        if known is not None:
            self._count("corrected")
        if self._policy.kind == "on_label":
            self._count("labelled", 0 if known is not None else 1)
            self._emit(event.id, prediction, "label" if known is None else "correction")

    def _expire(self) -> None:
        window, clock = self._policy.window_s, self.state.clock
        while self._open and _first(self._open).opened_at + window < clock:
            id_, prediction = self._open.popitem(last=False)
            if self._policy.kind == "at_window":
                self._count("defaulted" if prediction.last is None else "labelled")
                self._emit(id_, prediction, "default" if prediction.last is None else "label")
            prediction.row = None
            self._closed[id_] = prediction
        while self._closed and _first(self._closed).opened_at + 2 * window < clock:
            self._closed.popitem(last=False)
        # Held feedback waits by arrival, whatever clock the windows have.
        while self._held and next(iter(self._held.values())).mark.arrived + HOLD_S < self._mark.arrived:
            _, held = self._held.popitem(last=False)
            self._count("unknown", len(held.events))

    def _emit(self, id_: str, prediction: _Open, kind: OutcomeKind) -> None:
        label = prediction.last[0].label if prediction.last else self._policy.default
        assert label is not None
        assert prediction.row is not None
        if self._silent:
            return
        event, received_at = prediction.last or (Feedback(id_, label), self._mark.arrived)
        labelled_at = received_at if event.event_time is None else event.event_time
        outcome = Outcome(
            id_, prediction.unit, prediction.row, prediction.output, prediction.served, label, kind, True,
            prediction.predicted_at, labelled_at, received_at, event.source, event.confidence,
        )  # fmt: skip
        if self._out and isinstance(self._out[-1], Outcomes):
            self._out[-1].outcomes.append(outcome)
        else:
            self._out.append(Outcomes([outcome]))
        self.state.since_cut += 1
        if self.every and self.state.since_cut >= self.every:
            self._cut(f"every {self.every} outcomes", received_at)

    def _cut(self, reason: str, at: float) -> None:
        if not self._silent:
            self._out.append(Cut(reason, at, self._mark.position))
            self.state.since_cut = 0

    def _count(self, name: str, by: int = 1) -> None:
        if not self._silent:
            setattr(self.state.counts, name, getattr(self.state.counts, name) + by)


def _first(predictions: OrderedDict[str, _Open]) -> _Open:
    return next(iter(predictions.values()))
