"""Interleaving: several rankings shown as one list, and clicks on it that say which ranker is better.

Two rankers are compared on the same user, page and moment, so what differs between users cancels: it needs a fraction of the
units of an A/B test. A strategy makes a `Draft` of the rankings; `credit` reads clicks on it; a unit's credits over all of
its drafts are one outcome in a `Duel`, which says which ranker is better, at any moment. A new strategy is its file and one
entry in `STRATEGIES`.
"""

from router.interleaving.credit import Outcome, credit, total, verdict
from router.interleaving.draft import NOBODY, Draft, Strategy
from router.interleaving.duel import Duel, Duels
from router.interleaving.optimised import Programme, optimised, programme
from router.interleaving.probabilistic import probabilistic
from router.interleaving.team_draft import team_draft

STRATEGIES: dict[str, Strategy] = {"team_draft": team_draft, "probabilistic": probabilistic, "optimised": optimised}

__all__ = [
    "NOBODY",
    "STRATEGIES",
    "Draft",
    "Duel",
    "Duels",
    "Outcome",
    "Programme",
    "Strategy",
    "credit",
    "optimised",
    "probabilistic",
    "programme",
    "team_draft",
    "total",
    "verdict",
]
