"""The books of a shadow: its scores beside those that were the answers, and beside the labels where they come."""

from typing import Any

from router.accounts.scores import loss_of, right, shown
from router.statistics import Moments
from store.policy import Experiment
from store.records import Failures, Outcome, Predictions, Rankings, Shadows
from store.spec import ModelRecord

_SAMPLE = 4096
_WAITING = 200_000
_EARLY = 20_000
_UNITS = 1_000_000
_SLICES = 500


class Pairs:
    """One shadowing variant's sums.

    Attributes:
        count, agree: predictions, and those where both would decide alike (the same class); `failed`: those it could not score.
        gap: sum of absolute differences of scores; `seconds`: of runs per row, the shadow's and the answer's.
        sample: pairs (answer, shadow) of scores, every `every`-th one.
        slices: by "feature=value": predictions, those decided otherwise, and the sum of absolute differences.
        wins, losses: units where, on the unit's first label, only the shadow was right, and only the answer.
        moments: of units, the difference of losses (shadow minus answer) on that label, and the answer's loss.
    """

    def __init__(self, state: dict[str, Any] | None = None) -> None:
        state = state or {}
        self.count: int = state.get("count", 0)
        self.agree: int = state.get("agree", 0)
        self.failed: int = state.get("failed", 0)
        self.gap: float = state.get("gap", 0.0)
        self.seconds: list[float] = state.get("seconds") or [0.0, 0.0]
        self.sample: list[list[float]] = state.get("sample") or []
        self.every: int = state.get("every", 1)
        self.wins: int = state.get("wins", 0)
        self.losses: int = state.get("losses", 0)
        self.moments = Moments.unpacked(state["moments"]) if "moments" in state else Moments.empty(2)
        self.slices: dict[str, list[float]] = state.get("slices") or {}
        self.waiting: dict[str, list[Any]] = state.get("waiting") or {}
        self.units: dict[str, bool] = state.get("units") or {}

    def pack(self) -> dict[str, Any]:
        return {**vars(self), "moments": self.moments.pack()}


class PairedAccount:
    """A unit enters with its first labelled prediction, so that no unit weighs more than another."""

    def __init__(self, experiment: Experiment, record: ModelRecord, state: dict[str, Any] | None = None) -> None:
        self._record = record
        self.name = experiment.name
        state = state or {}
        self.variants = {name: Pairs(packed) for name, packed in state.get("variants", {}).items()}
        self._early: dict[str, list[Any]] = state.get("early") or {}
        self._from: int | None = state.get("from")

    def pack(self) -> dict[str, Any]:
        packed = {name: pairs.pack() for name, pairs in self.variants.items()}
        return {"variants": packed, "early": self._early, "from": self._from}

    def begin(self, experiment: Experiment, epoch: int) -> None:
        if self._from is None:
            self._from = epoch
        for variant in experiment.shares:
            self.variants.setdefault(variant, Pairs())

    def predictions(self, record: Predictions) -> None:
        """What answered comes with the shadows."""

    def failures(self, record: Failures) -> None:
        if self.name in record.experiments and record.variant in self.variants:
            self.variants[record.variant].failed += len(record.ids)

    def shadows(self, record: Shadows) -> None:
        pairs = self.variants.get(record.variant)
        if record.experiment != self.name or pairs is None:
            return
        pairs.seconds[0] += record.latency_s * len(record.ids)
        pairs.seconds[1] += record.answered_s * len(record.ids)
        slices = record.slices or [[]] * len(record.ids)
        for id_, unit, mine, answer, within in zip(
            record.ids, record.units, record.outputs, record.answers, slices, strict=True
        ):
            self._compare(pairs, mine, answer, within)
            if unit not in pairs.units:
                early = self._early.get(id_)
                if early is not None:
                    self._enter(pairs, unit, mine, answer, early[0])
                elif len(pairs.waiting) < _WAITING:
                    pairs.waiting[id_] = [unit, mine, answer]

    def _compare(self, pairs: Pairs, mine: list[float], answer: list[float], within: list[str]) -> None:
        one, other = shown(self._record, answer), shown(self._record, mine)
        if pairs.count % pairs.every == 0:
            pairs.sample.append([one, other])
            if len(pairs.sample) > _SAMPLE:
                pairs.sample = pairs.sample[::2]
                pairs.every *= 2
        pairs.count += 1
        pairs.gap += abs(other - one)
        agree = self._decision(answer) == self._decision(mine)
        pairs.agree += agree
        for name, value in zip(self._record.slices, within, strict=False):
            key = f"{name}={value}"
            if key in pairs.slices or len(pairs.slices) < _SLICES:
                row = pairs.slices.setdefault(key, [0, 0, 0.0])
                row[0] += 1
                row[1] += not agree
                row[2] += abs(other - one)

    def rankings(self, record: Rankings) -> None:
        """Shadows compare scores, not lists."""

    def outcome(self, outcome: Outcome) -> None:
        if not outcome.final:
            return
        for pairs in self.variants.values():
            if outcome.id in pairs.waiting:
                unit, mine, answer = pairs.waiting.pop(outcome.id)
                self._enter(pairs, unit, mine, answer, outcome.label)
        # A shadow's score may come after the label.
        self._early[outcome.id] = [outcome.label]
        if len(self._early) > _EARLY:
            del self._early[next(iter(self._early))]

    def close(self, now: float | None) -> None:
        """A unit closes with its first label."""

    def units_of_step(self, experiment: Experiment) -> int:
        return min((self.variants[variant].count for variant in experiment.shares), default=0)

    def _enter(self, pairs: Pairs, unit: str, mine: list[float], answer: list[float], label: Any) -> None:
        if unit in pairs.units or len(pairs.units) >= _UNITS:
            return
        pairs.units[unit] = True
        loss = loss_of(self._record, answer, label)
        pairs.moments = pairs.moments + Moments.of([[loss_of(self._record, mine, label) - loss, loss]])
        won, lost = right(self._record, mine, label), right(self._record, answer, label)
        pairs.wins += bool(won) and not lost
        pairs.losses += bool(lost) and not won

    def _decision(self, output: list[float]) -> Any:
        if self._record.objective == "multiclass":
            return max(range(len(output)), key=output.__getitem__)
        return output[0] > 0.5 if self._record.objective == "binary" else None
