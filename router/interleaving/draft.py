"""What every way of interleaving makes: one list out of several, with a note of whom a click on each position credits."""

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

NOBODY = -1
"""The team of a position that credits no ranker."""


@dataclass(frozen=True, slots=True)
class Draft:
    """One list made of several rankings, as shown to one unit.

    Log all of it: with the clicks it is everything that `credit` needs, and neither rankings nor strategy have to be kept.

    Attributes:
        items: in the order shown.
        teams: for each position the ranker (its place among the rankings) that a click credits, or `NOBODY`.
        seed: what it was drawn with: the same rankings, length and seed give the same draft in every process.
        rankers: how many rankings it was made of.
        once: whether of all clicks only the topmost that credits anybody counts.
    """

    items: tuple[str, ...]
    teams: tuple[int, ...]
    seed: int
    rankers: int = 2
    once: bool = False

    def __post_init__(self) -> None:
        if len(self.teams) != len(self.items):
            raise ValueError(f"{len(self.items)} items need as many teams, not {len(self.teams)}")
        if self.teams and not (min(self.teams) >= NOBODY and max(self.teams) < self.rankers):
            raise ValueError(f"a team is {NOBODY} (nobody) or one of {self.rankers} rankers from 0, not as in {self.teams}")


class Strategy(Protocol):
    """A way to interleave. Pure: the same rankings, length and seed give the same draft, in every process.

    Rankings may differ in length and in items, and may be empty (a ranker that failed): then the others are served and nobody
    is credited. A draft shows each item once, and `k` of them where there are so many. Each ranker is as likely as any other to
    be credited at a position, so one who clicks without regard to the items, however much by position, favours nobody.
    """

    def __call__(self, rankings: Sequence[Sequence[str]], k: int, seed: int) -> Draft:
        """Draw a list of up to `k` items from two or more rankings, each with its best item first.

        Raises:
            ValueError: fewer than two rankings, an item twice in one of them, or `k` below 1.
        """
        ...


def check(rankings: Sequence[Sequence[str]], k: int) -> None:
    """Refuse what no strategy can interleave.

    >>> check([["a", "b"], ["b", "b"]], k=2)
    Traceback (most recent call last):
    ValueError: ranking 1 holds an item twice
    """
    if len(rankings) < 2:
        raise ValueError(f"interleaving needs at least two rankings, not {len(rankings)}")
    if k < 1:
        raise ValueError(f"k is {k}: it must be at least 1")
    for number, ranking in enumerate(rankings):
        if len(set(ranking)) != len(ranking):
            raise ValueError(f"ranking {number} holds an item twice")


def common_prefix(rankings: Sequence[Sequence[str]]) -> int:
    """Return how many items all rankings begin with alike.

    >>> common_prefix([["a", "b", "c"], ["a", "b", "d"]])
    2
    """
    length = 0
    for first, *others in zip(*rankings, strict=False):
        if any(other != first for other in others):
            break
        length += 1
    return length


def credited_until(rankings: Sequence[Sequence[str]], picks: int) -> int:
    """Return the number of shown items up to which the next `picks` positions can credit: no ranking runs out within them.

    After that a ranking may have nothing to show in its turn, and the others would gain from clicks made at random. It depends
    on lengths alone, not on the course of the draft: who is ahead must not decide how many more positions count. Rankings of
    the same items never run out before each other.

    >>> credited_until([["a", "b", "c"], ["d", "e", "f", "g"]], picks=2)
    1
    """
    same = all(set(ranking) == set(rankings[0]) for ranking in rankings)
    return len(rankings[0]) if same else min(len(ranking) for ranking in rankings) - picks


def best_left(ranking: Iterable[str], shown: Container[str]) -> str | None:
    """Return a ranking's best item that is not shown yet, or None.

    >>> best_left(["a", "b", "c"], {"a"})
    'b'
    """
    for item in ranking:
        if item not in shown:
            return item
    return None
