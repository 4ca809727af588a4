"""Probabilistic interleaving: every item may be shown, the better ranked the likelier."""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from random import Random

from router.interleaving.draft import NOBODY, Draft, check, credited_until

TAU = 3.0
"""How fast a ranker's interest falls with the rank: the item at rank r is drawn in proportion to r ** -TAU."""


def probabilistic(rankings: Sequence[Sequence[str]], k: int, seed: int) -> Draft:
    """Draw every position from a ranker chosen at random, and that ranker's item from a softmax over its ranks, without return.

    Hofmann, Whiteson, de Rijke (2011), with any number of rankers. Their credit is marginalised over assignments: a click gives
    each ranker the chance that it was the one, given the item and those before. Such parts are fair to random clicks on
    average, but not in who wins, and units are judged by who wins: of abc and bca, a random click on the first position favours
    the first, by a lot, in 45 of 100 drafts and the second, by less, in 55. So here the chosen ranker gets all the credit or
    none, and none with the chance that any ranker would have drawn the item as well. On average that is theirs, list by list;
    what all would have shown alike credits nobody; and given what was shown before, each ranker is as likely to be credited as
    any other. A sum over clicks would be uneven again (who was credited before decides how much there is to come), so only the
    topmost one that credits anybody counts.

    What comes once a ranking may have run out is the others' best in turn and credits nobody. A longer draft begins with the
    shorter one.

    >>> draft = probabilistic([["a", "b", "c"], ["a", "c", "b"]], k=3, seed=1)
    >>> draft.items, draft.teams
    (('a', 'b', 'c'), (-1, 0, -1))
    """
    check(rankings, k)
    # Only random() is promised to give the same numbers for a seed in every version of Python.
    draw = Random(seed).random
    left = [{item: rank**-TAU for rank, item in enumerate(ranking, 1)} for ranking in rankings]
    until = credited_until(rankings, picks=1)
    items: list[str] = []
    teams: list[int] = []
    while len(items) < k and any(left):
        able = [team for team, weights in enumerate(left) if weights]
        team = able[int(draw() * len(able))]
        fair = len(items) <= until
        item = _drawn(left[team], draw()) if fair else next(iter(left[team]))
        items.append(item)
        teams.append(team if fair and draw() < _own(left, team, item) else NOBODY)
        for weights in left:
            weights.pop(item, None)
    return Draft(tuple(items), tuple(teams), seed, len(rankings), once=True)


def _drawn(weights: Mapping[str, float], at: float) -> str:
    """The item at this place, 0 to 1, of a ranker's distribution."""
    ends = list(accumulate(weights.values()))
    return next((item for item, end in zip(weights, ends, strict=True) if at * ends[-1] < end), next(iter(weights)))


def _own(left: Sequence[Mapping[str, float]], team: int, item: str) -> float:
    """The part of a ranker's chance of drawing an item that it does not share with all others."""
    chances = [weights.get(item, 0.0) / sum(weights.values()) for weights in left]
    return 1.0 - min(chances) / chances[team]
