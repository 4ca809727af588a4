"""Which ranker wins more units: a test that holds while watched, for two rankers or more."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from router.interleaving.credit import Outcome, verdict
from router.statistics import RelativeRisk, family_wise


@dataclass(frozen=True, slots=True)
class Duel:
    """Units by outcome, for rankers a and b. A unit enters once, with its credits over all of its drafts; duels add up.

    One unit, one outcome: a heavy user's clicks and sessions repeat each other, and counted one by one they raise the alarm
    without a difference.

    A unit that is decided is an event of a's or of b's, as likely of either if they are equally good: `RelativeRisk` with even
    shares, in both directions at half of alpha each. The least it bets on is a relative risk of 1.1, a win rate of 52.4 %. So
    win rates below 51.2 % are never decided: there all its bets lose more than they gain.

    >>> duel = Duel()
    >>> for a, b in [(2.0, 1.0), (0.0, 0.0), (1.0, 1.0), (0.0, 3.0)]:
    ...     duel = duel.add(a, b)
    >>> duel, duel.better()
    (Duel(wins_a=1, wins_b=1, ties=1, none=1), None)
    >>> (duel + Duel(wins_a=60, wins_b=20)).better()
    <Outcome.A: 'a'>
    """

    wins_a: int = 0
    wins_b: int = 0
    ties: int = 0
    none: int = 0

    def add(self, a: float, b: float) -> "Duel":
        """Take in one unit's credits."""
        outcome = verdict(a, b)
        return self + Duel(outcome == Outcome.A, outcome == Outcome.B, outcome == Outcome.TIE, outcome == Outcome.NONE)

    def __add__(self, other: "Duel") -> "Duel":
        return Duel(self.wins_a + other.wins_a, self.wins_b + other.wins_b, self.ties + other.ties, self.none + other.none)

    @property
    def decisive(self) -> int:
        """Units that one of them won."""
        return self.wins_a + self.wins_b

    @property
    def log_e(self) -> tuple[float, float]:
        """Log of the e-values against "a wins at most as many units as b", and against the reverse."""
        even = RelativeRisk(share=0.5)
        return even.add(self.wins_a, self.wins_b).log_e, even.add(self.wins_b, self.wins_a).log_e

    def better(self, alpha: float = 0.05) -> Outcome | None:
        """Return which of the two is better, None while that is open; wrong with probability `alpha`, however often asked."""
        a, b = family_wise(self.log_e, alpha)
        return Outcome.A if a else Outcome.B if b else None


@dataclass(frozen=True, slots=True)
class Duels:
    """All pairs of several rankers, numbered by their places among the rankings; with two it is one duel.

    A pair is open while other pairs are decided; all decisions together are held to one alpha.

    >>> duels = Duels.among(3).add((2.0, 1.0, 0.0))
    >>> duels.pairs[0, 1].wins_a, duels.better()
    (1, [])
    """

    pairs: Mapping[tuple[int, int], Duel]

    @staticmethod
    def among(rankers: int) -> "Duels":
        """Begin, with nobody ahead."""
        return Duels(dict.fromkeys(combinations(range(rankers), 2), Duel()))

    def add(self, credits: Sequence[float]) -> "Duels":
        """Take in one unit's credits, one for each ranker."""
        return Duels({(a, b): duel.add(credits[a], credits[b]) for (a, b), duel in self.pairs.items()})

    def __add__(self, other: "Duels") -> "Duels":
        return Duels({pair: duel + other.pairs[pair] for pair, duel in self.pairs.items()})

    def better(self, alpha: float = 0.05) -> list[tuple[int, int]]:
        """Return decided pairs, each the better ranker first; that any of them is wrong has probability `alpha`."""
        directions = [pair for a, b in self.pairs for pair in ((a, b), (b, a))]
        evidence = [log_e for duel in self.pairs.values() for log_e in duel.log_e]
        return [pair for pair, found in zip(directions, family_wise(evidence, alpha), strict=True) if found]
