"""How right each source of labels has lately been, judged by the model and by the other sources."""

import json
import math
from collections.abc import Sequence

import numpy as np

from store.records import Vote
from store.spec import LabelPolicy

GRID = np.linspace(0.0, 1.0, 41)[1:-1]
PRIOR = 20.0
"""The declared accuracy counts as much as so many votes."""

MEMORY = 0.9995
"""What is left of a vote's weight after the next one: the last 2,000 or so count."""

_SMALL = 1e-9


class Trust:
    """The accuracy of each declared source, as it shows.

    A vote's probability under an accuracy `a` is `a π + (1 - a)(1 - π)/(K - 1)`, where `π` is the probability of what it says
    by the model and by all other votes on the same prediction (Dawid, Skene 1979, with the model as one more observer); the
    accuracy's posterior is kept on a grid, by decayed log-likelihoods. Nobody is believed to be worse than chance: who lies
    all the time is not to steer the model either.

    Where the world changes, all sources seem to err: only what a source errs more than the others is held against it.
    """

    def __init__(self, policy: LabelPolicy, classes: int, state: str = "") -> None:
        self._policy = policy
        self._classes = classes
        self._seen: dict[str, np.ndarray] = {
            name: np.array(values, dtype=np.float64) for name, values in (json.loads(state) if state else {}).items()
        }

    def packed(self) -> str:
        """Return the state, as it is given to another one; floats come back bit for bit."""
        return json.dumps({name: seen.tolist() for name, seen in sorted(self._seen.items())})

    def begin(self) -> dict[str, np.ndarray]:
        """Return what `undo` needs to forget all that comes."""
        return dict(self._seen)

    def undo(self, seen: dict[str, np.ndarray]) -> None:
        self._seen = dict(seen)

    def accuracies(self) -> dict[str, float]:
        """Return the accuracy of each source that is not taken at its word, as far as it has voted."""
        shown = {name: self._shown(name) for name in self._seen}
        share = {name: shown[name] / self._policy.accuracy(name) for name in shown}
        best = max(share.values(), default=1.0)
        chance = 1.0 / self._classes
        return {name: max(chance, min(1.0, share[name] / best) * self._policy.accuracy(name)) for name in shown}

    def name(self, source: str) -> str:
        """Those that are not declared are one."""
        return source if source in self._policy.sources else "*"

    def see(self, votes: Sequence[tuple[Vote, float]]) -> None:
        """Take in votes, each with the probability of what it says by the model and all other votes."""
        for vote, expected in votes:
            if self._policy.accuracy(vote.source) >= 1.0:
                continue
            right = GRID * vote.confidence + (1.0 - GRID) * (1.0 - vote.confidence) / (self._classes - 1)
            likelihood = right * expected + (1.0 - right) * (1.0 - expected) / (self._classes - 1)
            name = self.name(vote.source)
            self._seen[name] = self._seen.get(name, np.zeros(len(GRID))) * MEMORY + np.log(np.maximum(likelihood, _SMALL))

    def _shown(self, name: str) -> float:
        """The posterior mean, under a Beta prior around what is declared."""
        declared = min(max(self._policy.accuracy(name), 0.01), 0.99)
        prior = PRIOR * (declared * np.log(GRID) + (1.0 - declared) * np.log(1.0 - GRID))
        log = self._seen[name] + prior
        weight = np.exp(log - log.max())
        return float((weight * GRID).sum() / weight.sum()) if math.isfinite(float(weight.sum())) else declared
