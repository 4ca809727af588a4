"""A new learner each time, trained on the window that trails the boundary: as often as it is at its best by."""

from collections.abc import Callable
from dataclasses import replace

from store.records import Outcome
from store.spec import ModelSpec
from trainer.gates.losses import losses
from trainer.learner import Learner
from tuning.timeline import Batch, Scored, Timeline, settled

PASSES = (1, 2, 3, 5, 8)
"""Over the window, that are tried."""

_HELD_BACK = 0.2


class Stateless:
    """Trains from nothing on what arrived in the last `window_s` seconds, `passes` times.

    A label that was corrected within the window is learned as it was last known by the boundary.
    """

    def __init__(self, spec: ModelSpec, timeline: Timeline, window_s: float, passes: int = 1) -> None:
        labels = spec.labels
        if labels.kind == "corrected":  # by the boundary each label is known as well as it can be, and nothing to be corrected
            labels = labels.model_copy(update={"kind": "at_window"})
        self._spec, self._timeline = replace(spec, labels=labels), timeline
        self._window_s, self.passes = window_s, passes
        self.learner = Learner(self._spec)

    def material(self, boundary: float) -> list[Batch]:
        """Return what the model of a boundary learns."""
        batches = self._timeline.arrived(boundary - self._window_s, boundary)
        outcomes = [(one, batch.seed) for batch in batches for one in batch.outcomes]
        parts: dict[str, list[Outcome]] = {}
        for place in settled([one for one, _ in outcomes]):
            one, seed = outcomes[place]
            parts.setdefault(seed, []).append(one._replace(learned=()))
        return [Batch(part, seed) for seed, part in parts.items()]

    def learn(self, batches: list[Batch]) -> int:
        """Train a new learner; return how many outcomes it learned, each time it did."""
        self.learner = Learner(self._spec)
        for number in range(self.passes):
            _once(self.learner, batches, number)
        return self.passes * sum(len(batch.outcomes) for batch in batches)


def best_passes(
    spec: ModelSpec, timeline: Timeline, start: float, window_s: float, progress: Callable[[int, float], None] | None = None
) -> tuple[int, dict[int, float]]:
    """Find how often a stateless model should go through its window: by the last fifth of the first one, held back.

    Args:
        start: the end of the first window: nothing later is looked at.
        progress: told each number of passes with its loss.

    Returns:
        The number with the least mean loss, and the losses of all.
    """
    middle = start - _HELD_BACK * window_s
    # Of those labels only that had come by the end of the window: what came later is the future.
    held = timeline.scored(middle, start, start)
    trainer = Stateless(spec, timeline, window_s)
    batches, found = trainer.material(middle), dict[int, float]()
    for number in range(max(PASSES)):
        _once(trainer.learner, batches, number)
        if number + 1 in PASSES:
            found[number + 1] = _mean(spec, trainer.learner, held)
            if progress is not None:
                progress(number + 1, found[number + 1])
    return min(found, key=found.__getitem__), found


def _once(learner: Learner, batches: list[Batch], number: int) -> None:
    for batch in batches:
        learner.learn(batch.outcomes, f"{batch.seed}-{number}" if number else batch.seed)


def _mean(spec: ModelSpec, learner: Learner, held: Scored) -> float:
    return float(losses(spec.objective, held.labels, learner.score(held.inputs)).mean())
