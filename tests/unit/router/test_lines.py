"""Lines are compared over what both learned, and what followed a line that became main follows main."""

import pytest

from router import revise
from router.lines import compare
from router.succession import succeed, users
from store.errors import PolicyError
from store.policy import Experiment, Policy, RolloutPlan, Step, Variant
from store.protocols import Version


def _version(number: int, line: str, position: str, loss: float | None, born: int = 1, outcomes: int = 10) -> Version:
    lineage = {"line": {"born": born}} if line != "main" else {}
    metrics = {} if loss is None else {"loss": loss}
    return Version(
        model="m", number=number, line=line, position=position, outcomes=outcomes, metrics=metrics, lineage=lineage
    )  # fmt: skip


def test_lines_are_compared_over_the_micro_batches_that_both_scored() -> None:
    versions = [
        _version(1, "main", "1-0", 0.9), _version(2, "main", "2-0", 0.6), _version(3, "main", "3-0", 0.5, outcomes=30),
        _version(4, "main", "4-0", None), _version(5, "x", "1-0", 0.1, born=0), _version(6, "x", "2-0", 0.5),
        _version(7, "x", "3-0", 0.3, outcomes=30), _version(8, "x", "4-0", 0.2), _version(9, "x", "5-0", 0.2),
        _version(10, "main", "3-0", 0.3, outcomes=30).model_copy(update={"lineage": {"promoted": {}}}),
    ]  # fmt: skip
    found = compare(versions[::-1], "x", 1)
    assert found is not None
    assert (found.micro_batches, found.outcomes) == (2, 40)
    assert found.loss == pytest.approx((0.5 * 10 + 0.3 * 30) / 40)
    assert found.main_loss == pytest.approx((0.6 * 10 + 0.5 * 30) / 40)
    assert found.difference == pytest.approx(found.loss - found.main_loss)
    assert compare(versions[::-1], "x", 2) is None
    assert compare(versions[::-1], "y", 1) is None


def test_a_difference_that_is_always_there_is_seen_and_one_batch_says_nothing() -> None:
    versions = [_version(1, "main", "1-0", 0.5), _version(2, "x", "1-0", 0.4)]
    found = compare(versions, "x", 1)
    assert found is not None
    assert found.low is None
    for number in range(2, 120):
        noise = 0.01 * (number % 5)
        versions += [
            _version(2 * number, "main", f"{number}-0", 0.5 + noise),
            _version(2 * number + 1, "x", f"{number}-0", 0.4 - noise),
        ]
    found = compare(versions[::-1], "x", 1)
    assert found is not None
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.difference < found.high < 0.0


MAIN, OTHER = Variant(name="main"), Variant(name="other", line="x")
AB = Experiment(name="ab", kind="ab", shares={"main": 0.5, "other": 0.5})


def _policy(*experiments: Experiment, **changes: object) -> Policy:
    wanted = Policy(variants=(MAIN, OTHER), default="main", experiments=experiments)
    return revise(Policy(), wanted.model_copy(update=changes), 0.0)


def test_an_experiment_that_a_line_has_won_ends_and_the_default_arm_is_main() -> None:
    policy = _policy(AB)
    pinned = policy.model_copy(update={"variants": (MAIN.model_copy(update={"version": 3}), OTHER)})
    for before in (policy, pinned):
        move = succeed(before, "x", 9, "it is better", 1.0)
        assert move is not None
        assert move.experiment == "ab"
        assert move.policy.experiments == ()
        assert move.policy.variants == (MAIN,)
    assert succeed(_policy(), "y", 9, "", 1.0) is None


def test_where_new_versions_enter_by_a_rollout_the_default_arm_is_pinned() -> None:
    pinned = MAIN.model_copy(update={"version": 3})
    plan = RolloutPlan(steps=(Step(share=1.0),))
    move = succeed(_policy(AB, variants=(pinned, OTHER), rollout=plan), "x", 9, "", 1.0)
    assert move is not None
    assert move.policy.variant("main").version == 9


def test_what_follows_a_line_without_an_experiment_follows_main() -> None:
    move = succeed(_policy(default="other"), "x", 9, "", 1.0)
    assert move is not None
    assert {one.name: one.line for one in move.policy.variants} == {"main": "main", "other": "main"}
    assert move.policy.default == "other"
    baseline = AB.model_copy(update={"baseline": "other"})
    move = succeed(_policy(baseline), "x", 9, "", 1.0)
    assert move is not None
    assert [one.name for one in move.policy.experiments] == ["ab"], "it was what others were compared with, not on trial"


def test_who_answers_by_a_line_is_named() -> None:
    assert users(_policy(AB, forced={"ann": "other"}), "x") == ["experiment 'ab'", "the forced unit 'ann'"]
    assert users(_policy(default="other"), "x") == ["the default arm 'other'"]
    assert users(_policy(AB), "y") == []
    with pytest.raises(PolicyError):
        _policy(AB, default="nobody")
