"""The books of an interleaving: whose item a label credits, in whatever order lists and labels are read."""

from typing import Literal

import msgpack
import pytest

from router import revise
from router.accounts import DuelAccount
from router.interleaving import Duel
from router.rollout import find
from router.testing import BINARY, two_versions
from store.policy import Experiment, Policy
from store.records import Outcome, OutcomeKind, Rankings, Served

SHARES = {"champion": 0.5, "candidate": 0.5}
POLICY = revise(Policy(), two_versions(Experiment(name="duel", kind="interleave", shares=SHARES)))


def _account(best_score: Literal["highest", "lowest"] = "highest") -> DuelAccount:
    account = DuelAccount(find(POLICY, "duel"), BINARY.model_copy(update={"best_score": best_score}))
    account.begin(find(POLICY, "duel"), 1)
    return account


def _list(at: float = 0.0) -> Rankings:
    """Item 'a' is the champion's, 'b' the candidate's."""
    return Rankings(at, "list", "u", ["a", "b"], [0, 1], 0, 7, ["champion", "candidate"], [1, 2], "duel", 1, False, None)


def _label(item: str, label: int, kind: OutcomeKind = "label") -> Outcome:
    served = Served("champion", 1, 1.0)
    return Outcome(f"list#{item}", "u", [], [0.5], served, label, kind, kind != "correction", 0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("best_score", "outcome", "expected"),
    [
        ("highest", _label("b", 1), Duel(0, 1, 0, 0)),
        ("highest", _label("b", 0), Duel(0, 0, 0, 1)),
        ("lowest", _label("b", 0), Duel(0, 1, 0, 0)),  # a risk that did not come true
        ("lowest", _label("b", 1), Duel(0, 0, 0, 1)),
        ("lowest", _label("b", 0, "default"), Duel(0, 0, 0, 1)),  # nobody said so
        ("highest", _label("b", 1, "correction"), Duel(0, 0, 0, 1)),  # the first label counts
    ],
)
@pytest.mark.parametrize("label_first", [False, True])
def test_a_success_is_credited_to_whoever_drafted_the_item(
    best_score: Literal["highest", "lowest"], outcome: Outcome, expected: Duel, label_first: bool
) -> None:
    account = _account(best_score)
    steps = (lambda: account.rankings(_list()), lambda: account.outcome(outcome))
    for step in reversed(steps) if label_first else steps:
        step()
        kept = msgpack.unpackb(msgpack.packb(account.pack()))
        account = DuelAccount(find(POLICY, "duel"), BINARY.model_copy(update={"best_score": best_score}), kept)
    account.close(1e9)
    assert account.duels.pairs[0, 1] == expected


@pytest.mark.parametrize(("first", "then", "expected"), [(1, 0, Duel(0, 0, 0, 1)), (0, 1, Duel(0, 1, 0, 0))])
@pytest.mark.parametrize("label_first", [False, True])
def test_a_correction_takes_credit_back_or_gives_it(first: int, then: int, expected: Duel, label_first: bool) -> None:
    account = _account()
    corrected = _label("b", then, "correction")._replace(final=True, replaces=first)
    steps = [lambda: account.rankings(_list()), lambda: account.outcome(_label("b", first)), lambda: account.outcome(corrected)]
    for step in steps[1:] + steps[:1] if label_first else steps:
        step()
    account.close(1e9)
    assert account.duels.pairs[0, 1] == expected
