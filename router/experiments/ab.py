"""A weighted split of the units over two or more variants."""

from bisect import bisect_right

from router.assignment import SLOTS, slot
from router.experiments.kind import Arm
from store.policy import Experiment


class AB:
    """Each unit belongs to one arm and stays there while the arm's share grows."""

    def __init__(self, experiment: Experiment) -> None:
        self._salt = experiment.salt
        self._starts = [piece.start for piece in experiment.slices]
        held: dict[str, int] = {}
        for piece in experiment.slices:
            held[piece.variant] = held.get(piece.variant, 0) + piece.end - piece.start
        self._arms = [Arm(piece.variant, held[piece.variant] / SLOTS) for piece in experiment.slices]

    @staticmethod
    def check(experiment: Experiment) -> str | None:
        if len(experiment.shares) < 2:
            return "an ab experiment needs at least two arms in shares"
        total = sum(experiment.shares.values())
        return None if abs(total - 1.0) < 1e-6 else f"the shares of an ab experiment sum to 1, not {total:g}"

    def assign(self, unit: str) -> Arm | None:
        return self._arms[bisect_right(self._starts, slot(self._salt, unit)) - 1]

    def shadows(self, unit: str) -> tuple[str, ...]:
        return ()
