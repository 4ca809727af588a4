"""Statistics that stay valid while everyone watches: e-values and confidence sequences from sums that can be merged.

A fixed-horizon test that is looked at again and again cries wolf in a third to a half of all experiments without a
difference. Everything here holds at every moment, and at once for all moments (Ville's inequality): decide at e >= 1/alpha,
whenever that happens. Pure functions of sums; usable without anything else of Tidemill.
"""

from router.statistics.difference import Difference, Moments, adjusted_difference, mean_difference, ratio_difference
from router.statistics.distribution import dkw_radius
from router.statistics.multiplicity import discoveries, family_wise
from router.statistics.relative_risk import RelativeRisk
from router.statistics.sample_ratio import SampleRatio
from router.statistics.sequence import AsymptoticSequence

__all__ = [
    "AsymptoticSequence",
    "Difference",
    "Moments",
    "RelativeRisk",
    "SampleRatio",
    "adjusted_difference",
    "discoveries",
    "dkw_radius",
    "family_wise",
    "mean_difference",
    "ratio_difference",
]
