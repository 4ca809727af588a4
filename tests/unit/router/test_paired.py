"""Shadows: compared with the answers and with the labels, each unit once, in whatever order things come."""

import msgpack
import numpy as np
import pytest

from router import revise
from router.accounts import PairedAccount
from router.judge import judge_shadow
from router.report import report
from router.rollout import find
from router.testing import BINARY, two_versions
from store.policy import Experiment, Policy
from store.records import Failures, Outcome, Served, Shadows

RECORD = BINARY.model_copy(update={"slices": ("origin",)})
POLICY = revise(Policy(), two_versions(Experiment(name="dark", kind="shadow", shares={"candidate": 1.0})))


def _account() -> PairedAccount:
    account = PairedAccount(find(POLICY, "dark"), RECORD)
    account.begin(find(POLICY, "dark"), 1)
    return account


def _shadow(number: int, answer: float, mine: float, unit: str = "", origin: str = "JFK") -> Shadows:
    of = unit or f"u{number}"
    return Shadows(
        0.0, [str(number)], [of], [[mine]], [[answer]], "candidate", 2, "dark", 0.002, 0.001, slices=[[origin]]
    )  # fmt: skip


def _outcome(number: int, label: int, unit: str = "") -> Outcome:
    served = Served("champion", 1, 1.0)
    return Outcome(str(number), unit or f"u{number}", [], [0.5], served, label, "label", True, 0.0, 0.0, 0.0)


def test_the_report_says_how_shadow_and_answers_differ() -> None:
    account = _account()
    for number in range(100):
        account.shadows(_shadow(number, 0.4, 0.6 if number % 4 == 0 else 0.45, origin="EWR" if number % 4 == 0 else "JFK"))
    [row] = report(POLICY, find(POLICY, "dark"), account, 1.0)["shadows"]
    assert (row["predictions"], row["agreement"]) == (100, 0.75)
    assert row["mean_gap"] == pytest.approx(0.25 * 0.2 + 0.75 * 0.05)
    assert row["score_stability"]["alarm"]  # no answer is above 0.4, and all of the shadow's scores are
    assert row["p99_gap"] == pytest.approx(0.2)
    assert (row["run_ms"], row["answer_run_ms"]) == (pytest.approx(2.0), pytest.approx(1.0))
    assert row["slices"][0] == {"slice": "origin=EWR", "predictions": 25, "disagree": 1.0, "mean_gap": pytest.approx(0.2)}


@pytest.mark.parametrize("late", [False, True])
def test_a_unit_counts_with_its_first_label_whichever_comes_first(late: bool) -> None:
    account = _account()
    pair, label = _shadow(1, 0.4, 0.9, unit="u"), _outcome(1, 1, unit="u")
    for step in (lambda: account.shadows(pair), lambda: account.outcome(label))[:: -1 if late else 1]:
        step()
    account.shadows(_shadow(2, 0.9, 0.1, unit="u"))
    account.outcome(_outcome(2, 1, unit="u"))
    pairs = account.variants["candidate"]
    assert (pairs.wins, pairs.losses, pairs.moments.n) == (1, 0, 1)


def test_a_worse_shadow_is_found_by_its_labels_and_a_failing_one_by_its_failures() -> None:
    draw = np.random.default_rng(3)
    worse, failing, equal = _account(), _account(), _account()
    for number in range(400):
        truth = float(draw.uniform(0.1, 0.9))
        label = int(draw.random() < truth)
        for account, mine in ((worse, 1.0 - truth), (equal, min(0.99, truth + 0.01)), (failing, truth)):
            if account is failing and number % 10 == 0:
                account.failures(Failures(0.0, [str(number)], [f"u{number}"], "candidate", 2, ("dark",), 1, "error", True))
                continue
            account.shadows(_shadow(number, truth, mine))
            account.outcome(_outcome(number, label))
    experiment = find(POLICY, "dark")
    for account, decision, says in ((worse, "roll back", "loss"), (failing, "roll back", "errors"), (equal, "wait", "nothing")):
        [verdict] = judge_shadow(experiment, account)
        assert (verdict.decision, says in verdict.why) == (decision, True), verdict.why


def test_the_books_of_a_shadow_can_be_closed_and_opened() -> None:
    account = _account()
    for number in range(50):
        account.shadows(_shadow(number, 0.4, 0.6))
        if number % 2:
            account.outcome(_outcome(number, 1))
    state = msgpack.unpackb(msgpack.packb(account.pack()), strict_map_key=False)
    again = PairedAccount(find(POLICY, "dark"), RECORD, state)
    for one in (account, again):
        one.outcome(_outcome(2, 0))
    assert msgpack.packb(again.pack()) == msgpack.packb(account.pack())


def test_a_shadow_that_scores_likewise_has_not_moved() -> None:
    account = _account()
    draw = np.random.default_rng(0)
    for number, (answer, mine) in enumerate(draw.uniform(size=(500, 2)).tolist()):
        account.shadows(_shadow(number, answer, mine))
    [row] = report(POLICY, find(POLICY, "dark"), account, 1.0)["shadows"]
    assert not row["score_stability"]["alarm"]
    assert 0.0 < row["score_stability"]["psi"] < row["score_stability"]["threshold"]


def test_a_long_shadow_keeps_a_sample_of_bounded_size() -> None:
    account = _account()
    for number in range(20_000):
        account.shadows(_shadow(number, 0.4, number / 20_000, unit="u"))
    pairs = account.variants["candidate"]
    assert len(pairs.sample) <= 4096
    assert np.mean([one[1] for one in pairs.sample]) == pytest.approx(0.5, abs=0.01)
