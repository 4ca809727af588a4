"""What a batch of outcomes teaches: for each class how much its loss counts, and what is taken back of what was taught before.

The votes on a prediction are independent of each other given the true class `y`. With the model's own probability `p(y)` and
the votes' likelihoods, `q(y) ∝ p(y) Π P(vote | y)` is what the class most likely is, and the loss of a row is
`Σ_y q(y) loss(y)`, with `q` held fixed: its gradient is that of the votes' marginal log-likelihood, so that a calibrated model
stays one however noisy its labels are (expectation-maximisation; the noise-aware loss of Ratner et al. 2016 with the model as
one more voter). A sure label is the one-hot `q`.

A row that was taught before, by other votes, is taught the difference, `q_now - q_before`: to first order the model is then
where it would be without the old label.

Policy `corrected`, binary: the default is taught at once to everybody, and a label that is another follows as a sample of its
own. Weights `(1 - p)(1 + p)` for the default and `1 + p` for the other, where `p` is the probability of the other, make the
expected gradient that of the true labels (fake-negative weighting: Ktena et al. 2019, arXiv 1907.06558).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from store.labels import likely_right
from store.records import Label, Outcome, Vote
from store.spec import LabelPolicy, ModelRecord
from trainer.trust import Trust

_DOUBT = 1e-6
"""Nobody but those who are taken at their word is surer than this."""


def progressive(policy: LabelPolicy, outcomes: Sequence[Outcome]) -> list[int]:
    """Return the places of those whose label nothing was taught of before: by them a model is judged.

    With `corrected`, whose default everybody is taught, those whose label has become final.
    """
    early = policy.kind == "corrected"
    return [place for place, one in enumerate(outcomes) if (one.final if early else not one.learned)]


@dataclass(frozen=True, slots=True)
class Term:
    """One summand of the rows' losses: that of these labels [rows], times these weights [rows]; float64, labels as numbers or
    as the classes' indices."""

    labels: np.ndarray
    weights: np.ndarray


