"""One step of population-based training (Jaderberg and others 2017): the worst line takes over the best one's state, and
goes on in its way with settings changed by chance. Pure."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

ENOUGH = 20
"""Micro-batches that a line must have shared with main before it is judged."""

_FACTORS = (0.8, 1.25)
_CHANGED = ("learning_rate", "weight_decay")


@dataclass(frozen=True, slots=True)
class Competitor:
    """A line, or main. `difference` is its mean progressive loss minus main's over the `micro_batches` that both scored;
    `learning` and `shape` are its way of learning, as JSON; `born` is the revision that it came with."""

    name: str
    learning: Mapping[str, Any]
    shape: Mapping[str, Any]
    difference: float = 0.0
    micro_batches: int = 0
    born: int = 0


@dataclass(frozen=True, slots=True)
class Takeover:
    """`loser` is to begin anew from `winner`'s state, in this way."""

    loser: str
    winner: str
    learning: dict[str, Any]
    shape: dict[str, Any]
    why: str


def takeover(main: Competitor, lines: Sequence[Competitor], seed: int) -> Takeover | None:
    """Return the next step, or None while no two can be told apart. Main may win, and never loses: it is left to a promotion.

    Args:
        seed: with the loser's `born` it decides how settings are changed, so that the same step comes out the same.
    """
    judged = [line for line in lines if line.micro_batches >= ENOUGH]
    if not judged:
        return None
    loser = max(judged, key=lambda line: (line.difference, line.name))
    winner = min((main, *judged), key=lambda line: (line.difference, line.name))
    if winner.difference >= loser.difference:
        return None
    chance = random.Random(f"{seed}:{loser.name}:{loser.born}")
    changed = {name: winner.learning[name] * chance.choice(_FACTORS) for name in _CHANGED}
    why = f"loss {loser.difference:+.4f} from main's, and that of {winner.name} {winner.difference:+.4f}"
    return Takeover(loser.name, winner.name, {**winner.learning, **changed}, dict(winner.shape), why)
