"""What a gate sees of a version, and what it says. Gates are pure: the same case gives the same finding."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from scipy import special

from store.gates import Gates
from store.schema import Row
from store.spec import ModelRecord

Scores = Callable[[Sequence[Row]], np.ndarray]
"""From logged rows to scores, float [rows, outputs]."""


@dataclass(frozen=True, slots=True)
class Case:
    """A version that is to be judged, on recent outcomes that came before the batch it has just learned.

    Args:
        rows: [n], as logged, in the order of the outcomes; `labels` [n], class indexes or numbers, are theirs.
        scores: of the version on them, [n, outputs]; `losses` [n] of these scores.
        fresh: its scores on the batch itself, [rows, outputs].
        reference: losses [n] of the last good state on the same rows; both have learned from them alike.
        number: of judgements so far, this one included, from 1.
        score: the version's own; `score_before` the state's before the batch.
        weights: tensors that the version would ship.
        latency_s: measures, when called, the median time of so many rows, in seconds.
    """

    record: ModelRecord
    rows: Sequence[Row]
    labels: np.ndarray
    scores: np.ndarray
    losses: np.ndarray
    fresh: np.ndarray
    reference: np.ndarray
    number: int
    score: Scores
    score_before: Scores
    weights: Mapping[str, np.ndarray]
    latency_s: Callable[[int], float]

    @property
    def settings(self) -> Gates:
        return self.record.gates

    @property
    def alpha(self) -> float:
        """This judgement's part of `Gates.alpha`: alpha/(k(k + 1)) for the k-th sums up to alpha over all there will ever be,
        so that a union bound holds however many versions are watched, and however they depend on each other."""
        return self.settings.alpha / (self.number * (self.number + 1))


@dataclass(frozen=True, slots=True)
class Finding:
    """What a gate found. `problem` says why the version may not be published, empty where it may; `back`: the learner is to
    return to its last good state. `evidence` is plain data for the version's record."""

    problem: str = ""
    back: bool = False
    evidence: Mapping[str, Any] = field(default_factory=dict)


class Gate(Protocol):
    """One check. It is asked only where it applies."""

    name: str

    def applies(self, case: Case) -> bool:
        """Whether this gate is on, and has a meaning for the model's objective and enough to judge on."""
        ...

    def judge(self, case: Case) -> Finding: ...


def enough(case: Case) -> bool:
    return len(case.rows) >= case.settings.min_rows


def allowance(case: Case, share: float) -> float:
    """The growth of a mean loss that is within a margin: a share of the last good state's mean loss.

    A model that is almost always right has a loss near zero, of which any share is nothing: a hundredth of what the best
    constant answer would lose counts with it.
    """
    return share * (float(case.reference.mean()) + 0.01 * _constant_loss(case))


def surely_above(values: np.ndarray, bound: float, alpha: float) -> bool:
    """Whether the mean of `values` [n] exceeds a bound by more than chance: Student's one-sided test at `alpha`."""
    error = float(values.std(ddof=1)) / np.sqrt(len(values))
    return bool(values.mean() - bound > -float(special.stdtrit(len(values) - 1, alpha)) * error)


def _constant_loss(case: Case) -> float:
    if case.record.objective in ("regression", "ranking"):
        return float(case.labels.var())
    shares = np.unique(case.labels, return_counts=True)[1] / len(case.labels)
    return float(-(shares * np.log(shares)).sum())
