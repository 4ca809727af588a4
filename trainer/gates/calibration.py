"""Scores that are probabilities must come true as often as they say. Not for regression and ranking."""

from dataclasses import dataclass

import numpy as np
from scipy import special

from trainer.gates.gate import Case, Finding, Scores, enough

BINS = 10


@dataclass(frozen=True, slots=True)
class Reliability:
    """Bins of equal mass, each [bins]: what was said, what came true, how many rows."""

    said: np.ndarray
    true: np.ndarray
    rows: np.ndarray

    @property
    def error(self) -> float:
        """The expected calibration error (Naeini, Cooper, Hauskrecht 2015), over bins of equal mass (Nixon et al. 2019)."""
        return float(np.average(np.abs(self.true - self.said), weights=self.rows))

    def at_least(self, alpha: float) -> float:
        """A lower bound of the calibration error, at level `alpha`.

        In a bin of n rows that are calibrated the gap is still about normal with variance p(1 - p)/n, of which the mean
        absolute value is sqrt(2/pi) deviations: that much, and z deviations of the sum, chance alone may show. Taken off for
        every bin, it is taken off too often where gaps are real, so small samples fail nothing.
        """
        smoothed = (self.true * self.rows + 0.5) / (self.rows + 1.0)
        shares = self.rows / self.rows.sum()
        deviations = np.sqrt(smoothed * (1.0 - smoothed) / self.rows)
        chance = float((shares * deviations).sum()) * np.sqrt(2.0 / np.pi)
        spread = float(np.sqrt(((shares * deviations) ** 2).sum()))
        return max(0.0, self.error - chance + float(special.ndtri(alpha)) * spread)

    def table(self) -> list[list[float]]:
        """Rows of (said, came true, rows)."""
        columns = zip(self.said.tolist(), self.true.tolist(), self.rows.tolist(), strict=True)
        return [[round(said, 4), round(true, 4), rows] for said, true, rows in columns]


def reliability(labels: np.ndarray, scores: np.ndarray) -> Reliability:
    """Sort rows by what was said into bins of equal mass; of several classes, by the chance of the one that was said.

    Args:
        labels: [n], 0 or 1, or class indexes; `scores` [n, outputs].
    """
    if scores.shape[1] == 1:
        said, true = scores[:, 0].astype(np.float64), labels.astype(np.float64)
    else:
        said, true = scores.max(axis=1).astype(np.float64), (scores.argmax(axis=1) == labels).astype(np.float64)
    order = np.argsort(said, kind="stable")
    bins = np.array_split(order, min(BINS, len(order)))
    return Reliability(
        np.array([said[rows].mean() for rows in bins]),
        np.array([true[rows].mean() for rows in bins]),
        np.array([len(rows) for rows in bins]),
    )


class Calibration:
    name = "calibration"

    def applies(self, case: Case) -> bool:
        probabilities = case.record.objective in ("binary", "multiclass")
        return case.settings.calibration is not None and probabilities and enough(case)

    def judge(self, case: Case) -> Finding:
        bound = case.settings.calibration or 0.0
        found = reliability(case.labels, case.scores)
        surely = found.at_least(case.alpha)
        evidence = {"error": found.error, "surely": surely, "reliability": found.table()}
        if surely <= bound:
            return Finding(evidence=evidence)
        # Where the last good state is no better there is nothing to go back to.
        back = self._before(case, case.score_before).at_least(case.alpha) <= bound
        why = f"calibration error {found.error:.3f}, surely more than {bound:g} on {len(case.rows):,} recent outcomes"
        return Finding(why, back, evidence)

    @staticmethod
    def _before(case: Case, score: Scores) -> Reliability:
        return reliability(case.labels, score(case.rows))
