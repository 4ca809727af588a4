"""Rankers that draft one list together: clicks on it say which of them is better."""

from collections.abc import Mapping
from typing import ClassVar

from router.accounts import Account, DuelAccount
from router.experiments.kind import Arm
from store.policy import Experiment


class Interleave:
    """All of its units get lists of all rankers, whatever their shares; a single prediction is the default arm's."""

    answers: ClassVar[bool] = True
    account: ClassVar[type[Account]] = DuelAccount

    def __init__(self, experiment: Experiment) -> None:
        pass

    @staticmethod
    def check(experiment: Experiment) -> str | None:
        if len(experiment.shares) < 2:
            return "an interleave experiment needs at least two rankers in shares"
        if experiment.baseline not in experiment.shares:
            return f"the baseline '{experiment.baseline}' must be one of its rankers: name another, or add it to shares"
        return None

    @staticmethod
    def split(experiment: Experiment) -> Mapping[str, float]:
        return {}

    def assign(self, unit: bytes) -> Arm | None:
        return None

    def shadows(self, unit: bytes) -> tuple[str, ...]:
        return ()
