"""What every kind of experiment can do."""

from bisect import bisect_right
from collections.abc import Mapping
from typing import ClassVar, NamedTuple, Protocol

from router.accounts import Account, ArmsAccount
from router.assignment import SLOTS, slots
from store.policy import Experiment


class Arm(NamedTuple):
    """A chosen variant, and the probability with which a unit of the experiment gets it."""

    variant: str
    propensity: float


class Kind(Protocol):
    """An experiment of one kind, made from its declaration. Pure: the same unit gives the same answer. Units come encoded.

    Attributes:
        answers: whether its arms answer predictions, so that it takes its place in a layer.
        account: the class that keeps its books.
    """

    answers: ClassVar[bool]
    account: ClassVar[type[Account]]

    def __init__(self, experiment: Experiment) -> None: ...

    @staticmethod
    def check(experiment: Experiment) -> str | None:
        """Say what is wrong with a declaration of this kind, or None. `baseline` is filled in."""
        ...

    @staticmethod
    def split(experiment: Experiment) -> Mapping[str, float]:
        """Return the arms that units are assigned to, with shares that sum to 1; none where nobody is assigned."""
        ...

    def assign(self, unit: bytes) -> Arm | None:
        """Return the unit's arm, or None where this kind assigns nobody."""
        ...

    def shadows(self, unit: bytes) -> tuple[str, ...]:
        """Return the variants that score this unit's requests as well, unseen."""
        ...


class Split:
    """What kinds have in common that divide their units by slots: each belongs to one arm, and stays while its share grows."""

    answers: ClassVar[bool] = True
    account: ClassVar[type[Account]] = ArmsAccount

    def __init__(self, experiment: Experiment) -> None:
        self._slot = slots(experiment.salt)
        self._starts = [piece.start for piece in experiment.slices]
        held: dict[str, int] = {}
        for piece in experiment.slices:
            held[piece.owner] = held.get(piece.owner, 0) + piece.end - piece.start
        self._arms = [Arm(piece.owner, held[piece.owner] / SLOTS) for piece in experiment.slices]

    def assign(self, unit: bytes) -> Arm | None:
        return self._arms[bisect_right(self._starts, self._slot(unit)) - 1]

    def shadows(self, unit: bytes) -> tuple[str, ...]:
        return ()
