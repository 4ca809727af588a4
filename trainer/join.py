"""The label join: from the log of predictions and feedback to outcomes, in one order, each exactly once.

What the join knows is a function of the log alone: of a stretch of it, from `low_water` to its position. So its state needs
no checkpoint: after a crash the stretch is read again without emitting anything. Counters and the clock are kept with the
position, and move with it and with the outcomes in one atomic step (see trainer/loop.py).

A prediction is open until its label window ends; it is then remembered for one more window, to tell late feedback from
unknown. Feedback that overtakes its prediction is held for `HOLD_S`. What the stretch may not mistake: it begins `HOLD_S`
before the oldest prediction that matters, with the feedback that overtook it; a forgotten prediction still holds its
beginning back until nobody could take its last feedback for feedback that waits; and ids that clients use again are kept
in the state, with where their last use ended.
"""

import math
import re
from collections import OrderedDict, deque
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from itertools import islice

from store.protocols import Entry, position_key
from store.records import (
    Cut,
    Failures,
    Feedback,
    FeedbackBatch,
    Outcome,
    OutcomeRecord,
    Outcomes,
    Predictions,
    Rankings,
    Shadows,
    Tick,
    Vote,
    unpack_log,
)
from store.spec import ModelRecord
from trainer.labelling import Labelling, News
from trainer.memory import HOLD_S, Gone, Held, JoinState, Mark, Marks, Open

HOLD_EVENTS = 100_000
REUSED_IDS = 10_000
SKEW_QUORUM = 100
SERVER_ID = re.compile(r"[^:]+:([0-9a-f]{1,12})\.[\w-]{12}:\d+")


