"""A micro-batch as the learner takes it: tensors, what each row weighs, and which strata it is of."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from store.learning import LABEL, Learning, Weighted
from store.records import Label, Outcome
from store.spec import ModelRecord

STRATA = 256
"""How many strata are told apart; of a feature with more values, some share one."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows to learn: numbers float32 [rows, numbers], categories int64 [rows, columns], labels [rows].

    Args:
        weights: float32 [rows], with which a step takes the mean of its losses; None: all count alike.
        likely: float64 [rows], what labels are declared to weigh where rows are drawn by it.
        strata: int64 [rows], below STRATA, for each way to make them that is asked for.
    """

    numbers: Tensor
    categories: Tensor
    labels: Tensor
    weights: Tensor | None
    likely: np.ndarray | None
    strata: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.labels)

    def part(self, of: slice) -> "Rows":
        weights = None if self.weights is None else self.weights[of]
        likely = None if self.likely is None else self.likely[of]
        strata = {by: found[of] for by, found in self.strata.items()}
        return Rows(self.numbers[of], self.categories[of], self.labels[of], weights, likely, strata)

    def chosen(self, rows: np.ndarray, factors: np.ndarray) -> "Rows":
        """Return some rows, int64 [taken], for a step: their weights times `factors`, float64 [taken]."""
        index = torch.from_numpy(rows).to(self.labels.device)
        weights = torch.from_numpy(factors).float().to(self.labels.device)
        if self.weights is not None:
            weights = weights * self.weights[index]
        return Rows(self.numbers[index], self.categories[index], self.labels[index], weights, None, {})

    def taught(self, rows: np.ndarray, labels: np.ndarray, factors: np.ndarray) -> "Rows":
        """Return rows by their places, int64 [taught], as often as they are named, with these labels [taught]; their weights
        are multiplied by `factors`, float64 [taught], which may be negative."""
        index = torch.from_numpy(rows).to(self.labels.device)
        said = torch.from_numpy(labels).to(self.labels.device, self.labels.dtype)
        weights = torch.from_numpy(factors).float().to(self.labels.device)
        if self.weights is not None:
            weights = weights * self.weights[index]
        likely = None if self.likely is None else self.likely[rows]
        strata = {by: found[rows] for by, found in self.strata.items()}
        return Rows(self.numbers[index], self.categories[index], said, weights, likely, strata)

    def at(self, places: Sequence[int]) -> "Rows":
        """Return some rows by their places."""
        index = np.array(places, dtype=np.int64)
        labels = self.labels[torch.from_numpy(index).to(self.labels.device)].cpu().numpy()
        return self.taught(index, labels, np.ones(len(index)))

    def beside(self, old: "Rows", share: float) -> "Rows":
        """Return these rows and `old` ones for one step, in whose mean loss the old ones have a share."""
        total, weights = len(self) + len(old), list[Tensor]()
        for rows, part in ((self, 1.0 - share), (old, share)):
            own = torch.ones_like(rows.labels, dtype=torch.float32) if rows.weights is None else rows.weights
            weights.append(own * (part * total / len(rows)))
        pairs = ((self.numbers, old.numbers), (self.categories, old.categories), (self.labels, old.labels))
        numbers, categories, labels = (torch.cat(pair) for pair in pairs)
        return Rows(numbers, categories, labels, torch.cat(weights), None, {})


def age_weights(outcomes: Sequence[Outcome], half_life_s: float) -> np.ndarray:
    """Return what outcomes weigh by their age beside the newest of them, float64 [rows] of mean 1; half for each half-life."""
    times = np.array([outcome.predicted_at for outcome in outcomes])
    weights = np.exp2((times - times.max()) / half_life_s)
    return weights / weights.mean()


def label_weights(outcomes: Sequence[Outcome], learning: Learning, record: ModelRecord) -> np.ndarray | None:
    """Return what the outcomes' labels are declared to weigh where rows are drawn by it, float64 [rows]."""
    if not isinstance(learning.sampling, Weighted):
        return None
    named = learning.sampling.labels
    return np.array([named.get(_name(record, outcome.label), 1.0) for outcome in outcomes])


def strata_of(outcomes: Sequence[Outcome], by: str, record: ModelRecord) -> np.ndarray:
    """Return the outcomes' strata, int64 [rows], by label or by a feature's value; the same in every process."""
    if by == LABEL:
        known_labels = {label: stratum_of(label, record) for label in {outcome.label for outcome in outcomes}}
        return np.array([known_labels[outcome.label] for outcome in outcomes], dtype=np.int64)
    column = [field.name for field in record.features.fields].index(by)
    known: dict[object, int] = {}
    for value in {outcome.row[column] for outcome in outcomes}:
        known[value] = zlib.crc32(repr(value).encode("utf-8", "surrogatepass")) % STRATA
    return np.array([known[outcome.row[column]] for outcome in outcomes], dtype=np.int64)


def stratum_of(label: Label, record: ModelRecord) -> int:
    """Return the stratum of a label."""
    return record.labels_known.index(_name(record, label)) % STRATA


def _name(record: ModelRecord, label: Label) -> str:
    """A label as the declaration writes it."""
    return str(int(float(label))) if record.objective == "binary" else str(label)
