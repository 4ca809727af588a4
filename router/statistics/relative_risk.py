"""Events of a canary against its baseline: an e-process for the relative risk, whatever the base rate does meanwhile."""

from dataclasses import dataclass, field, replace

import numpy as np

GRID = tuple(np.geomspace(1.1, 10.0, 16).tolist())
"""Relative risks, in multiples of `r0`, that the mixture bets on: from a tenth more to ten times as many events."""


@dataclass(frozen=True, slots=True)
class RelativeRisk:
    """E-process against "an event is at most `r0` times as likely per unit of the canary as per unit of the baseline".

    Given that an event happened, it came from the canary with probability theta(R) = share * R/(share * R + 1 - share): a
    likelihood ratio of theta alone, in which base rates cancel, so they may drift. The mixture over `grid` is a nonnegative
    supermartingale under the null (theta(R) grows in R), so Ville's inequality holds. A change of shares begins a stage; the
    evidence of stages multiplies, for each R on the grid, before the mixture is taken. One event per unit at the most.

    Args:
        share: the canary's share of the units that either arm gets, in this stage.
        evidence: log likelihood ratios [grid] of the stages that are over.

    >>> calm = RelativeRisk(share=0.5).add(canary=10, baseline=10)
    >>> alarming = calm.stage(0.1).add(canary=30, baseline=20)
    >>> calm.log_e < 0 < 10 < alarming.log_e
    True
    """

    share: float
    r0: float = 1.0
    canary: int = 0
    baseline: int = 0
    evidence: tuple[float, ...] = (0.0,) * len(GRID)
    grid: tuple[float, ...] = field(default=GRID)

    def __post_init__(self) -> None:
        if not 0.0 < self.share < 1.0:
            raise ValueError(f"share is {self.share}: both arms must get units")
        if not self.r0 > 0.0 or min(self.grid) <= 1.0 or len(self.grid) != len(self.evidence):
            raise ValueError("r0 must be positive, and every R of the grid above 1 (times r0), with its evidence")

    def add(self, canary: int = 0, baseline: int = 0) -> "RelativeRisk":
        """Take in events of this stage."""
        return replace(self, canary=self.canary + canary, baseline=self.baseline + baseline)

    def stage(self, share: float) -> "RelativeRisk":
        """Begin a stage with another share."""
        return replace(self, share=share, canary=0, baseline=0, evidence=tuple(self._logs().tolist()))

    @property
    def log_e(self) -> float:
        logs = self._logs()
        top = logs.max()
        return float(top + np.log(np.exp(logs - top).mean()))

    def _logs(self) -> np.ndarray:
        theta0, theta = self._theta(np.array([self.r0])), self._theta(self.r0 * np.array(self.grid))
        gained = self.canary * np.log(theta / theta0) + self.baseline * np.log((1.0 - theta) / (1.0 - theta0))
        return np.array(self.evidence) + gained

    def _theta(self, risk: np.ndarray) -> np.ndarray:
        return self.share * risk / (self.share * risk + 1.0 - self.share)
