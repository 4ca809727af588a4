"""What a way to choose rows is given, and what it returns."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class Candidates:
    """The rows of a step. All arrays are [rows].

    Args:
        weights: float64, what each row weighs in the loss.
        likely: float64, what its label is declared to weigh in the draw.
        strata: int64.
        measure: returns how far each row's loss, weighed, would move its logits, float64.
    """

    weights: np.ndarray
    likely: np.ndarray
    strata: np.ndarray
    measure: Callable[[], np.ndarray]

    def __len__(self) -> int:
        return len(self.weights)

    @cached_property
    def gradients(self) -> np.ndarray:
        return self.measure()


@dataclass(frozen=True, slots=True)
class Choice:
    """Which rows a step takes, int64 [taken], and by what each one's weight is multiplied, float64 [taken]: so that the mean
    over what is taken has the expectation of the mean over all rows."""

    rows: np.ndarray
    factors: np.ndarray


def by_chance(chances: np.ndarray, count: int, draw: np.random.Generator) -> Choice:
    """Draw rows with replacement in proportion to `chances`, each above 0 wherever the row weighs anything (Horvitz and
    Thompson 1952, Hansen and Hurwitz 1943: a row that is drawn counts by one over its chance)."""
    total = chances.sum()
    if not np.isfinite(total) or total <= 0.0:
        chances, total = np.ones(len(chances)), float(len(chances))
    chances = chances / total
    rows = draw.choice(len(chances), size=count, p=chances)
    return Choice(rows, 1.0 / (len(chances) * chances[rows]))
