"""One candidate gets a small share that grows step by step; all other units stay with the baseline."""

from collections.abc import Mapping

from router.experiments.kind import Split
from store.policy import Experiment


class Canary(Split):
    """A growing share moves units from the baseline to the candidate, and none back."""

    @staticmethod
    def check(experiment: Experiment) -> str | None:
        if len(experiment.shares) != 1 or experiment.baseline in experiment.shares:
            return "a canary has one candidate in shares; the baseline gets the rest"
        return None

    @staticmethod
    def split(experiment: Experiment) -> Mapping[str, float]:
        [(candidate, share)] = experiment.shares.items()
        return {candidate: share, experiment.baseline: 1.0 - share}
