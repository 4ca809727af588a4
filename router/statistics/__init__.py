"""Statistics that stay valid while everyone watches: e-values and confidence sequences from sums that can be merged.

A fixed-horizon test that is looked at again and again cries wolf in a third to a half of all experiments without a
difference. Everything here holds at every moment, and at once for all moments (Ville's inequality): decide at e >= 1/alpha,
whenever that happens. Pure functions of sums; usable without anything else of Tidemill.
"""

from router.statistics.betting import BettingSequence
from router.statistics.difference import (
    Difference,
    Moments,
    adjusted_difference,
    adjusted_ratio_difference,
    mean_difference,
    ratio_difference,
)
from router.statistics.distribution import dkw_radius
from router.statistics.event_rate import EventRate
from router.statistics.multiplicity import discoveries, family_wise
from router.statistics.off_policy import (
    PolicyValue,
    Refused,
    WeightedSums,
    doubly_robust,
    inverse_propensity,
    self_normalised,
)
from router.statistics.relative_risk import RelativeRisk
from router.statistics.sample_ratio import SampleRatio
from router.statistics.sequence import AsymptoticSequence
from router.statistics.stability import (
    Histogram,
    PopulationStability,
    population_stability,
    rank_correlation,
    top_k_overlap,
)

__all__ = [
    "AsymptoticSequence",
    "BettingSequence",
    "Difference",
    "EventRate",
    "Histogram",
    "Moments",
    "PolicyValue",
    "PopulationStability",
    "Refused",
    "RelativeRisk",
    "SampleRatio",
    "WeightedSums",
    "adjusted_difference",
    "adjusted_ratio_difference",
    "discoveries",
    "dkw_radius",
    "doubly_robust",
    "family_wise",
    "inverse_propensity",
    "mean_difference",
    "population_stability",
    "rank_correlation",
    "ratio_difference",
    "self_normalised",
    "top_k_overlap",
]
