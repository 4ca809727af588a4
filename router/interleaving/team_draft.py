"""Team-draft interleaving of two rankings, and multileaving of more."""

from collections.abc import Sequence
from random import Random

from router.interleaving.draft import NOBODY, Draft, best_left, check, common_prefix, credited_until


def team_draft(rankings: Sequence[Sequence[str]], k: int, seed: int) -> Draft:
    """Let the rankers draft like captains: round by round, in a fresh random order, each adds its best item not yet shown.

    So the team with fewer picks goes next and a coin decides ties (Radlinski, Kurup, Joachims 2008; Chapelle, Joachims,
    Radlinski, Yue 2012), with any number of teams (Schuth, Sietsma, Whiteson, Lefortier, de Rijke 2014). A click credits the
    team. What all rankings begin with alike credits nobody, nor does what comes after the last round that all are sure to
    complete. Up to there teams are interchangeable, whoever clicks on what: nobody wins by clicks made at random, be there one
    or many of them. A longer draft begins with the shorter one: later pages continue it.

    >>> draft = team_draft([["a", "b", "c", "d", "x"], ["a", "c", "e", "b", "y"]], k=5, seed=3)
    >>> draft.items, draft.teams
    (('a', 'b', 'c', 'd', 'e'), (-1, 0, 1, 0, 1))
    """
    check(rankings, k)
    # Only random() is promised to give the same numbers for a seed in every version of Python.
    draw = Random(seed).random
    items = list(rankings[0][: min(k, common_prefix(rankings))])
    teams = [NOBODY] * len(items)
    shown = set(items)
    until = credited_until(rankings, picks=len(rankings))
    while len(items) < k:
        fair = len(items) <= until
        before = len(items)
        waiting = list(range(len(rankings)))
        while waiting and len(items) < k:
            team = waiting.pop(int(draw() * len(waiting)))
            item = best_left(rankings[team], shown)
            if item is not None:
                items.append(item)
                teams.append(team if fair else NOBODY)
                shown.add(item)
        if len(items) == before:
            break
    return Draft(tuple(items), tuple(teams), seed, len(rankings))
