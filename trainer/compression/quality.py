"""How good a version's answers are, against the outcomes that were logged and against its parent's answers."""

from collections.abc import Callable, Sequence

import numpy as np
from scipy.stats import spearmanr
from sklearn.calibration import calibration_curve
from sklearn.metrics import log_loss, mean_absolute_error, mean_squared_error, r2_score, roc_auc_score

from store.artefact import Session
from store.encoding import Encoded
from store.spec import ModelRecord

_AT_ONCE = 32
"""Rows answered together: under dynamic quantisation they share their scales, as those of a request do."""
_BINS = 10

LOSS = {"binary": "log_loss", "multiclass": "log_loss", "regression": "squared_error", "ranking": "squared_error"}
"""By objective, what is meant by a loss of quality."""

Figures = dict[str, float]


def answers(session: Session, rows: Encoded) -> np.ndarray:
    """Return scores, float32 [rows, outputs], answered in requests of 32."""
    parts = [rows.take(range(start, min(start + _AT_ONCE, len(rows)))) for start in range(0, len(rows), _AT_ONCE)]
    return np.concatenate([session.run(part) for part in parts])


def quality(record: ModelRecord, labels: Sequence[float | int | str], scores: np.ndarray) -> Figures:
    """Return what scores [rows, outputs] are worth against labels [rows]; what is not defined for these labels is left out."""
    return {name: value for name, value in _QUALITY[record.objective](record, labels, scores).items() if np.isfinite(value)}


def likeness(record: ModelRecord, parent: np.ndarray, child: np.ndarray) -> Figures:
    """Return how near a child's scores are to its parent's: where there are classes, the share of rows that fall into the
    same; else the rank correlation."""
    if record.objective == "binary":
        agreement = float(((parent > 0.5) == (child > 0.5)).mean())
    elif record.objective == "multiclass":
        agreement = float((parent.argmax(axis=1) == child.argmax(axis=1)).mean())
    else:
        constant = len(parent) < 2 or np.ptp(parent) == 0 or np.ptp(child) == 0
        agreement = float("nan") if constant else float(np.asarray(spearmanr(parent[:, 0], child[:, 0])[0]))
    figures = {"agreement": agreement, "max_difference": float(np.abs(parent - child).max())}
    return {name: value for name, value in figures.items() if np.isfinite(value)}


def _binary(_: ModelRecord, labels: Sequence[float | int | str], scores: np.ndarray) -> Figures:
    truths, chances = np.array([int(label) for label in labels]), scores[:, 0].astype(np.float64)
    both = bool(truths.any() and not truths.all())
    return {
        "auc": float(roc_auc_score(truths, chances)) if both else float("nan"),
        "log_loss": float(log_loss(truths, chances, labels=[0, 1])),
        "calibration_error": _calibration_error(truths, chances),
    }


def _multiclass(record: ModelRecord, labels: Sequence[float | int | str], scores: np.ndarray) -> Figures:
    index = {name: number for number, name in enumerate(record.classes)}
    truths, chances = np.array([index[str(label)] for label in labels]), scores.astype(np.float64)
    chances /= chances.sum(axis=1, keepdims=True)
    every = list(range(len(record.classes)))
    sure, right = chances.max(axis=1), (chances.argmax(axis=1) == truths).astype(int)
    return {
        "auc": _auc_of_classes(truths, chances, every) if len(set(truths.tolist())) == len(every) else float("nan"),
        "log_loss": float(log_loss(truths, chances, labels=every)),
        "calibration_error": _calibration_error(right, sure),
    }


def _auc_of_classes(truths: np.ndarray, chances: np.ndarray, every: list[int]) -> float:
    if len(every) == 2:
        return float(roc_auc_score(truths, chances[:, 1]))
    return float(roc_auc_score(truths, chances, multi_class="ovr", labels=every))


def _numeric(_: ModelRecord, labels: Sequence[float | int | str], scores: np.ndarray) -> Figures:
    truths, values = np.array([float(label) for label in labels]), scores[:, 0].astype(np.float64)
    return {
        "squared_error": float(mean_squared_error(truths, values)),
        "absolute_error": float(mean_absolute_error(truths, values)),
        "r2": float(r2_score(truths, values)) if len(truths) > 1 else float("nan"),
    }


def _calibration_error(truths: np.ndarray, chances: np.ndarray) -> float:
    """The expected calibration error: what scikit-learn's curve is off the diagonal, weighted by the rows in each bin."""
    chances = chances.clip(0.0, 1.0)
    shares, means = calibration_curve(truths, chances, n_bins=_BINS, pos_label=1)
    edges = np.linspace(0.0, 1.0, _BINS + 1)
    counts = np.bincount(np.searchsorted(edges[1:-1], chances), minlength=_BINS)
    return float(np.average(np.abs(shares - means), weights=counts[counts > 0]))


_QUALITY: dict[str, Callable[[ModelRecord, Sequence[float | int | str], np.ndarray], Figures]] = {
    "binary": _binary,
    "multiclass": _multiclass,
    "regression": _numeric,
    "ranking": _numeric,
}
