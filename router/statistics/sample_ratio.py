"""Sample-ratio mismatch: units that arrive in other proportions than they were assigned."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

STRENGTH = 100.0
ALARM_LOG_E = math.log(1000.0)


@dataclass(frozen=True, slots=True)
class SampleRatio:
    """The sequential multinomial test of Lindon and Malek (NeurIPS 2022), over the first exposure of each unit.

    The alternative is a Dirichlet prior around the assigned shares, of strength `STRENGTH`. A change of shares begins a stage;
    the evidence of stages multiplies. Alarm at `log_e >= ALARM_LOG_E`.

    Args:
        shares: what each arm was to get; above 0, together 1.
        counts: units seen, by arm, in this stage.

    >>> fair = SampleRatio((0.5, 0.5)).add((5_000, 5_050))
    >>> bad = SampleRatio((0.5, 0.5)).add((5_000, 5_500))
    >>> fair.log_e < 0 < ALARM_LOG_E < bad.log_e
    True
    """

    shares: tuple[float, ...]
    counts: tuple[int, ...] = ()
    evidence: float = 0.0

    def __post_init__(self) -> None:
        if min(self.shares, default=0.0) <= 0.0 or abs(sum(self.shares) - 1.0) > 1e-9:
            raise ValueError(f"shares are {self.shares}: each must be above 0, together they must be 1")
        if not self.counts:
            object.__setattr__(self, "counts", (0,) * len(self.shares))
        if len(self.counts) != len(self.shares):
            raise ValueError(f"{len(self.counts)} counts for {len(self.shares)} shares")

    def add(self, counts: Sequence[int]) -> "SampleRatio":
        """Take in units, by arm."""
        return replace(self, counts=tuple(old + new for old, new in zip(self.counts, counts, strict=True)))

    def stage(self, shares: Sequence[float]) -> "SampleRatio":
        """Begin a stage with other shares, of as many arms or not."""
        return SampleRatio(tuple(shares), evidence=self.log_e)

    @property
    def log_e(self) -> float:
        total = math.lgamma(STRENGTH) - math.lgamma(STRENGTH + sum(self.counts))
        for share, count in zip(self.shares, self.counts, strict=True):
            prior = STRENGTH * share
            total += math.lgamma(prior + count) - math.lgamma(prior) - count * math.log(share)
        return self.evidence + total
