"""One candidate gets a small share that grows step by step; all other units stay with the baseline."""

from collections.abc import Mapping
from typing import ClassVar

from router.accounts import Account, ArmsAccount
from router.experiments.kind import Arm, Split
from store.policy import Experiment


class Canary:
    """A growing share moves units from the baseline to the candidate, and none back."""

    answers: ClassVar[bool] = True
    account: ClassVar[type[Account]] = ArmsAccount

    def __init__(self, experiment: Experiment) -> None:
        self._split = Split(experiment.salt, experiment.slices)

    @staticmethod
    def check(experiment: Experiment) -> str | None:
        if len(experiment.shares) != 1 or experiment.baseline in experiment.shares:
            return "a canary has one candidate in shares; the baseline gets the rest"
        return None

    @staticmethod
    def split(experiment: Experiment) -> Mapping[str, float]:
        [(candidate, share)] = experiment.shares.items()
        return {candidate: share, experiment.baseline: 1.0 - share}

    def assign(self, unit: bytes) -> Arm | None:
        return self._split.assign(unit)

    def shadows(self, unit: bytes) -> tuple[str, ...]:
        return ()
