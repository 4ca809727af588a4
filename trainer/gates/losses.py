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


def losses_by_class(scores: np.ndarray) -> np.ndarray:
    """Return the log losses [n, classes] that each row would have, were its label each of the classes in turn.

    Args:
        scores: [n, outputs]: the chance of 1, or of each class.
    """
    given = scores.astype(np.float64)
    if given.shape[1] == 1:
        chances = given.clip(_TINY, 1.0 - _TINY)
        return -np.concatenate([np.log1p(-chances), np.log(chances)], axis=1)
    return -np.log(given.clip(_TINY, 1.0))


def losses_of_votes(worth: np.ndarray, by_class: np.ndarray) -> np.ndarray:
    """Return the loss of each row [n] through labels that may be wrong: `-log sum_y P(votes | y) p(y)`.

    Least, in expectation, where `p` is right, however noisy the labels are; of a sure label it is the log loss, and of one that
    is worth nothing the same for every model (the noise-aware loss of Ratner et al. 2016, as a likelihood).

    Args:
        worth: [n, classes], rows that sum to 1: the likelihood of what was said of each row under each class.
        by_class: [n, classes], as of `losses_by_class`.
    """
    return -np.log((worth * np.exp(-by_class)).sum(axis=1))


def numbers_of(objective: Objective, classes: tuple[str, ...], labels: list[float | int | str]) -> np.ndarray:
    """Return labels as float64 [n]; of a multiclass model their classes' indexes."""
    index = {name: float(number) for number, name in enumerate(classes)}
    return np.array([index[str(one)] if objective == "multiclass" else float(one) for one in labels], dtype=np.float64)
