"""One way of keeping a model fresh, carried out: at each boundary a model, which scores all that is asked until the next."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from store.spec import ModelSpec
from tuning.cadence import Cadence, boundaries
from tuning.journal import Journal, Leg
from tuning.stateful import Stateful
from tuning.stateless import Stateless
from tuning.timeline import Scored, Timeline

Kind = Literal["stateful", "stateless"]
LEG = 50
"""Steps of a stateful arm that are kept at a time; a stateless step costs more, and is kept by itself."""

Progress = Callable[[int, int], None]
"""Told how many steps are done, of how many."""


@dataclass(frozen=True, slots=True)
class Arm:
    """A cadence, and whether its models go on or begin anew."""

    cadence: Cadence
    kind: Kind

    @property
    def name(self) -> str:
        return f"{self.cadence}-{self.kind}"


@dataclass(frozen=True, slots=True)
class Step:
    """A model made at a boundary, which answers until the next."""

    boundary: float
    until: float


class Course:
    """What all arms have in common: the replay, what is scored, and how a stateless model is trained.

    Args:
        start: the end of the first window, which is not scored.
        most: stateless arms of more steps take `sampled` of them, evenly spaced.
    """

    def __init__(
        self,
        spec: ModelSpec,
        timeline: Timeline,
        start: float,
        window_s: float,
        passes: int,
        sampled: int = 20,
        most: int = 400,
    ) -> None:
        self.spec, self.timeline, self.start, self._window_s = spec, timeline, start, window_s
        self.passes, self._sampled, self._most = passes, sampled, most
        self.end = math.nextafter(timeline.last, math.inf)
        self.scored: Scored = timeline.scored(start, self.end)

    def all_steps(self, arm: Arm) -> list[Step]:
        at = boundaries(arm.cadence, self.start, self.end, self.timeline.cuts)
        return [Step(since, until) for since, until in zip(at, [*at[1:], self.end], strict=True)]

    def extrapolated(self, arm: Arm) -> bool:
        """Whether only a sample of its steps is carried out."""
        return arm.kind == "stateless" and len(self.all_steps(arm)) > self._most

    def steps(self, arm: Arm) -> list[Step]:
        """Return what is carried out; of a sample only steps whose model somebody asked."""
        steps = self.all_steps(arm)
        if not self.extrapolated(arm):
            return steps
        asked = [step for step in steps if len(self.scored.part(step.boundary, step.until))]
        return [asked[place] for place in np.linspace(0, len(asked) - 1, min(self._sampled, len(asked))).round().astype(int)]

    def run(self, arm: Arm, folder: Path, progress: Progress | None = None) -> None:
        """Carry out what is not done yet."""
        journal, steps = Journal(folder, self.spec.record.outputs), self.steps(arm)
        if journal.through >= len(steps):
            return
        stateful = arm.kind == "stateful"
        way = self._way(arm)
        if isinstance(way, Stateful) and journal.legs:
            way.resume(steps[journal.through - 1].boundary, *journal.state())
        size = LEG if stateful else 1
        while journal.through < len(steps):
            leg, scores = self._leg(way, steps, journal.through, size)
            journal.add(leg, scores, way.saved() if isinstance(way, Stateful) else None)
            if progress is not None:
                progress(journal.through, len(steps))

    def _way(self, arm: Arm) -> Stateful | Stateless:
        if arm.kind == "stateful":
            return Stateful(self.spec, self.timeline)
        return Stateless(self.spec, self.timeline, self._window_s, self.passes)

    def _leg(self, way: Stateful | Stateless, steps: list[Step], done: int, size: int) -> tuple[Leg, np.ndarray]:
        # The first is by itself: it is the first window, and its cost is told apart.
        through = min(done + (size if done else 1), len(steps))
        seconds, outcomes, scores = 0.0, 0, list[np.ndarray]()
        for step in steps[done:through]:
            material = way.material(step.boundary)
            begun = time.process_time()
            outcomes += way.learn(material)
            seconds += time.process_time() - begun
            part = self.scored.part(step.boundary, step.until)
            if len(part):
                scores.append(way.learner.score(self.scored.inputs.take(part)))
        first = self.scored.part(steps[done].boundary, steps[through - 1].until)
        empty = np.zeros((0, self.spec.record.outputs), np.float32)
        leg = Leg(through=through, first=first.start, end=first.stop, seconds=seconds, outcomes=outcomes)
        return leg, np.concatenate([empty, *scores])
