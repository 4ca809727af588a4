"""What one variant would have earned on all the traffic, from what was logged while several shared it."""

from collections.abc import Iterable
from typing import Any, Literal

import numpy as np

from router.accounts.scores import adds
from router.statistics import (
    AsymptoticSequence,
    PolicyValue,
    Refused,
    WeightedSums,
    doubly_robust,
    inverse_propensity,
    self_normalised,
)
from store.encoding import Encoder
from store.records import Outcome
from store.spec import ModelRecord

Metric = Literal["loss", "label"]
_FOLDS = 2
_RIDGE = 1.0
_MOST_UNITS = 200_000


class OffPolicy:
    """Takes final outcomes; what was forced or rescued, and so was no random choice, is left out.

    A unit is one observation, the mean over its outcomes under its first arm: a unit's outcomes repeat each other.
    """

    def __init__(self, record: ModelRecord, variant: str, metric: Metric) -> None:
        self._record, self._variant, self._metric = record, variant, metric
        self._encoder = Encoder(record.features)
        self._units: dict[str, list[Any]] = {}
        self.skipped = 0

    def add(self, outcomes: Iterable[Outcome]) -> None:
        for outcome in outcomes:
            if not outcome.final:
                continue
            served = outcome.served
            known = self._units.get(outcome.unit)
            full = known is None and len(self._units) >= _MOST_UNITS
            if served.propensity <= 0.0 or full or (known is not None and known[0] != served.variant):
                self.skipped += 1
                continue
            loss, label, count = adds(self._record, outcome)
            reward = loss if self._metric == "loss" else label
            if known is not None:
                known[2] += reward
                known[3] += count
            elif count:
                self._units[outcome.unit] = [served.variant, served.propensity, reward, 1, outcome.row]

    def estimates(self, alpha: float = 0.05, n_opt: int = 20_000) -> dict[str, Any]:
        """Return the estimates as plain data; `refused` says why there is none."""
        sums = self._sums()
        sequence = AsymptoticSequence(alpha, n_opt)
        content: dict[str, Any] = {
            "variant": self._variant,
            "metric": self._metric,
            "units": len(self._units),
            "outcomes_left_out": self.skipped,
            "effective_units": sums.effective_n,
            "overlap": sums.overlap,
            "largest_weight": sums.largest,
        }
        for name, estimate in (("ips", inverse_propensity), ("snips", self_normalised), ("doubly_robust", doubly_robust)):
            content[name] = _plain(estimate(sums), sequence)
        return content

    def _sums(self) -> WeightedSums:
        if not self._units:
            return WeightedSums()
        rows = list(self._units.values())
        rewards = np.array([row[2] / row[3] for row in rows])
        logged = np.array([row[1] for row in rows])
        chosen = np.array([row[0] == self._variant for row in rows])
        features = self._features([row[4] for row in rows])
        predicted, expected = self._predictions(features, rewards, [row[0] for row in rows])
        return WeightedSums.of(rewards, logged, chosen.astype(float), predicted=predicted, expected=expected)

    def _features(self, rows: list[Any]) -> np.ndarray:
        """Standardised numbers, and a one."""
        numbers = np.nan_to_num(self._encoder.encode(rows).numbers.astype(np.float64))
        spread = numbers.std(axis=0)
        scaled = (numbers - numbers.mean(axis=0)) / np.where(spread > 0.0, spread, 1.0)
        return np.hstack([scaled, np.ones((len(rows), 1))])

    def _predictions(self, features: np.ndarray, rewards: np.ndarray, arms: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """A reward model by arm: ridge regression on the numbers, each half predicted by a model of the other half."""
        folds = np.arange(len(arms)) % _FOLDS
        names = np.array(arms)
        predicted, expected = np.zeros(len(arms)), np.zeros(len(arms))
        for fold in range(_FOLDS):
            inside = folds == fold
            for arm in {*arms, self._variant}:
                weights = _ridge(features, rewards, ~inside & (names == arm))
                here = inside & (names == arm)
                predicted[here] = features[here] @ weights
                if arm == self._variant:
                    expected[inside] = features[inside] @ weights
        return predicted, expected


def _ridge(features: np.ndarray, rewards: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    x, y = features[chosen], rewards[chosen]
    penalty = np.eye(features.shape[1]) * _RIDGE
    penalty[-1, -1] = 1e-9
    return np.linalg.solve(x.T @ x + penalty, x.T @ y)


def _plain(estimate: PolicyValue | Refused, sequence: AsymptoticSequence) -> dict[str, Any]:
    if isinstance(estimate, Refused):
        return {"refused": estimate.reason}
    low, high = estimate.interval(sequence)
    bounds = [low, high] if np.isfinite([low, high]).all() else None
    return {"value": estimate.value, "standard_error": estimate.standard_error, "interval": bounds}
