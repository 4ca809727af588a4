"""The books of an experiment whose arms answer: units, events, outcomes, by arm and stage."""

from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np

from router.accounts.scores import adds, shown
from router.statistics import Moments
from store.policy import Experiment
from store.records import Failures, Outcome, Predictions, Rankings, Shadows
from store.spec import ModelRecord

GUARDS = ("errors", "timeouts", "latency", "scores")
"""Events of a unit, each counted once at the most: its arm failed, took too long for an answer, ran slower than the threshold,
or gave a score that the baseline hardly ever gives."""

MEASURES = ("loss", "outcomes", "label", "before", "before_outcomes")
"""What a unit brings into its arm's moments when it closes: sums over its outcomes, and over those from before its time."""

_BITS = {guard: 1 << place for place, guard in enumerate(GUARDS)}
_CALIBRATION = {"scores": 500, "latency": 200}
_TAIL = 0.01
_SLOWER = 2.0
_MAX_UNITS = 1_000_000
_KEPT_S = 30 * 86_400.0
_ARM, _STAGE, _AT, _FLAGS, _PREDICTIONS, _LOSS, _OUTCOMES, _LABEL, _CLOSED = range(9)


@dataclass(frozen=True, slots=True)
class Stage:
    """A stretch with the same shares, from `epoch` on. `units`: first exposures by arm; `events`: by guard and arm."""

    epoch: int
    shares: tuple[float, ...]
    units: list[int]
    events: dict[str, list[int]]


