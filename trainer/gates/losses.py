"""The loss of each row by objective, from scores: what quality is measured in."""

import numpy as np

from store.spec import Objective

_TINY = 1e-7


def losses(objective: Objective, labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return float64 [n]: log loss of probabilities (binary and multiclass), else the squared error.

    Args:
        labels: [n]: 0 or 1, class indexes, or numbers.
        scores: [n, outputs], as a version answers.
    """
    given = scores.astype(np.float64)
    if objective == "binary":
        chances = given[:, 0].clip(_TINY, 1.0 - _TINY)
        return -np.where(labels > 0.5, np.log(chances), np.log1p(-chances))
    if objective == "multiclass":
        return -np.log(given[np.arange(len(labels)), labels.astype(np.int64)].clip(_TINY, 1.0))
    return (given[:, 0] - labels) ** 2


def numbers_of(objective: Objective, classes: tuple[str, ...], labels: list[float | int | str]) -> np.ndarray:
    """Return labels as float64 [n]; of a multiclass model their classes' indexes."""
    index = {name: float(number) for number, name in enumerate(classes)}
    return np.array([index[str(one)] if objective == "multiclass" else float(one) for one in labels], dtype=np.float64)
