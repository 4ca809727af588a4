"""What the numbers that a model gives mean: its objective, its classes, and which columns are the scores."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from serving.errors import Refused
from store.spec import ModelRecord, Objective

_CLOSE = 1e-3
_LONGEST_CLASS = 100


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the one who imports says of a model's answers; empty is left to be guessed."""

    objective: Objective | None
    classes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Meaning:
    """`columns` of the output, in order, are the scores. `said` tells what was guessed, a sentence each."""

    objective: Objective
    classes: tuple[str, ...]
    columns: tuple[int, ...]
    said: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Answers:
    """An output as a model gave it: `values` [rows, columns]; `labels` the classes that the model itself names, if any."""

    name: str
    values: np.ndarray
    labels: tuple[str, ...]
    ends_in_sigmoid: bool

    @property
    def columns(self) -> int:
        return self.values.shape[1]

    @property
    def shares(self) -> bool:
        """Whether each row is of shares that make one."""
        return bool((self.values >= -_CLOSE).all() and np.allclose(self.values.sum(axis=1), 1.0, atol=_CLOSE))


def meaning_of(answers: Answers, wanted: Wanted, record: ModelRecord | None) -> Meaning:
    """Say what a model's answers mean; for a model on record it says so itself.

    Raises:
        Refused: they cannot mean that, or nothing that could be guessed.
    """
    said: list[str] = []
    objective, classes = wanted.objective, wanted.classes
    if record is not None:
        if objective not in (None, record.objective) or classes not in ((), record.classes):
            raise Refused(
                f"model '{record.name}' is on record with objective {record.objective}: leave --objective and --classes out"
            )
        objective, classes = record.objective, record.classes
    elif objective is None:
        objective, why = _guessed(answers)
        said.append(f"objective {objective}, because {why}; --objective says otherwise")
    if objective == "multiclass":
        classes = classes or answers.labels or tuple(str(number) for number in range(answers.columns))
        if record is None and not wanted.classes:
            said.append(f"classes {', '.join(classes)[:300]}; --classes says otherwise")
        columns = _class_columns(answers, classes)
    else:
        if classes:
            raise Refused(f"--classes belong to objective multiclass, and this one is {objective}")
        columns = (_only_column(answers, objective),)
    _check_range(answers, objective, columns)
    if objective == "binary" and answers.columns == 2:
        label = f" ('{answers.labels[1][:80]}')" if answers.labels else ""
        said.append(f"the probability is column 1 of output '{answers.name[:80]}'{label}")
    return Meaning(objective, classes, columns, tuple(said))


def _guessed(answers: Answers) -> tuple[Objective, str]:
    name = f"output '{answers.name[:80]}'"
    if answers.columns == 1:
        if answers.ends_in_sigmoid:
            return "binary", f"{name} is a sigmoid"
        return "regression", f"{name} is one number"
    if not answers.shares:
        raise Refused(f"{name} has {answers.columns} columns that are no probabilities: say what it means with --objective")
    return ("binary" if answers.columns == 2 else "multiclass"), f"{name} gives the probabilities of {answers.columns} classes"


def _only_column(answers: Answers, objective: Objective) -> int:
    if answers.columns == 1:
        return 0
    if objective == "binary" and answers.columns == 2:
        return 1
    raise Refused(f"output '{answers.name[:80]}' has {answers.columns} columns, and objective {objective} takes one")


def _class_columns(answers: Answers, classes: Sequence[str]) -> tuple[int, ...]:
    """Return the column of each class: by the names that the model gives them, or in order where it numbers them."""
    if unreadable := [name for name in classes if not name.isprintable() or not 1 <= len(name) <= _LONGEST_CLASS]:
        raise Refused(f"class {unreadable[0][:80]!r}: a class is named by 1 to {_LONGEST_CLASS} printable characters")
    if len(set(classes)) != len(classes) or len(classes) < 2 or answers.columns != len(classes):
        raise Refused(
            f"output '{answers.name[:80]}' has {answers.columns} columns, and the classes are {', '.join(classes)[:300]}: "
            "there is to be a column for each, and at least two different ones"
        )
    if not answers.labels or answers.labels == tuple(str(number) for number in range(len(classes))):
        return tuple(range(len(classes)))
    if set(answers.labels) != set(classes):
        raise Refused(f"the model's classes are {', '.join(answers.labels)[:300]}, and those wanted {', '.join(classes)[:300]}")
    return tuple(answers.labels.index(name) for name in classes)


def _check_range(answers: Answers, objective: Objective, columns: Sequence[int]) -> None:
    scores = answers.values[:, list(columns)]
    if objective not in ("binary", "multiclass"):
        return
    outside = scores[(scores < -1e-6) | (scores > 1 + 1e-6)]
    if outside.size:
        raise Refused(
            f"output '{answers.name[:80]}' gives {outside[0]:.4g}, and objective {objective} takes probabilities: export them "
            "(a sigmoid or softmax at the end), or name another --objective"
        )
    if objective == "multiclass" and not answers.shares:
        raise Refused(f"the columns of output '{answers.name[:80]}' do not make 1: objective multiclass takes probabilities")
