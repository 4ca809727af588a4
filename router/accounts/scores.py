"""What an output is worth once its label is known."""

import math

from store.records import Label, Outcome
from store.spec import ModelRecord

_SMALL = 1e-7


def loss_of(record: ModelRecord, output: list[float], label: Label) -> float:
    """The objective's loss: log loss in nats, or the squared error of a regression.

    >>> from store.schema import Schema
    >>> binary = ModelRecord(name="m", features=Schema(fields=()), objective="binary")
    >>> round(loss_of(binary, [0.5], 1), 4)
    0.6931
    """
    if record.objective == "regression":
        return (output[0] - float(label)) ** 2
    if record.objective == "multiclass":
        return -math.log(max(_SMALL, output[record.classes.index(str(label))]))
    probability = output[0] if float(label) > 0.5 else 1.0 - output[0]
    return -math.log(min(1.0, max(_SMALL, probability)))


def right(record: ModelRecord, output: list[float], label: Label) -> bool | None:
    """Whether the most probable class is the label; None where there are no classes."""
    if record.objective == "regression":
        return None
    if record.objective == "multiclass":
        return record.classes[max(range(len(output)), key=output.__getitem__)] == str(label)
    return (output[0] > 0.5) == (float(label) > 0.5)


def number_of(label: Label) -> float:
    """The label as a number, 0 for a class."""
    return 0.0 if isinstance(label, str) else float(label)


def adds(record: ModelRecord, outcome: Outcome) -> tuple[float, float, int]:
    """What a final outcome adds to its unit's sums of loss and labels, and to the count of outcomes: one that replaces another
    adds the difference."""
    loss, label = loss_of(record, outcome.output, outcome.label), number_of(outcome.label)
    if outcome.replaces is None:
        return loss, label, 1
    return loss - loss_of(record, outcome.output, outcome.replaces), label - number_of(outcome.replaces), 0


def shown(record: ModelRecord, output: list[float]) -> float:
    """The one number of an output whose distribution is watched."""
    return max(output) if record.objective == "multiclass" else output[0]
