"""When labels hold, and what each is worth."""

import math
from collections.abc import Iterable, Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from store.records import Label, Vote


class LabelPolicy(BaseModel):
    """When an outcome becomes final.

    on_label: when its label comes; without one inside `window_s` it never does.
    at_window: when the window closes, with the label that came or else with `default`.
    corrected: likewise, but `default` is learned at once and put right when another label comes.

    Whatever the kind, a label that changes, or comes in the `window_s` after the window, is learned as a correction.

    `sources` says how often each source of labels is right, `"*"` all that are not named; without it they are taken at their
    word. Where labels are less than sure, the learner takes them for what they are worth, and watches how right a source is.
    """

    model_config = ConfigDict(frozen=True)

    kind: Literal["on_label", "at_window", "corrected"] = "on_label"
    window_s: float = 7 * 86_400.0
    default: float | int | str | None = None
    sources: dict[str, Annotated[float, Field(gt=0.0, le=1.0)]] = {}

    def accuracy(self, source: str) -> float:
        """How often a source is right."""
        return self.sources.get(source, self.sources.get("*", 1.0))

    def standing(self, votes: Iterable[Vote]) -> tuple[Vote, ...]:
        """Return the votes that count of all, the oldest first: beside a sure one no other does, and of those the newest."""
        kept = tuple(votes)
        sure = [vote for vote in kept if self.accuracy(vote.source) * vote.confidence >= 1.0]
        return (sure[-1],) if sure else kept

    def resolved(self, votes: Sequence[Vote]) -> Vote:
        """Return the newest vote for what most likely is the label, by the declared accuracies."""
        weight: dict[Label, float] = {}
        for vote in votes:
            right = min(max(_right(self.accuracy(vote.source), vote.confidence), 1e-6), 1.0 - 1e-6)
            weight[vote.label] = weight.get(vote.label, 0.0) + math.log(right / (1.0 - right))
        most = max(weight.values())
        return next(vote for vote in reversed(votes) if weight[vote.label] >= most)


def _right(accuracy: float, confidence: float) -> float:
    """The probability that a vote is right: the source and its own doubt err independently of each other."""
    return accuracy * confidence + (1.0 - accuracy) * (1.0 - confidence)
