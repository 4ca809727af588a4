"""What every kind of experiment can do."""

from typing import NamedTuple, Protocol

from store.policy import Experiment


class Arm(NamedTuple):
    """A chosen variant, and the probability with which this unit was to get it."""

    variant: str
    propensity: float


class Kind(Protocol):
    """An experiment of one kind, made from its declaration. Pure: the same unit gives the same answer."""

    def __init__(self, experiment: Experiment) -> None: ...

    @staticmethod
    def check(experiment: Experiment) -> str | None:
        """Say what is wrong with a declaration of this kind, or None."""
        ...

    def assign(self, unit: str) -> Arm | None:
        """Return the arm that answers, or None where this experiment leaves the unit to others."""
        ...

    def shadows(self, unit: str) -> tuple[str, ...]:
        """Return the variants that score this unit's requests as well, unseen."""
        ...
