"""From clicks to credits, and from a unit's credits to who won it."""

from collections.abc import Collection, Iterable, Sequence
from enum import StrEnum

from router.interleaving.draft import NOBODY, Draft


class Outcome(StrEnum):
    """What one unit says of rankers a and b: no credit for either is `NONE`, as much for both `TIE`."""

    A = "a"
    B = "b"
    TIE = "tie"
    NONE = "none"


def credit(draft: Draft, clicked: Collection[str]) -> tuple[float, ...]:
    """Return each ranker's credit for the items clicked on in a draft: 1 for each that its team drafted.

    However often an item is clicked on, it counts once; what was not in the draft does not count. Of a draft marked `once`
    only the topmost of them does.

    >>> credit(Draft(items=("x", "b", "a", "c"), teams=(-1, 1, 0, 0), seed=7), clicked=["x", "a", "c"])
    (2.0, 0.0)
    """
    wanted = set(clicked)
    credits = [0.0] * draft.rankers
    for item, team in zip(draft.items, draft.teams, strict=True):
        if team != NOBODY and item in wanted:
            credits[team] += 1.0
            if draft.once:
                break
    return tuple(credits)


def total(credits: Iterable[Sequence[float]]) -> tuple[float, ...]:
    """Return each ranker's credit over all drafts of a unit; none without drafts.

    >>> total([(2.0, 0.0), (0.0, 1.0)])
    (2.0, 1.0)
    """
    return tuple(map(sum, zip(*credits, strict=True)))


def verdict(a: float, b: float) -> Outcome:
    """Return who won a unit in which rankers a and b earned these credits, over all of its drafts.

    >>> verdict(2.0, 1.0), verdict(1.0, 1.0), verdict(0.0, 0.0)
    (<Outcome.A: 'a'>, <Outcome.TIE: 'tie'>, <Outcome.NONE: 'none'>)
    """
    if a == b:
        return Outcome.TIE if a > 0.0 else Outcome.NONE
    return Outcome.A if a > b else Outcome.B
