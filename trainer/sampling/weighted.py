"""In proportion to what rows weigh by age, and to what their labels are declared to weigh."""

import numpy as np

from trainer.sampling.choice import Candidates, Choice, by_chance


def weighted(candidates: Candidates, count: int, draw: np.random.Generator) -> Choice:
    return by_chance(candidates.weights * candidates.likely, count, draw)