class Teaching:
    """Turns outcomes into terms of a loss.

    Args:
        state: of the sources' accuracies, as `trust.packed` gave it.
    """

    def __init__(self, record: ModelRecord, state: str = "") -> None:
        self._record, self._policy = record, record.labels
        self._index = {name: number for number, name in enumerate(record.classes)}
        self._classes = max(2, len(record.classes)) if record.objective in ("binary", "multiclass") else 0
        self.trust = Trust(record.labels, max(2, self._classes), state)

    def label(self, label: Label) -> float:
        """A label as a number, or as its class's index."""
        return float(self._index[str(label)]) if self._record.objective == "multiclass" else float(label)

    def news(self, outcomes: Sequence[Outcome]) -> list[int]:
        """Return the places of those that teach anything: not a label that says what was taught already."""
        return [
            place for place, one in enumerate(outcomes) if not one.learned or self._worth(one.said) != self._worth(one.learned)
        ]

    def plain(self, outcomes: Sequence[Outcome]) -> bool:
        """Whether each teaches just its label."""
        if self._policy.kind == "corrected" or any(one.learned or one.votes or one.confidence < 1.0 for one in outcomes):
            return False
        return not self._policy.sources or all(self._policy.accuracy(one.source) >= 1.0 for one in outcomes)

    def terms(self, outcomes: Sequence[Outcome], probabilities: np.ndarray) -> list[Term]:
        """Return the terms whose sum the rows' losses are, and judge the sources by the votes that are new.

        Args:
            probabilities: of the classes, by the model as it is, float64 [rows, classes]; not looked at where there are none.
        """
        if not self._classes:
            return self._values(outcomes)
        with np.errstate(divide="ignore"):
            model = np.log(np.clip(probabilities, 1e-12, 1.0))
            single = self._single(vote for one in outcomes for votes in (one.said, one.learned) for vote in votes)
            now = model + self._likelihoods([one.said for one in outcomes], single)
            before = model + self._likelihoods([one.learned for one in outcomes], single)
            self._judge(outcomes, now, single)
        told = np.array([bool(one.learned) for one in outcomes])
        weights = _normalised(now)
        if self._policy.kind == "corrected" and self._classes == 2:
            weights = self._corrected(outcomes, probabilities, weights, _normalised(before), told)
        else:
            weights = weights - np.where(told[:, None], _normalised(before), 0.0)
        rows = len(outcomes)
        return [Term(np.full(rows, float(number)), weights[:, number]) for number in range(self._classes)]

    def worth(self, votes: Sequence[tuple[Vote, ...]]) -> np.ndarray:
        """Return what votes on each row say of its class, [rows, classes] that sum to 1 in each: their likelihood under each
        class, by how right their sources show to be now. One that is right no more often than chance says nothing."""
        with np.errstate(divide="ignore"):
            return _normalised(self._likelihoods(votes, self._single(vote for said in votes for vote in said)))

    def _corrected(
        self, outcomes: Sequence[Outcome], probabilities: np.ndarray, now: np.ndarray, before: np.ndarray, told: np.ndarray
    ) -> np.ndarray:
        assert self._policy.default is not None
        default = int(self.label(self._policy.default))
        other = 1 - default
        p = probabilities[:, other]
        labelled = np.array([one.kind != "default" for one in outcomes])
        by_default = np.array([one.learned == (Vote(self._policy.default),) for one in outcomes])
        weights = np.zeros_like(now)
        weights[:, default] = np.where(told, 0.0, (1.0 - p) * (1.0 + p))
        gained = np.where(labelled, now[:, other], 0.0) - np.where(told & ~by_default, before[:, other], 0.0)
        weights[:, other] = gained * (1.0 + p)
        return weights

    def _likelihoods(self, votes: Sequence[tuple[Vote, ...]], single: dict[Vote, np.ndarray]) -> np.ndarray:
        """The log-likelihood of each row's votes under each class [rows, classes]."""
        known: dict[tuple[Vote, ...], np.ndarray] = {(): np.zeros(self._classes)}
        for said in votes:
            if said not in known:
                known[said] = np.sum([single[vote] for vote in said], axis=0)
        return np.array([known[said] for said in votes]).reshape(len(votes), self._classes)

    def _single(self, votes: Iterable[Vote]) -> dict[Vote, np.ndarray]:
        """The log-likelihood of each vote under each class [classes]; finite unless it is sure."""
        accuracies, found = self.trust.accuracies(), dict[Vote, np.ndarray]()
        for vote in set(votes):
            declared = self._policy.accuracy(vote.source)
            right = 1.0
            if declared * vote.confidence < 1.0:
                accuracy = accuracies.get(self.trust.name(vote.source), declared) if declared < 1.0 else 1.0
                right = likely_right(accuracy, vote.confidence, self._classes)
                right = min(max(right, _DOUBT), 1.0 - _DOUBT)
            each = np.full(self._classes, (1.0 - right) / (self._classes - 1))
            each[int(self.label(vote.label))] = right
            found[vote] = np.log(each)
        return found

    def _judge(self, outcomes: Sequence[Outcome], now: np.ndarray, single: dict[Vote, np.ndarray]) -> None:
        """Judge each new vote by the model and the others."""
        seen: list[tuple[Vote, np.ndarray]] = []
        for row, one in enumerate(outcomes):
            seen += [
                (vote, now[row] - single[vote])
                for vote in one.said
                if vote not in one.learned and self._policy.accuracy(vote.source) < 1.0
            ]
        if seen:
            expected = _normalised(np.array([log for _, log in seen]))
            places = [int(self.label(vote.label)) for vote, _ in seen]
            self.trust.see(
                [(vote, float(expected[row, place])) for row, ((vote, _), place) in enumerate(zip(seen, places, strict=True))]
            )

    def _values(self, outcomes: Sequence[Outcome]) -> list[Term]:
        """Regression: the mean of the votes, each as heavy as it is likely to be right; and, backwards, what it was before."""
        now = [self._mean(one.said) for one in outcomes]
        terms = [Term(np.array([value for value, _ in now]), np.array([weight for _, weight in now]))]
        if any(one.learned for one in outcomes):
            before = [self._mean(one.learned) if one.learned else (0.0, 0.0) for one in outcomes]
            terms.append(Term(np.array([value for value, _ in before]), -np.array([weight for _, weight in before])))
        return terms

    def _mean(self, votes: Sequence[Vote]) -> tuple[float, float]:
        weights = [self._policy.accuracy(vote.source) * vote.confidence for vote in votes]
        total = sum(weights)
        if total <= 0.0:
            return 0.0, 0.0
        return sum(weight * self.label(vote.label) for weight, vote in zip(weights, votes, strict=True)) / total, max(weights)

    def _worth(self, votes: tuple[Vote, ...]) -> list[tuple[float, float, float]]:
        return [(self.label(vote.label), self._policy.accuracy(vote.source), vote.confidence) for vote in votes]


def _normalised(log: np.ndarray) -> np.ndarray:
    """Probabilities [rows, classes] from their logarithms; where all are impossible, as if nothing were known."""
    most = log.max(axis=1, keepdims=True)
    weight = np.exp(log - np.where(np.isfinite(most), most, 0.0))
    total = weight.sum(axis=1, keepdims=True)
    return np.where(total > 0.0, weight / np.where(total > 0.0, total, 1.0), 1.0 / log.shape[1])
