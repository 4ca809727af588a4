"""What another policy would have earned on the same units, from logged propensities; or why that cannot be said."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from router.statistics.difference import Difference
from router.statistics.sequence import AsymptoticSequence

Numbers = Sequence[float] | np.ndarray
Table = Sequence[Sequence[float]] | np.ndarray


@dataclass(frozen=True, slots=True)
class Refused:
    """No estimate, and the reason in a sentence for the operator."""

    reason: str


@dataclass(frozen=True, slots=True)
class PolicyValue:
    """A policy's mean reward per unit.

    Attributes:
        n: logged units.
        effective_n: how many units drawn from the policy itself would say as much (Kish): (sum w)^2 / sum w^2.
        overlap: share of the units for which the log could have chosen all that the policy may choose.
    """

    value: float
    standard_error: float
    n: int
    effective_n: float
    overlap: float

    def interval(self, sequence: AsymptoticSequence) -> tuple[float, float]:
        """An interval for the value that may be watched; as asymptotic as `effective_n` is large."""
        return sequence.interval(Difference(self.value, self.standard_error, self.n))


@dataclass(frozen=True, slots=True)
class WeightedSums:
    """Sums over logged units, w = target probability of what was chosen / its logged propensity. Sums of disjoint units add up.

    Attributes:
        n: units.
        unknown: units without a propensity (0 or missing); they are in no other sum.
        certain: units that could have got nothing else (propensity 1).
        supported: units for which the log could have chosen all that the target may choose.
        modelled: units with a reward model's predictions.
        w, w2, wr, w2r, w2r2: sums of w, w^2, w r, w^2 r, w^2 r^2.
        largest: the largest w.
        score, score2: sums of the doubly robust score and of its square.

    >>> ours = WeightedSums.of(rewards=[1.0, 0.0], logged=[0.5, 0.5], target=[1.0, 0.0])
    >>> both = ours + WeightedSums.of(rewards=[0.0], logged=[0.25], target=[1.0])
    >>> both.n, both.w, both.wr, both.largest, both.effective_n
    (3, 6.0, 2.0, 4.0, 1.8)
    """

    n: int = 0
    unknown: int = 0
    certain: int = 0
    supported: int = 0
    modelled: int = 0
    w: float = 0.0
    w2: float = 0.0
    wr: float = 0.0
    w2r: float = 0.0
    w2r2: float = 0.0
    largest: float = 0.0
    score: float = 0.0
    score2: float = 0.0

    @staticmethod
    def of(
        rewards: Numbers,
        logged: Numbers,
        target: Numbers,
        *,
        supported: Sequence[bool] | np.ndarray | None = None,
        predicted: Numbers | None = None,
        expected: Numbers | None = None,
    ) -> "WeightedSums":
        """Sums from what was chosen alone; all arguments [n].

        Args:
            rewards: what each unit earned.
            logged: the probability with which the log's policy chose what it chose.
            target: the probability with which the target policy chooses just that: for "always arm B", 1 where B was
                chosen and 0 elsewhere.
            supported: where the log could have chosen all that the target may choose. None: everywhere but where
                something else than the target's choice was certain, which is as much as a single propensity tells.
            predicted: the reward model's prediction for what was chosen.
            expected: its prediction for the target, averaged over what that may choose. For an honest error both come from a
                model that has not learned from these units.

        Raises:
            ValueError: lengths differ, a probability is above 1 or a target below 0, or a reward or prediction is not finite.
        """
        r, p, pi = (np.asarray(one, dtype=np.float64) for one in (rewards, logged, target))
        if (predicted is None) != (expected is None):
            raise ValueError("a reward model gives predictions for what was chosen and for the target: both or none")
        given = [np.zeros_like(r) if one is None else np.asarray(one, dtype=np.float64) for one in (predicted, expected)]
        backed = (p < 1.0) | (pi >= 1.0) if supported is None else np.asarray(supported, dtype=bool)
        _check(r, p, pi, backed, *given)
        known = p > 0.0
        r, p, pi, backed, chosen, instead = (one[known] for one in (r, p, pi, backed, *given))
        w = pi / p
        scores = instead + w * (r - chosen) if predicted is not None else np.zeros_like(r)
        return WeightedSums(
            n=len(known),
            unknown=int((~known).sum()),
            certain=int((p >= 1.0).sum()),
            supported=int(backed.sum()),
            modelled=len(r) if predicted is not None else 0,
            w=float(w.sum()),
            w2=float(w @ w),
            wr=float(w @ r),
            w2r=float((w * w) @ r),
            w2r2=float((w * r) @ (w * r)),
            largest=float(w.max(initial=0.0)),
            score=float(scores.sum()),
            score2=float(scores @ scores),
        )

    @staticmethod
    def of_policies(
        chosen: Sequence[int] | np.ndarray, rewards: Numbers, logged: Table, target: Table, predictions: Table | None = None
    ) -> "WeightedSums":
        """Sums from whole distributions over k choices: support is then known, not guessed.

        Args:
            chosen: the index of what was chosen [n].
            rewards: [n].
            logged, target: the probabilities of each choice [n, k]; the target's sum to 1.
            predictions: the reward model's prediction for each choice [n, k].

        >>> logged, target = [[0.5, 0.5], [1.0, 0.0]], [[0.0, 1.0], [0.0, 1.0]]
        >>> sums = WeightedSums.of_policies([1, 0], [3.0, 1.0], logged, target)
        >>> sums.supported, sums.wr
        (1, 6.0)
        """
        index = np.asarray(chosen, dtype=np.int64)[:, None]
        p, pi = np.asarray(logged, dtype=np.float64), np.asarray(target, dtype=np.float64)
        if p.shape != pi.shape or len(p) != len(index) or not np.allclose(pi.sum(axis=1), 1.0):
            raise ValueError("logged and target must be [n, k] alike, and the target's rows sum to 1")
        q = None if predictions is None else np.asarray(predictions, dtype=np.float64)
        return WeightedSums.of(
            rewards,
            np.take_along_axis(p, index, axis=1)[:, 0],
            np.take_along_axis(pi, index, axis=1)[:, 0],
            supported=np.all((pi <= 0.0) | (p > 0.0), axis=1),
            predicted=None if q is None else np.take_along_axis(q, index, axis=1)[:, 0],
            expected=None if q is None else (pi * q).sum(axis=1),
        )

    def __add__(self, other: "WeightedSums") -> "WeightedSums":
        merged: dict[str, Any] = {one.name: getattr(self, one.name) + getattr(other, one.name) for one in fields(self)}
        merged["largest"] = max(self.largest, other.largest)
        return WeightedSums(**merged)

    @property
    def effective_n(self) -> float:
        return self.w**2 / self.w2 if self.w2 > 0.0 else 0.0

    @property
    def overlap(self) -> float:
        return self.supported / self.n if self.n else 0.0


def inverse_propensity(
    sums: WeightedSums, least_effective: float = 100.0, least_overlap: float = 0.95
) -> PolicyValue | Refused:
    """The mean of w r (IPS; Horvitz, Thompson 1952): unbiased, and the noisiest.

    >>> arm_b = WeightedSums.of([1.0, 0.0, 1.0, 1.0] * 100, [0.5] * 400, [1.0, 1.0, 0.0, 0.0] * 100)
    >>> estimate = inverse_propensity(arm_b)
    >>> estimate.value, round(estimate.standard_error, 4), estimate.effective_n, estimate.overlap
    (0.5, 0.0434, 200.0, 1.0)
    """
    return _refusal(sums, least_effective, least_overlap) or _mean(sums, sums.wr, sums.w2r2)


def self_normalised(sums: WeightedSums, least_effective: float = 100.0, least_overlap: float = 0.95) -> PolicyValue | Refused:
    """Sum of w r over sum of w (SNIPS; Swaminathan, Joachims 2015): a bias of order 1/n for much less noise; it stays within
    the rewards that were seen. The error is the delta method's.

    >>> nothing_random = WeightedSums.of([1.0] * 400, [1.0] * 400, [0.0] * 400)
    >>> self_normalised(nothing_random).reason
    'No support: each of the 400 units was certain to get something else than the target chooses.'
    """
    refusal = _refusal(sums, least_effective, least_overlap)
    if refusal:
        return refusal
    value = sums.wr / sums.w
    squares = max(0.0, sums.w2r2 - 2.0 * value * sums.w2r + value**2 * sums.w2)
    return _value(sums, value, math.sqrt(squares) / sums.w)


def doubly_robust(sums: WeightedSums, least_effective: float = 100.0, least_overlap: float = 0.95) -> PolicyValue | Refused:
    """The reward model's prediction for the target, corrected by w times its error on what was chosen (Dudik, Langford, Li
    2011, arXiv:1103.4601): right when either the propensities or the model are, and less noisy the better the model.

    >>> draw = np.random.default_rng(0)
    >>> arm, noise = draw.integers(2, size=400), draw.normal(0.0, 0.1, 400)
    >>> sums = WeightedSums.of(arm + noise, [0.5] * 400, arm, predicted=arm, expected=[1.0] * 400)
    >>> doubly_robust(sums).standard_error < 0.2 * inverse_propensity(sums).standard_error
    True
    """
    refusal = _refusal(sums, least_effective, least_overlap)
    if refusal:
        return refusal
    if sums.modelled < sums.n:
        return Refused(f"{sums.n - sums.modelled:,} of {sums.n:,} units have no prediction of the reward model.")
    return _mean(sums, sums.score, sums.score2)


def _check(r: np.ndarray, p: np.ndarray, pi: np.ndarray, *others: np.ndarray) -> None:
    if r.ndim != 1 or any(one.shape != r.shape for one in (p, pi, *others)):
        raise ValueError("each unit has one reward, one propensity, one target probability")
    if not all(np.isfinite(one).all() for one in (r, *others)):
        raise ValueError("rewards and predictions must be finite")
    if (p > 1.0).any() or not ((pi >= 0.0) & (pi <= 1.0)).all():
        raise ValueError("propensities and target probabilities must lie between 0 and 1")


def _refusal(sums: WeightedSums, least_effective: float, least_overlap: float) -> Refused | None:
    n, reason = sums.n, None
    if n < 2:
        reason = "There are fewer than two units."
    elif sums.unknown:
        reason = f"{sums.unknown:,} of {n:,} units have no propensity: their choice was not random, or nobody wrote down how."
    elif sums.certain == n and not sums.w2 > 0.0:
        reason = f"No support: each of the {n:,} units was certain to get something else than the target chooses."
    elif not sums.w2 > 0.0:
        reason = f"No support: none of the {n:,} units got anything that the target chooses."
    elif sums.overlap < least_overlap:
        reason = (
            f"Only {sums.overlap:.1%} of {n:,} units could have got all that the target may choose, below {least_overlap:.0%}."
        )
    elif sums.effective_n < least_effective:
        reason = f"{n:,} units weigh as much as {sums.effective_n:.0f} of the target's own, fewer than {least_effective:.0f}."
    return Refused(reason) if reason else None


def _mean(sums: WeightedSums, total: float, squares: float) -> PolicyValue:
    value = total / sums.n
    variance = max(0.0, squares - sums.n * value**2) / (sums.n - 1)
    return _value(sums, value, math.sqrt(variance / sums.n))


def _value(sums: WeightedSums, value: float, standard_error: float) -> PolicyValue:
    return PolicyValue(value, standard_error, sums.n, sums.effective_n, sums.overlap)
