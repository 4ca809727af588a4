"""When labels hold, and what each is worth."""

import math
from collections.abc import Iterable, Sequence
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

from store.records import Label, Vote


class LabelPolicy(BaseModel):
    """When an outcome becomes final.

    on_label: when its label comes; without one inside `window_s` it never does.
    at_window: when the window closes, with the label that came or else with `default`.
    corrected: likewise, but `default` is learned at once and put right when another label comes.

    Whatever the kind, a label that changes, or comes in the `window_s` after the window, is learned as a correction.

    `sources` says how often each source of labels is right, `"*"` all that are not named; without it they are taken at their
    word. Where labels are less than sure, the learner takes them for what they are worth, and watches how right a source is.

    `low` and `high` are the least and the greatest label that there can be, where labels are numbers; feedback with another is
    refused. One huge number that is let in leaves an optimiser that divides by what it has seen all but unable to move.
    """

    model_config = ConfigDict(frozen=True)

    kind: Literal["on_label", "at_window", "corrected"] = "on_label"
    window_s: float = 7 * 86_400.0
    default: float | int | str | None = None
    sources: dict[str, Annotated[float, Field(gt=0.0, le=1.0)]] = {}
    low: FiniteFloat | None = None
    high: FiniteFloat | None = None

    @model_validator(mode="after")
    def _low_below_high(self) -> Self:
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise ValueError(f"low is {self.low:g} and high is {self.high:g}: low must be below high")
        return self

    @property
    def bounded(self) -> bool:
        return self.low is not None or self.high is not None

    def out_of_bounds(self, label: float) -> str | None:
        """Say which bound a label that is a number is beyond, or None."""
        if self.low is not None and label < self.low:
            return f"label must be at least {self.low:g}"
        return f"label must be at most {self.high:g}" if self.high is not None and label > self.high else None

    def accuracy(self, source: str) -> float:
        """How often a source is right."""
        if not self.sources:
            return 1.0
        return self.sources.get(source, self.sources.get("*", 1.0))

    def standing(self, votes: Iterable[Vote]) -> tuple[Vote, ...]:
        """Return the votes that count of all, the oldest first: beside a sure one no other does, and of those the newest."""
        kept = tuple(votes)
        if len(kept) < 2:
            return kept
        sure = [vote for vote in kept if self.accuracy(vote.source) * vote.confidence >= 1.0]
        return (sure[-1],) if sure else kept

    def resolved(self, votes: Sequence[Vote], classes: int = 2) -> Vote:
        """Return the newest vote for what most likely is the label, by the declared accuracies.

        Of votes that are independent given the label each weighs for what it says by `log P(vote | right) / P(vote | wrong)`,
        where a wrong vote is any of the other classes alike.

        Args:
            classes: how many labels there can be; 2 where they are numbers.
        """
        if len(votes) == 1:
            return votes[0]
        weight: dict[Label, float] = {}
        for vote in votes:
            right = min(max(likely_right(self.accuracy(vote.source), vote.confidence, classes), 1e-6), 1.0 - 1e-6)
            weight[vote.label] = weight.get(vote.label, 0.0) + math.log(right * (classes - 1) / (1.0 - right))
        most = max(weight.values())
        return next(vote for vote in reversed(votes) if weight[vote.label] >= most)


def likely_right(accuracy: float, confidence: float, classes: int) -> float:
    """The probability that a vote is right: the source and its own doubt err independently of each other, each to any of the
    other classes alike, and the second may undo what the first did.

    >>> likely_right(0.9, 1.0, 3), round(likely_right(0.9, 0.8, 2), 9), round(likely_right(0.9, 0.8, 3), 9)
    (0.9, 0.74, 0.73)
    """
    return accuracy * confidence + (1.0 - accuracy) * (1.0 - confidence) / (classes - 1)
