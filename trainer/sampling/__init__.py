"""Which rows of a step are learned, one way per file. Weights correct what is drawn more or less often than its share."""

import numpy as np

from store.learning import Importance, Sampling, Stratified, Uniform, Weighted
from trainer.sampling.choice import Candidates, Choice
from trainer.sampling.importance import importance
from trainer.sampling.stratified import stratified
from trainer.sampling.uniform import uniform
from trainer.sampling.weighted import weighted


def choose(sampling: Sampling, candidates: Candidates, draw: np.random.Generator) -> Choice:
    """Choose rows as a declaration asks for it."""
    count = max(1, round(len(candidates) * sampling.share))
    match sampling:
        case Uniform():
            return uniform(candidates, count, draw)
        case Stratified():
            return stratified(candidates, count, draw)
        case Weighted():
            return weighted(candidates, count, draw)
        case Importance(floor=floor):
            return importance(candidates, count, draw, floor)


__all__ = ["Candidates", "Choice", "choose"]
