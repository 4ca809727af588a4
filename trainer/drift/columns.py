"""What of an outcome is watched, as columns of numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from store.drift import Kind
from store.encoding import Encoded
from store.records import Outcome
from store.schema import FeatureField
from store.spec import ModelRecord

PROJECTIONS = 3
LOSS = "loss"
LABEL = "label"
OUTPUT = "output"
NAMED = 64
"""Categories of a column whose names are remembered."""

SLICE_VALUES = 12
"""Values of a slice that are told apart; the others are taken together."""


@dataclass(frozen=True, slots=True)
class Column:
    """A watched number, or (`categories`) a code. The loss is not compared as a distribution, but broken down by slices."""

    name: str
    kind: Kind | Literal["loss"]
    categories: bool = False
    place: tuple[int, int] | None = None
    """Of a category where it is in a row, and among the encoded categories."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A micro-batch as it was before it was learned: its outcomes, their encoded rows, the learner's scores float32
    [rows, outputs] and losses float64 [rows]."""

    outcomes: Sequence[Outcome]
    encoded: Encoded
    outputs: np.ndarray
    losses: np.ndarray


class Columns:
    """The watched columns of a model. A timestamp is none: time passes. Of a vector its length and a few
    fixed projections are."""

    def __init__(self, record: ModelRecord) -> None:
        self._record = record
        discrete = record.objective == "multiclass"
        self.all: list[Column] = []
        category = 0
        for index, field in enumerate(record.features.fields):
            self.all += _columns(field, (index, category))
            category += len(field.category_buckets)
        self.all += [Column(LABEL, "label", discrete), Column(OUTPUT, "prediction", discrete), Column(LOSS, "loss")]
        self.names: dict[int, dict[int, str]] = {c: {} for c, column in enumerate(self.all) if column.place}
        """Of each column of categories what its codes stand for, as far as they came early."""
        names = [field.name for field in record.features.fields]
        self.slices = [names.index(name) for name in record.slices]

    def __len__(self) -> int:
        return len(self.all)

    @property
    def loss(self) -> int:
        return len(self.all) - 1

    def values(self, seen: Seen) -> np.ndarray:
        """Return float64 [rows, columns]."""
        self._name(seen)
        parts: list[np.ndarray] = []
        number = category = 0
        for field in self._record.features.fields:
            numbers = seen.encoded.numbers[:, number : number + field.numbers]
            if field.kind == "category":
                parts.append(seen.encoded.categories[:, category])
            elif field.kind == "vector":
                parts += _projected(numbers.astype(np.float64))
            elif field.kind != "timestamp":
                parts.append(numbers[:, 0])
            number, category = number + field.numbers, category + len(field.category_buckets)
        parts += [self._labels(seen), self._outputs(seen), seen.losses]
        return np.stack([part.astype(np.float64) for part in parts], axis=1)

    def said(self, column: int, code: int) -> str:
        """Return the category that a code stands for."""
        place = self.all[column].place
        if place is None:
            return self._record.classes[code - 1]
        return self.names[column].get(code, f"bucket {code}")

    def _name(self, seen: Seen) -> None:
        for column, names in self.names.items():
            place = self.all[column].place
            if place is None or len(names) >= NAMED:
                continue
            codes, rows = np.unique(seen.encoded.categories[:, place[1]], return_index=True)
            for code, row in zip(codes.tolist(), rows.tolist(), strict=True):
                if code not in names and len(names) < NAMED:
                    names[code] = _text(seen.outcomes[row].row[place[0]])

    def _labels(self, seen: Seen) -> np.ndarray:
        if self._record.objective != "multiclass":
            return np.array([float(outcome.label) for outcome in seen.outcomes])
        # From one on: a code of zero is a missing one.
        codes = {name: code for code, name in enumerate(self._record.classes, 1)}
        return np.array([codes.get(str(outcome.label), 0) for outcome in seen.outcomes])

    def _outputs(self, seen: Seen) -> np.ndarray:
        return seen.outputs.argmax(axis=1) + 1 if self._record.objective == "multiclass" else seen.outputs[:, 0]


class Slices:
    """The values of a model's slices, by number: the first that come have their own."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.values: list[list[str]] = [["others"] for _ in names]

    def codes(self, outcomes: Sequence[Outcome], indices: Sequence[int]) -> np.ndarray:
        """Return int64 [rows, slices], of the features at these indices of a row."""
        codes = np.zeros((len(outcomes), len(indices)), np.int64)
        for place, index in enumerate(indices):
            known = self.values[place]
            for row, outcome in enumerate(outcomes):
                value = _text(outcome.row[index])
                if value not in known and len(known) <= SLICE_VALUES:
                    known.append(value)
                codes[row, place] = known.index(value) if value in known else 0
        return codes


def _columns(field: FeatureField, place: tuple[int, int]) -> list[Column]:
    match field.kind:
        case "timestamp":
            return []
        case "vector":
            projections = [f"{field.name} (projection {number + 1})" for number in range(PROJECTIONS)]
            return [Column(name, "covariate") for name in (f"{field.name} (length)", *projections)]
        case "category":
            return [Column(field.name, "covariate", True, place)]
        case _:
            return [Column(field.name, "covariate")]


def _projected(vectors: np.ndarray) -> list[np.ndarray]:
    """Return the length of each vector and its projections on the same few directions, NaN where it is missing."""
    directions = np.random.default_rng(vectors.shape[1]).normal(size=(vectors.shape[1], PROJECTIONS))
    # Not by matrix product, whose sums may depend on the number of rows.
    return [np.sqrt((vectors**2).sum(axis=1)), *((vectors * one).sum(axis=1) for one in directions.T)]


def _text(value: object) -> str:
    return "missing" if value is None else str(value)[:50]
