"""What the votes on a prediction amount to, and whether that is news: to experiments, which count a prediction once, or to the
learner, which is told of everything that changes."""

from typing import NamedTuple

from store.records import Label, OutcomeKind, Vote
from store.spec import LabelPolicy
from trainer.memory import Open


class News(NamedTuple):
    """What is to be told of a prediction: the label that most likely holds, the votes for and against it, and what was told
    before. `replaces` is the final label in whose place a final one comes."""

    best: Vote
    kind: OutcomeKind
    final: bool
    votes: tuple[Vote, ...]
    learned: tuple[Vote, ...]
    replaces: Label | None = None


class Labelling:
    """A label policy's part of the join. What it returns counts as told.

    Args:
        classes: how many labels there can be; 2 where they are numbers.
    """

    def __init__(self, policy: LabelPolicy, classes: int) -> None:
        self._policy, self._classes = policy, classes

    def news(self, prediction: Open, final: bool) -> News | None:
        """Return what is said now, if that is news; `final`: it is for experiments, too.

        A second source that agrees with one that is taken at its word is none.
        """
        votes = self._policy.standing(prediction.votes.values())
        best = self._policy.resolved(votes, self._classes)
        changed = prediction.final is not None and best.label != prediction.final
        final = final and (changed or prediction.final is None)
        if not final and prediction.told and self._worth(votes) == self._worth(prediction.told):
            return None
        return self._told(prediction, best, "correction" if changed else "label", final, votes)

    def default(self, prediction: Open, final: bool) -> News:
        """Return the label that stands in for silence."""
        assert self._policy.default is not None
        vote = Vote(self._policy.default)
        return self._told(prediction, vote, "default", final, (vote,))

    def _told(self, prediction: Open, best: Vote, kind: OutcomeKind, final: bool, votes: tuple[Vote, ...]) -> News:
        news = News(best, kind, final, votes, prediction.told, prediction.final if final else None)
        prediction.told = votes
        if final:
            prediction.final = best.label
        return news

    def _worth(self, votes: tuple[Vote, ...]) -> list[tuple[Label, float, float]]:
        return [(vote.label, self._policy.accuracy(vote.source), vote.confidence) for vote in votes]
