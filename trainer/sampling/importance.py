"""In proportion to how much a row would move the network's output."""

import numpy as np

from trainer.sampling.choice import Candidates, Choice, by_chance


def importance(candidates: Candidates, count: int, draw: np.random.Generator, floor: float) -> Choice:
    """Draw by the norm of each row's gradient at the logits, which bounds that of the whole (Katharopoulos and Fleuret, "Not
    All Samples Are Created Equal", ICML 2018, equation 16), mixed with `floor` of even chances."""
    gradients = candidates.gradients
    total = gradients.sum()
    even = np.full(len(gradients), 1.0 / len(gradients))
    chances = (1.0 - floor) * gradients / total + floor * even if np.isfinite(total) and total > 0.0 else even
    return by_chance(chances, count, draw)
