"""A learner that goes on: each update learns what has arrived since the last, once, in production's way."""

from store.spec import ModelSpec
from trainer.learner import Learner
from tuning.timeline import Batch, Timeline


class Stateful:
    """One learner from the first window to the end."""

    def __init__(self, spec: ModelSpec, timeline: Timeline) -> None:
        self._timeline, self._since = timeline, float("-inf")
        self.learner = Learner(spec)

    def material(self, boundary: float) -> list[Batch]:
        """Return what the model of a boundary learns beyond the one before; ask for each boundary once, in order."""
        batches = self._timeline.arrived(self._since, boundary)
        self._since = boundary
        return batches

    def learn(self, batches: list[Batch]) -> int:
        """Update the learner; return how many outcomes it learned, each time it did."""
        for batch in batches:
            self.learner.learn(batch.outcomes, batch.seed)
        return sum(len(batch.outcomes) for batch in batches)

    def saved(self) -> tuple[bytes, bytes]:
        return self.learner.weights(), self.learner.checkpoint()

    def resume(self, boundary: float, weights: bytes, checkpoint: bytes) -> None:
        """Be as after a boundary; raises CheckpointError."""
        self.learner.restore(weights, checkpoint)
        self._since = boundary
