"""A weighted split of the units over two or more variants."""

from collections.abc import Mapping

from router.experiments.kind import Split
from store.policy import Experiment


class AB(Split):
    """Each unit belongs to one arm and stays there while the arm's share grows."""

    @staticmethod
    def check(experiment: Experiment) -> str | None:
        if len(experiment.shares) < 2:
            return "an ab experiment needs at least two arms in shares"
        if experiment.baseline not in experiment.shares:
            return f"the baseline '{experiment.baseline}' must be one of its arms: name another as baseline, or give it a share"
        total = sum(experiment.shares.values())
        return None if abs(total - 1.0) < 1e-6 else f"the shares of an ab experiment sum to 1, not {total:g}"

    @staticmethod
    def split(experiment: Experiment) -> Mapping[str, float]:
        return experiment.shares
