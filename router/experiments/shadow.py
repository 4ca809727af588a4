"""Candidates that score a share of the traffic after the answer is sent."""

from collections.abc import Mapping
from typing import ClassVar

from router.accounts import Account, PairedAccount
from router.assignment import SLOTS, slots
from router.experiments.kind import Arm
from store.policy import Experiment


class Shadow:
    """Every variant in `shares` shadows that share of the units; nobody is ever answered by it."""

    answers: ClassVar[bool] = False
    account: ClassVar[type[Account]] = PairedAccount

    def __init__(self, experiment: Experiment) -> None:
        self._slot = slots(experiment.salt)
        self._all = tuple(variant for variant, share in experiment.shares.items() if share >= 1.0)
        self._some = [(variant, share * SLOTS) for variant, share in experiment.shares.items() if share < 1.0]

    @staticmethod
    def check(experiment: Experiment) -> str | None:
        return None if experiment.shares else "a shadow experiment needs at least one variant in shares"

    @staticmethod
    def split(experiment: Experiment) -> Mapping[str, float]:
        return {}

    def assign(self, unit: bytes) -> Arm | None:
        return None

    def shadows(self, unit: bytes) -> tuple[str, ...]:
        if not self._some:
            return self._all
        place = self._slot(unit)
        return self._all + tuple(variant for variant, slots in self._some if place < slots)
