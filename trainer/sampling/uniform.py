"""All rows alike, none twice."""

import numpy as np

from trainer.sampling.choice import Candidates, Choice


def uniform(candidates: Candidates, count: int, draw: np.random.Generator) -> Choice:
    rows = draw.choice(len(candidates), size=count, replace=False)
    return Choice(rows, np.ones(count))