class ArmsAccount:
    """Keeps, by unit, its first arm and what happened in its window; when the window closes the unit enters the sums, once.

    A unit belongs to the arm and the stage of its first exposure, and only what that arm did in that stage counts: when
    shares change, windows of both arms end alike. The first predictions of the baseline say what counts as a slow run and as
    an unusual score; before that, nothing does, in any arm.

    Attributes:
        arms: their names, the baseline first.
        closed: units that have closed, by arm; `flagged` those of them with an event, by guard and arm.
        overflow: units not taken in because the table is full.
        labels: outcomes seen, of whomever: whether labels come at all.
    """

    def __init__(self, experiment: Experiment, record: ModelRecord, state: dict[str, Any] | None = None) -> None:
        self._record = record
        self.name = experiment.name
        self._configure(experiment)
        state = state or {}
        self.arms: list[str] = state.get("arms") or [experiment.baseline]
        self.stages = [Stage(epoch, tuple(shares), units, events) for epoch, shares, units, events in state.get("stages", ())]
        self.closed: list[int] = state.get("closed") or [0]
        self.predictions_by_arm: list[int] = state.get("predictions") or [0]
        self.flagged: dict[str, list[int]] = state.get("flagged") or {guard: [0] for guard in GUARDS}
        self.overflow: int = state.get("overflow", 0)
        self.labels: int = state.get("labels", 0)
        self.moments = [Moments.unpacked(packed) for packed in state.get("moments", ())] or [Moments.empty(len(MEASURES))]
        self._units: dict[str, list[Any]] = state.get("units") or {}
        self._before: dict[str, list[float]] = state.get("before") or {}
        self._samples: dict[str, list[float]] = state.get("samples") or {}
        self.thresholds: dict[str, list[float]] = state.get("thresholds") or {}
        self._seen: float = state.get("seen", 0.0)
        self._stage_of: dict[int, int] = {epoch: stage for epoch, stage in state.get("epochs", ())}
        self._open = deque(unit for unit, row in self._units.items() if not row[_CLOSED])
        self._kept = deque(unit for unit, row in self._units.items() if row[_CLOSED])

    def pack(self) -> dict[str, Any]:
        return {
            "arms": self.arms,
            "epochs": list(self._stage_of.items()),
            "stages": [(stage.epoch, stage.shares, stage.units, stage.events) for stage in self.stages],
            "closed": self.closed,
            "predictions": self.predictions_by_arm,
            "flagged": self.flagged,
            "overflow": self.overflow,
            "labels": self.labels,
            "moments": [moments.pack() for moments in self.moments],
            "units": self._units,
            "before": self._before,
            "samples": self._samples,
            "thresholds": self.thresholds,
            "seen": self._seen,
        }

    def _configure(self, experiment: Experiment) -> None:
        self._window_s = experiment.judging.window_s
        self._labels_s = experiment.judging.labels_s
        self._metric = experiment.judging.metric
        self._slo_s = experiment.judging.slo_ms / 1000 if experiment.judging.slo_ms is not None else None

    def begin(self, experiment: Experiment, epoch: int) -> None:
        if epoch in self._stage_of:
            return
        self._configure(experiment)
        shares: dict[str, float] = {}
        for piece in experiment.slices:
            shares[piece.owner] = shares.get(piece.owner, 0.0) + piece.end - piece.start
        for arm in shares:
            if arm not in self.arms:
                self._add_arm(arm)
        total = sum(shares.values())
        by_arm = tuple(shares.get(arm, 0.0) / total for arm in self.arms)
        if not self.stages or self.stages[-1].shares != by_arm:
            zeros = [0] * len(self.arms)
            self.stages.append(Stage(epoch, by_arm, list(zeros), {guard: list(zeros) for guard in GUARDS}))
        self._stage_of[epoch] = len(self.stages) - 1

    def _add_arm(self, arm: str) -> None:
        self.arms.append(arm)
        self.closed.append(0)
        self.predictions_by_arm.append(0)
        self.moments.append(Moments.empty(len(MEASURES)))
        for counts in self.flagged.values():
            counts.append(0)
        for place, stage in enumerate(self.stages):
            events = {guard: [*counts, 0] for guard, counts in stage.events.items()}
            self.stages[place] = Stage(stage.epoch, (*stage.shares, 0.0), [*stage.units, 0], events)

    def predictions(self, record: Predictions) -> None:
        sizes: dict[int, int] = {}
        mine = [self.name in served.experiments and served.variant in self.arms for served in record.served]
        if not any(mine):
            return
        for place in record.arms:
            sizes[place] = sizes.get(place, 0) + 1
        for index, place in enumerate(record.arms):
            if not mine[place]:
                continue
            served = record.served[place]
            at = record.event_times[index] if record.event_times is not None else record.at
            arm = self.arms.index(served.variant)
            self.predictions_by_arm[arm] += 1
            row = self._row(record.units[index], arm, served.epoch, at)
            score = shown(self._record, record.outputs[index])
            slow = self._slow(served.latency_s, sizes[place], arm == 0)
            odd = self._odd(score, arm == 0)
            if row is None:
                continue
            row[_PREDICTIONS] += 1
            if slow:
                self._flag(row, "latency")
            if odd:
                self._flag(row, "scores")

    def failures(self, record: Failures) -> None:
        if self.name not in record.experiments or record.variant not in self.arms:
            return
        for index, unit in enumerate(record.units):
            at = record.event_times[index] if record.event_times is not None else record.at
            row = self._row(unit, self.arms.index(record.variant), record.epoch, at)
            if row is not None:
                self._flag(row, "timeouts" if record.reason == "timeout" else "errors")

    def shadows(self, record: Shadows) -> None:
        """Nobody shadows an arm that answers."""

    def rankings(self, record: Rankings) -> None:
        """The items of a list that one arm ranked are predictions of that arm."""

    def outcome(self, outcome: Outcome) -> None:
        if not outcome.final:
            return
        loss, label, count = adds(self._record, outcome)
        self.labels += count
        if self.stages and outcome.served.epoch < self.stages[0].epoch:
            if len(self._before) < _MAX_UNITS:
                before = self._before.setdefault(outcome.unit, [0.0, 0.0])
                before[0] += loss if self._metric == "loss" else label
                before[1] += count
            return
        served = outcome.served
        if self.name not in served.experiments or served.variant not in self.arms:
            return
        row = self._row(outcome.unit, self.arms.index(served.variant), served.epoch, outcome.predicted_at)
        if row is not None:
            row[_LOSS] += loss
            row[_OUTCOMES] += count
            row[_LABEL] += label

    def close(self, now: float | None) -> None:
        now = self._seen if now is None else now
        entering: list[list[list[float]]] = [[] for _ in self.arms]
        while self._open:
            unit = self._open[0]
            row = self._units[unit]
            if row[_AT] + self._window_s + self._labels_s > now:
                break
            self._open.popleft()
            self._kept.append(unit)
            arm = row[_ARM]
            self.closed[arm] += 1
            for guard, bit in _BITS.items():
                self.flagged[guard][arm] += bool(row[_FLAGS] & bit)
            before = self._before.pop(unit, (0.0, 0.0))
            entering[arm].append([row[_LOSS], row[_OUTCOMES], row[_LABEL], *before])
            self._units[unit] = [*row[:_LOSS], 0.0, 0, 0.0, True]
        for arm, rows in enumerate(entering):
            if rows:
                self.moments[arm] = self.moments[arm] + Moments.of(rows)
        while self._kept and self._units[self._kept[0]][_AT] + max(_KEPT_S, self._window_s + self._labels_s) < now:
            del self._units[self._kept.popleft()]

    def units_of_step(self, experiment: Experiment) -> int:
        stage = self.stages[-1]
        return sum(stage.units[self.arms.index(arm)] for arm in experiment.shares if arm != experiment.baseline)

    def _row(self, unit: str, arm: int, epoch: int, at: float) -> list[Any] | None:
        """Return the unit's open row for what this arm did in this epoch, a new one if it was never seen."""
        stage = self._stage_of.get(epoch)
        if stage is None:
            return None  # before the experiment, or planned on a policy that went before it was seen here: in no arm's favour
        self._seen = max(self._seen, at)
        row = self._units.get(unit)
        if row is None:
            if len(self._units) >= _MAX_UNITS:
                self.overflow += 1
                return None
            row = self._units[unit] = [arm, stage, at, 0, 0, 0.0, 0, 0.0, False]
            self._open.append(unit)
            self.stages[stage].units[arm] += 1
            return row
        if row[_CLOSED] or row[_ARM] != arm or row[_STAGE] != stage or at > row[_AT] + self._window_s:
            return None
        return row

    def _flag(self, row: list[Any], guard: str) -> None:
        bit = _BITS[guard]
        if not row[_FLAGS] & bit:
            row[_FLAGS] |= bit
            self.stages[row[_STAGE]].events[guard][row[_ARM]] += 1

    def _slow(self, seconds: float, size: int, baseline: bool) -> bool:
        """Whether a run took too long for as many rows as it was given; a page that needed no run says nothing."""
        if seconds <= 0.0:
            return False
        if self._slo_s is not None:
            return seconds > self._slo_s
        key = f"latency {size.bit_length()}"
        threshold = self.thresholds.get(key)
        if threshold is not None:
            return seconds > threshold[0]
        if baseline:
            sample = self._samples.setdefault(key, [])
            sample.append(seconds)
            if len(sample) >= _CALIBRATION["latency"]:
                self.thresholds[key] = [_SLOWER * float(np.quantile(self._samples.pop(key), 1.0 - _TAIL))]
        return False

    def _odd(self, score: float, baseline: bool) -> bool:
        """Whether a score lies outside of what all but 1 % of the baseline's first ones were."""
        bounds = self.thresholds.get("scores")
        if bounds is not None:
            return not bounds[0] <= score <= bounds[1]
        if baseline:
            sample = self._samples.setdefault("scores", [])
            sample.append(score)
            if len(sample) >= _CALIBRATION["scores"]:
                self.thresholds["scores"] = np.quantile(self._samples.pop("scores"), [_TAIL / 2, 1 - _TAIL / 2]).tolist()
        return False