class LabelJoin:
    """Feed it log entries in order; it returns outcomes and cuts in order. Same entries, same outcomes."""

    def __init__(self, model: ModelRecord, state: JoinState | None = None) -> None:
        self._model = model
        self._policy = model.labels
        self._kind = model.labels.kind
        self._labelling = Labelling(model.labels, max(2, len(model.labels_known)))
        self._event_clock = model.clock == "event"
        self.every = model.schedule.outcomes
        self.state = state or JoinState()
        self._open: OrderedDict[str, Open] = OrderedDict()
        self._closed: OrderedDict[str, Open] = OrderedDict()
        self._gone: OrderedDict[str, Gone] = OrderedDict()
        self._held: dict[str, deque[Held]] = {}
        self._waiting: deque[Held] = deque()
        self._marks = Marks()
        self._mark = Mark("", 0.0, 0, 0.0)
        self._since = self._mark
        self._ended: dict[str, tuple[int, int]] = {}
        self._out: list[OutcomeRecord] = []
        self._silent = False

    @property
    def closes_at(self) -> float:
        """When the next label window ends whose end makes an outcome, by this join's clock; infinity if there is none."""
        if self._kind == "on_label" or not self._open:
            return math.inf
        return _first(self._open).opened_at + self._policy.window_s

    @contextmanager
    def rebuilding(self) -> Generator[None]:
        """Feed the log from `low_water` to the position again in here: the same knowledge, nothing emitted or counted."""
        kept, self.state = self.state, deepcopy(self.state)
        self._silent = True  # what is counted meanwhile is dropped with the state
        self._ended = {id_: position_key(position) for id_, position in kept.reused.items()}
        self.state.clock, self.state.skewed_in_a_row = kept.low_clock, kept.low_skewed
        try:
            yield
        finally:
            self._silent = False
            self._ended = {}
            self.state = kept

    def feed(self, entries: Sequence[Entry]) -> list[OutcomeRecord]:
        """Take in entries; return what follows from them, in order."""
        self._out = []
        for entry in entries:
            self._take(entry)
            self._expire()
        if entries:
            self._settle()
        return self._out

    def _settle(self) -> None:
        """Note where the stretch begins that everything known follows from."""
        remembered = (self._gone, self._closed, self._open)
        since = [first.since for kept in remembered for first in islice(kept.values(), 1)]
        since += [held.since for held in islice((held for held in self._waiting if not held.taken), 1)]
        low = min(since, key=lambda mark: position_key(mark.position), default=self._since)
        state = self.state
        state.low_water, state.low_clock, state.low_skewed = low.position, low.clock, low.skewed
        lowest = position_key(low.position)
        state.reused = {id_: at for id_, at in state.reused.items() if position_key(at) >= lowest}

    def _take(self, entry: Entry) -> None:
        arrived = position_key(entry.position)[0] / 1000.0
        self._mark = Mark(entry.position, self.state.clock, self.state.skewed_in_a_row, arrived)
        self._since = self._marks.since(self._mark)
        self._expire_held()
        try:
            record = unpack_log(entry.payload)
        except (ValueError, TypeError, IndexError):
            self.state.counts.unreadable += 1
            return
        if not self._event_clock:
            self.state.clock = max(self.state.clock, arrived)
        match record:
            case Predictions():
                self._predicted(record)
            case FeedbackBatch():
                self.state.counts.feedback += len(record.events)
                for event in record.events:
                    self._labelled(event, record.at)
            case Cut():
                self._cut(record.reason, record.at)
            case Tick() | Shadows() | Failures() | Rankings():
                pass

    def _follow(self, at: float) -> None:
        """Advance the event clock, by no more than the skew: one wrong `at` must not close windows.

        A jump that a hundred entries in a row make is a gap in the replay, and is followed; what lies in the future of the log
        itself is never.
        """
        state = self.state
        if at > self._mark.arrived + self._model.max_skew_s:
            self.state.counts.skewed += 1
            return
        if state.clock and at > state.clock + self._model.max_skew_s:
            state.skewed_in_a_row += 1
            self.state.counts.skewed += 1
            if state.skewed_in_a_row < SKEW_QUORUM:
                return
        state.skewed_in_a_row = 0
        state.clock = max(state.clock, at)

    def _predicted(self, record: Predictions) -> None:
        if record.event_times:
            self._follow(max(record.event_times))
        self.state.counts.predictions += len(record.ids)
        opened_at, since, at_once = self.state.clock, self._since, self._kind == "corrected"
        parallel = zip(record.ids, record.units, record.rows, record.outputs, record.arms, strict=True)
        for index, (id_, unit, row, output, arm) in enumerate(parallel):
            if self._is_over(id_):
                continue
            if known := self._open.get(id_) or self._closed.get(id_):
                known.reused = True
                self.state.counts.duplicate_ids += 1
                continue
            if gone := self._gone.pop(id_, None):
                self._reuse(id_, gone.position)
            at = min(record.event_times[index], opened_at) if record.event_times else record.at
            prediction = self._open[id_] = Open(since, opened_at, at, unit, row, output, record.served[arm])
            if at_once and id_ not in self._held:
                self._emit(id_, prediction, self._labelling.default(prediction, final=False))
            for held in self._held.pop(id_, ()):
                held.taken = True
                self._apply(held.event, held.received_at, prediction)

    def _labelled(self, event: Feedback, received_at: float) -> None:
        if self._is_over(event.id):
            return
        if prediction := self._open.get(event.id):
            self._apply(event, received_at, prediction)
        elif closed := self._closed.get(event.id):
            self._apply(event, received_at, closed, late=True)
        elif self._made_long_ago(event.id):
            self.state.counts.too_late += 1
        elif len(self._waiting) < HOLD_EVENTS:
            held = Held(self._since, self._mark.arrived, event, received_at)
            self._waiting.append(held)
            self._held.setdefault(event.id, deque()).append(held)
        else:
            self.state.counts.unknown += 1

    def _made_long_ago(self, id_: str) -> bool:
        """Whether an id made by the platform, which carries its time, is older than all that is remembered."""
        made = SERVER_ID.fullmatch(id_)
        if made is None or self._event_clock:
            return False
        return int(made[1], 16) / 1000.0 + 2 * self._policy.window_s < self.state.clock

    def _apply(self, event: Feedback, received_at: float, prediction: Open, late: bool = False) -> None:
        key, votes = (event.item, event.source), prediction.votes
        known = votes.get(key)
        if known is not None and known.label == event.label:
            self.state.counts.repeated += 1
            return
        waits = self._kind == "at_window" and not late
        if late:
            self.state.counts.late += 1
        elif known is not None:
            self.state.counts.corrected += 1
        elif not votes and not waits:
            self.state.counts.labelled += 1
        if known is not None:
            del votes[key]  # the newest is the last
        votes[key] = Vote(event.label, event.source, event.confidence)
        prediction.last = received_at, event.event_time
        if not waits:
            self._tell(event.id, prediction, not late)

    def _tell(self, id_: str, prediction: Open, final: bool) -> None:
        if news := self._labelling.news(prediction, final):
            self._emit(id_, prediction, news)
        elif len(prediction.votes) > 1:
            self.state.counts.repeated += 1

    def _expire(self) -> None:
        window, clock = self._policy.window_s, self.state.clock
        while self._open and _first(self._open).opened_at + window < clock:
            id_, prediction = self._open.popitem(last=False)
            self._close(id_, prediction)
            self._closed[id_] = prediction
        while self._closed and _first(self._closed).opened_at + 2 * window < clock:
            id_, prediction = self._closed.popitem(last=False)
            if prediction.reused:
                self._reuse(id_, self._mark.position)
            else:
                self._gone[id_] = Gone(prediction.since, self._mark.position, self._mark.arrived)
        while self._gone and next(iter(self._gone.values())).arrived + HOLD_S < self._mark.arrived:
            self._gone.popitem(last=False)

    def _close(self, id_: str, prediction: Open) -> None:
        """End a label window."""
        if self._kind != "on_label" and prediction.last is None:
            self.state.counts.defaulted += 1
            self._emit(id_, prediction, self._labelling.default(prediction, final=True))
        elif self._kind == "at_window":
            self.state.counts.labelled += 1
            self._tell(id_, prediction, True)

    def _expire_held(self) -> None:
        """Held feedback waits by arrival, whatever clock the windows have."""
        while self._waiting and (self._waiting[0].taken or self._waiting[0].arrived + HOLD_S < self._mark.arrived):
            held = self._waiting.popleft()
            if held.taken:
                continue
            self.state.counts.unknown += 1
            others = self._held[held.event.id]
            others.popleft()
            if not others:
                del self._held[held.event.id]

    def _reuse(self, id_: str, ended: str) -> None:
        """Keep where the former use of an id ended: read again from the middle of it, it would look like the present one."""
        self.state.reused.pop(id_, None)
        self.state.reused[id_] = ended
        if len(self.state.reused) > REUSED_IDS:
            self.state.reused.pop(next(iter(self.state.reused)))

    def _is_over(self, id_: str) -> bool:
        """Whether what is read again is about a former use of this id."""
        return bool(self._ended) and position_key(self._mark.position) <= self._ended.get(id_, (-1, 0))

    def _emit(self, id_: str, prediction: Open, news: News) -> None:
        if self._silent:
            return
        received_at, event_time = prediction.last or (self._mark.arrived, None)
        best = news.best
        outcome = Outcome(
            id_, prediction.unit, prediction.row, prediction.output, prediction.served, best.label, news.kind, news.final,
            prediction.predicted_at, received_at if event_time is None else event_time, received_at, best.source,
            best.confidence, news.replaces, news.votes if len(news.votes) > 1 else (), news.learned,
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


def _first(predictions: OrderedDict[str, Open]) -> Open:
    return next(iter(predictions.values()))
