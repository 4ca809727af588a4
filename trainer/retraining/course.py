"""A plan carried out: the window batch by batch, each scored before it is learned."""

from collections.abc import Callable
from dataclasses import dataclass

from store.records import Outcome
from trainer.errors import RetrainingError
from trainer.learner import Learner
from trainer.network import count_as
from trainer.retraining.plan import Plan

Progress = Callable[[int, int], None]
"""Told how many outcomes are learned, of how many."""


@dataclass(frozen=True, slots=True)
class Learnt:
    """What came of it. `loss` is progressive: the mean over the window, each outcome scored before it was learned, in the first
    pass (later ones have seen the labels). `refused` is why the last batch was taken back that was."""

    weights: bytes
    loss: float
    recent_loss: float
    refusals: int = 0
    refused: str = ""

    @property
    def metrics(self) -> dict[str, float]:
        return {"loss": self.loss, "recent_loss": self.recent_loss}


def begun(plan: Plan, weights: bytes, device: str | None = None) -> Learner:
    """Return the learner that the plan begins with.

    The optimiser of a version is not kept: it begins anew. Feature statistics go on, and weigh as much as the outcomes that
    they were made of.

    Args:
        weights: of the plan's parent; empty where it has none.
    """
    learner = Learner(plan.spec(), device or plan.device)
    if weights:
        learner.restore(weights, learner.checkpoint())
        count_as(learner.scorer, plan.seen)
    return learner


def carry_out(plan: Plan, weights: bytes, progress: Progress | None = None) -> Learnt:
    """Retrain in this process.

    Raises:
        RetrainingError: the window is not what it was, or nothing could be learned.
    """
    learner = begun(plan, weights)
    course = Course(plan, learner)
    course.run(progress)
    return course.learnt()


class Course:
    """The window gone through by one of several workers that share each batch; row i of a batch is worker i's, in turn."""

    def __init__(self, plan: Plan, learner: Learner, rank: int = 0) -> None:
        self._plan, self._learner, self._rank = plan, learner, rank
        self.loss_sum = self.rows = 0.0
        self._recent = 0.0
        self._learned = 0
        self._refusals, self._refused = 0, ""

    def run(self, progress: Progress | None = None) -> None:
        window = self._plan.window(self._learner.record)
        batches = shared(len(window), self._plan.rows, self._plan.workers)
        done = 0
        for number in range(self._plan.passes):
            for index, batch in enumerate(batches):
                self._learn(window.outcomes(batch[self._rank :: self._plan.workers]), f"{number}-{index}", first=number == 0)
                done += len(batch)
                if progress is not None:
                    progress(done, len(window) * self._plan.passes)

    def learnt(self) -> Learnt:
        """Raises RetrainingError where every batch was refused."""
        if not self._learned:
            raise RetrainingError(f"nothing could be learned: {self._refused}")
        mean = self.loss_sum / max(self.rows, 1.0)
        return Learnt(self._learner.weights(), mean, self._recent, self._refusals, self._refused)

    def _learn(self, outcomes: list[Outcome], seed: str, first: bool) -> None:
        learned = self._learner.learn(outcomes, seed)
        if learned.rejected:
            self._refusals, self._refused = self._refusals + 1, learned.rejected
            return
        self._learned += 1
        if first:
            self.loss_sum, self.rows = self.loss_sum + learned.loss * learned.rows, self.rows + learned.rows
            self._recent = learned.recent_loss


def shared(outcomes: int, rows: int, workers: int) -> list[range]:
    """Cut a window into batches of `rows`, which all workers have a part in: what would be too few for that goes with the batch
    before.

    >>> shared(10, 4, 1), shared(9, 4, 2)
    ([range(0, 4), range(4, 8), range(8, 10)], [range(0, 4), range(4, 9)])
    """
    rows = max(rows, workers)
    starts = list(range(0, outcomes, rows))
    if len(starts) > 1 and outcomes - starts[-1] < workers:
        starts.pop()
    return [range(start, end) for start, end in zip(starts, [*starts[1:], outcomes], strict=True)]
