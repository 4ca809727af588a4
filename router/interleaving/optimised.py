"""Optimised interleaving: of all fair ways to draw a list, the one in which a click tells most."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import numpy as np

from router.interleaving.draft import NOBODY, Draft, best_left, check

LISTS = 128
"""How many lists are weighed at the most; where more are allowed, a sample of them. Unbiasedness does not depend on it."""

WITHHELD = 4.0
"""What withholding all credit costs the programme, in nats of sensitivity, which is at most log(rankers)."""

UNEVEN = 0.2
"""What it costs, likewise, if no pattern of credits is as likely as the same with the rankers exchanged."""


@dataclass(frozen=True, slots=True)
class Programme:
    """A distribution over lists, fair at every position.

    Attributes:
        lists: the items of each list that may be shown.
        probabilities: with which each list is shown [lists].
        favours: the ranker that puts the item there highest, or equal parts of those that do; 0 where all do
            [lists, positions, rankers].
        kept: with which chance a ranker gets the credit that it would there; nobody gets it otherwise [positions, rankers].
    """

    lists: tuple[tuple[str, ...], ...]
    probabilities: np.ndarray
    favours: np.ndarray
    kept: np.ndarray

    @property
    def credited(self) -> np.ndarray:
        """The chance that a position credits a ranker [positions, rankers]: the same for all rankers."""
        return self.kept * _masses(self.probabilities, self.favours)

    def draw(self, seed: int) -> Draft:
        """Draw a list, who gets its items where several rank them highest, and where credit is withheld."""
        # Only random() is promised to give the same numbers for a seed in every version of Python.
        draw = Random(seed).random
        which = bisect_right(np.cumsum(self.probabilities).tolist(), draw(), hi=len(self.lists) - 1)
        ends = np.cumsum(self.favours[which] * self.kept, axis=1)
        teams = (bisect_right(row, draw()) for row in ends.tolist())
        rankers = self.kept.shape[1]
        return Draft(self.lists[which], tuple(team if team < rankers else NOBODY for team in teams), seed, rankers)


def optimised(rankings: Sequence[Sequence[str]], k: int, seed: int) -> Draft:
    """Draw from the programme of these rankings. To draw often from the same ones, keep their `programme`.

    >>> draft = optimised([["a", "b", "c"], ["a", "c", "b"]], k=3, seed=1)
    >>> draft.items, draft.teams
    (('a', 'b', 'c'), (-1, 0, 1))
    """
    return programme(rankings, k).draw(seed)


def programme(rankings: Sequence[Sequence[str]], k: int) -> Programme:
    """Solve for the distribution over lists that is most sensitive among those that are fair to random clicks.

    Radlinski, Craswell (2013), for two rankers or more: every list grows by some ranker's best item not yet shown; an item
    credits the ranker that ranks it highest (their binary credit; a random one of several, but nobody if all do); a list's
    sensitivity is the chance that a click credits anybody, times the entropy of whom, for one click at rank i in proportion to
    1/i; and the linear programme finds the probabilities of the most sensitive mix in which each position credits all alike.

    Similar rankings often have no such mix (one that moves a single item up and all others down never has). So credit may be
    withheld: at each position, whoever is credited too often is credited only with the chance that makes it even. The programme
    avoids that where it can. Fairness is then exact for whatever lists are considered: the cap `LISTS` costs sensitivity only.

    That is fairness to each click. Several clicks on one list are fair on average, but who wins by their sum need not be. So
    with two rankers the programme prefers mixes in which each pattern of credits is as likely as its opposite. Mostly there is
    one: over simulated rankings and sets of clicks, one ranker wins 0.3 % more of the units than the other on average.
    Team-draft is even always, and with any number of rankers.

    >>> of = programme([["a", "b", "c", "d"], ["b", "c", "d", "a"]], k=4)
    >>> of.lists, of.credited.round(2).tolist()
    ((('a', 'b', 'c', 'd'), ('b', 'a', 'c', 'd')), [[0.5, 0.5], [0.5, 0.5], [0.0, 0.0], [0.0, 0.0]])
    """
    check(rankings, k)
    lists = _allowed(rankings, k)
    favours = _favours(lists, rankings)
    probabilities = _solve(favours)
    masses = _masses(probabilities, favours)
    even = masses.min(axis=1, keepdims=True)
    kept = np.divide(even, masses, out=np.zeros_like(masses), where=masses > 0.0)
    shown = np.flatnonzero(probabilities)
    return Programme(tuple(lists[one] for one in shown), probabilities[shown], favours[shown], kept)


def _allowed(rankings: Sequence[Sequence[str]], k: int) -> list[tuple[str, ...]]:
    """Lists that grow by some ranking's best item not yet shown: all of them, or a random `LISTS`, the same in each process."""
    draw = Random(0).random
    grown: list[tuple[str, ...]] = [()]
    for _ in range(k):
        longer = [(*one, item) for one in grown for item in _next(rankings, one)]
        if not longer:
            break
        grown = longer if len(longer) <= LISTS else sorted(longer, key=lambda _: draw())[:LISTS]
    return grown


