"""What came of all arms, side by side: quality over the same predictions, and what it cost."""

import math
from collections.abc import Mapping

import numpy as np
from pydantic import BaseModel, ConfigDict
from sklearn.metrics import roc_auc_score

from store.spec import Objective
from trainer.gates.losses import losses
from tuning.arm import Arm, Course, Kind
from tuning.cadence import CADENCES, Cadence
from tuning.journal import Journal

_DRAWS = 1_000
_DAY_S = 86_400.0


class Interval(BaseModel):
    """A difference in mean loss and its 95 % interval, days drawn with replacement: what a day brings is not independent."""

    model_config = ConfigDict(frozen=True)

    mean: float
    low: float
    high: float


class ArmResult(BaseModel):
    """What an arm came to. `seconds` are processor seconds of learning alone, with the first model's (`first_seconds`), by one
    thread; scoring is not in them. `steps` models are needed, and `carried_out` were made: where these are fewer, seconds and
    outcomes are extrapolated from them, and quality is of the predictions that they scored. `over_never` is the loss above that
    of never learning again, over the same predictions; below zero is better."""

    model_config = ConfigDict(frozen=True)

    cadence: Cadence
    kind: Kind
    extrapolated: bool
    steps: int
    carried_out: int
    seconds: float
    first_seconds: float
    outcomes: int
    scored: int
    loss: float
    auc: float | None
    over_never: Interval | None = None

    @property
    def name(self) -> str:
        return f"{self.cadence}, {self.kind}"


class Pair(BaseModel):
    """Stateful against stateless at one cadence. `cost_ratio`: how many times less the stateful one cost, `updates_ratio`
    without the first models; `loss`: the stateful one's above the stateless one's, over the same predictions."""

    model_config = ConfigDict(frozen=True)

    cadence: Cadence
    extrapolated: bool
    cost_ratio: float
    updates_ratio: float | None
    loss: Interval
    predictions: int


class Result(BaseModel):
    """What `freshness.json` holds. `start` and `end`: of what is scored, in seconds since 1970; `loss_name` is what quality is
    measured in."""

    model_config = ConfigDict(frozen=True)

    model: str
    objective: Objective
    loss_name: str
    window_days: float
    passes: int
    start: float
    end: float
    predictions: int
    arms: tuple[ArmResult, ...]
    pairs: tuple[Pair, ...]

    def arm(self, cadence: Cadence, kind: Kind) -> ArmResult:
        """Raises KeyError where there is none."""
        for one in self.arms:
            if (one.cadence, one.kind) == (cadence, kind):
                return one
        raise KeyError(f"{cadence} {kind}")


class _Losses:
    """Of each scored prediction, NaN where an arm's models did not score it."""

    def __init__(self, course: Course, journals: Mapping[Arm, Journal]) -> None:
        record = course.spec.record
        self.labels, self.at, self.binary = course.scored.labels, course.scored.at, record.objective == "binary"
        self.by: dict[Arm, np.ndarray] = {}
        self.scores: dict[Arm, np.ndarray] = {}
        for arm, journal in journals.items():
            places, scores = journal.scores()
            self.by[arm] = np.full(len(self.labels), math.nan)
            self.by[arm][places] = losses(record.objective, self.labels[places], scores)
            self.scores[arm] = np.full(len(self.labels), math.nan)
            self.scores[arm][places] = scores[:, 0]

    def auc(self, arm: Arm) -> float | None:
        known = ~np.isnan(self.scores[arm])
        labels = self.labels[known] > 0.5
        if not self.binary or labels.all() or not labels.any():
            return None
        return float(roc_auc_score(labels, self.scores[arm][known]))

    def difference(self, one: Arm, other: Arm) -> tuple[Interval, int]:
        """The loss of one above the other's, where both scored; and over how many predictions."""
        apart = self.by[one] - self.by[other]
        known = ~np.isnan(apart)
        days = np.unique((self.at[known] // _DAY_S).astype(np.int64), return_inverse=True)[1]
        sums, counts = np.bincount(days, apart[known]), np.bincount(days)
        drawn = np.random.default_rng(0).integers(len(sums), size=(_DRAWS, len(sums)))
        means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
        low, high = np.quantile(means, (0.025, 0.975))
        return Interval(mean=float(sums.sum() / counts.sum()), low=float(low), high=float(high)), int(known.sum())


def compared(course: Course, model: str, journals: Mapping[Arm, Journal], window_days: float) -> Result:
    """Lay all finished arms side by side."""
    found = _Losses(course, journals)
    arms = [_arm(course, found, arm, journal) for arm, journal in journals.items()]
    known = {Arm(one.cadence, one.kind): one for one in arms}
    pairs = [
        _pair(found, known[Arm(cadence, "stateful")], known[Arm(cadence, "stateless")])
        for cadence in CADENCES
        if cadence != "never" and {Arm(cadence, "stateful"), Arm(cadence, "stateless")} <= known.keys()
    ]
    objective = course.spec.objective
    return Result(
        model=model, objective=objective,
        loss_name="log loss" if objective in ("binary", "multiclass") else "squared error",
        window_days=window_days, passes=course.passes, start=course.start, end=course.end, predictions=len(course.scored),
        arms=tuple(sorted(arms, key=lambda one: (one.kind != "stateful", CADENCES.index(one.cadence)))), pairs=tuple(pairs),
    )  # fmt: skip


def _arm(course: Course, found: _Losses, arm: Arm, journal: Journal) -> ArmResult:
    steps, carried_out = len(course.all_steps(arm)), journal.through
    extrapolated = course.extrapolated(arm)
    times = steps / carried_out if extrapolated else 1.0
    never = Arm("never", arm.kind)
    own = found.by[arm]
    seconds = sum(leg.seconds for leg in journal.legs)
    return ArmResult(
        cadence=arm.cadence, kind=arm.kind, extrapolated=extrapolated, steps=steps, carried_out=carried_out,
        seconds=seconds * times, first_seconds=seconds / carried_out if extrapolated else journal.legs[0].seconds,
        outcomes=round(sum(leg.outcomes for leg in journal.legs) * times), scored=int((~np.isnan(own)).sum()),
        loss=float(np.nanmean(own)), auc=found.auc(arm),
        over_never=found.difference(arm, never)[0] if arm != never and never in found.by else None,
    )  # fmt: skip


def _pair(found: _Losses, stateful: ArmResult, stateless: ArmResult) -> Pair:
    loss, predictions = found.difference(Arm(stateful.cadence, "stateful"), Arm(stateless.cadence, "stateless"))
    updates = stateful.seconds - stateful.first_seconds
    return Pair(
        cadence=stateful.cadence, extrapolated=stateless.extrapolated, loss=loss, predictions=predictions,
        cost_ratio=stateless.seconds / stateful.seconds if stateful.seconds > 0 else math.inf,
        updates_ratio=(stateless.seconds - stateless.first_seconds) / updates if updates > 0 else None,
    )  # fmt: skip