def _next(rankings: Sequence[Sequence[str]], shown: tuple[str, ...]) -> list[str]:
    best = [best_left(ranking, shown) for ranking in rankings]
    return list(dict.fromkeys([item for item in best if item is not None]))


def _favours(lists: Sequence[Sequence[str]], rankings: Sequence[Sequence[str]]) -> np.ndarray:
    """Whom each item credits [lists, positions, rankers]: parts of 1, or nobody."""
    unranked = max(map(len, rankings))
    places = [{item: rank for rank, item in enumerate(ranking)} for ranking in rankings]
    ranks = np.array([[[place.get(item, unranked) for place in places] for item in one] for one in lists])
    ranks = ranks.reshape(len(lists), len(lists[0]), len(rankings))
    best = (ranks == ranks.min(axis=2, keepdims=True)).astype(np.float64)
    number = best.sum(axis=2, keepdims=True)
    return np.where(number < len(rankings), best / number, 0.0)


def _masses(probabilities: np.ndarray, favours: np.ndarray) -> np.ndarray:
    """The chance that the item at a position favours a ranker [positions, rankers]."""
    return np.einsum("l,lir->ir", probabilities, favours)


def _solve(favours: np.ndarray) -> np.ndarray:
    """Probabilities of lists [lists]: maximise expected sensitivity, less what withheld credit and unevenness cost.

    Besides the lists' probabilities, the unknowns are the even masses of positions, that is the credit that each ranker can get
    there without more than another: no more than the mass of any ranker; and the unevenness of each pattern of credits.
    """
    from scipy.optimize import linprog  # noqa: PLC0415 - slow to import, and only needed here

    lists, positions, rankers = favours.shape
    clicks = 1.0 / np.arange(1, positions + 1)
    clicks /= clicks.sum()
    wins = np.einsum("i,lir->lr", clicks, favours)
    anyone = wins.sum(axis=1, keepdims=True)
    shares = np.divide(wins, anyone, out=np.ones_like(wins), where=wins > 0.0)
    sensitivity = -(wins * np.log(shares)).sum(axis=1)
    exceeding = _exceeding(favours)
    patterns = len(exceeding)
    gain = [sensitivity - WITHHELD * anyone[:, 0], WITHHELD * rankers * clicks, np.full(patterns, -UNEVEN)]
    masses = favours.transpose(1, 2, 0).reshape(positions * rankers, lists)
    at_most = np.block(
        [
            [-masses, np.repeat(np.eye(positions), rankers, axis=0), np.zeros((len(masses), patterns))],
            [exceeding, np.zeros((patterns, positions)), -np.eye(patterns)],
        ]
    )
    total = np.repeat([1.0, 0.0], [lists, positions + patterns])
    found = linprog(
        -np.concatenate(gain), A_ub=at_most, b_ub=np.zeros(len(at_most)), A_eq=total[None], b_eq=np.ones(1), method="highs"
    )
    probabilities = np.clip(found.x[:lists], 0.0, None)
    return probabilities / probabilities.sum()


def _exceeding(favours: np.ndarray) -> np.ndarray:
    """For each pattern of credits, 1 for the lists that have it and -1 for those that have its opposite [patterns, lists].

    Of two rankers only: the patterns of more are too many, with all their exchanges, to be weighed.
    """
    lists = len(favours)
    if favours.shape[2] != 2:
        return np.zeros((0, lists))
    signs = favours[:, :, 0] - favours[:, :, 1]
    patterns, of = np.unique(np.concatenate([signs, -signs]), axis=0, return_inverse=True)
    numbers = np.arange(len(patterns))[:, None]
    return (of[:lists] == numbers).astype(np.float64) - (of[lists:] == numbers)
