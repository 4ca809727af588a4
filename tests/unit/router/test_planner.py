"""Plans and policies: propensities tell the truth, shadows stay unseen, and what makes no sense is refused."""

from collections import Counter
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from router import Planner, revise
from router.experiments import KINDS
from store.errors import PolicyError
from store.policy import Experiment, Policy, Variant

SIGNIFICANCE = 1e-6
ARMS = ("main", "a", "b")


def _policy(*experiments: Experiment, default: str = "main") -> Policy:
    return Policy(variants=tuple(Variant(name=name) for name in ARMS), default=default, experiments=experiments)


def _ab(shares: dict[str, float], name: str = "test") -> Experiment:
    return Experiment(name=name, kind="ab", shares=shares)


def _shadow(shares: dict[str, float], name: str = "dark") -> Experiment:
    return Experiment(name=name, kind="shadow", shares=shares)


def _planner(*experiments: Experiment, before: Policy | None = None) -> Planner:
    return Planner(revise(before or Policy(), _policy(*experiments)))


def test_without_experiments_the_default_arm_answers_all() -> None:
    plan = Planner(_policy(default="a")).plan("anyone")
    assert plan == ("a", 1.0, "", ())


@pytest.mark.parametrize("shares", [{"main": 0.5, "a": 0.5}, {"main": 0.9, "a": 0.07, "b": 0.03}, {"main": 0, "a": 1}])
def test_propensities_are_the_frequencies(shares: dict[str, float]) -> None:
    planner = _planner(_ab(shares))
    plans = [planner.plan(f"unit-{number}") for number in range(100_000)]
    assert {plan.experiment for plan in plans} == {"test"}
    propensities = {plan.variant: plan.propensity for plan in plans}
    assert {plan.propensity for plan in plans} == set(propensities.values())
    assert propensities == pytest.approx({arm: share for arm, share in shares.items() if share}, abs=1e-6)
    counts = Counter(plan.variant for plan in plans)
    if len(counts) > 1:
        expected = [propensities[arm] * len(plans) for arm in counts]
        assert stats.chisquare(list(counts.values()), expected).pvalue > SIGNIFICANCE


@settings(max_examples=50)
@given(st.text(min_size=1), st.integers(0, 100))
def test_a_unit_stays_with_its_arm(unit: str, percent: int) -> None:
    shares = {"main": 1 - percent / 100, "a": percent / 100}
    once, again = _planner(_ab(shares)), _planner(_ab(shares))
    assert once.plan(unit) == once.plan(unit) == again.plan(unit)


def test_a_unit_stays_with_its_arm_while_other_shares_change() -> None:
    first = revise(Policy(), _policy(_ab({"main": 0.8, "a": 0.1, "b": 0.1})))
    second = revise(first, _policy(_ab({"main": 0.5, "a": 0.1, "b": 0.4})))
    before, after = Planner(first), Planner(second)
    for number in range(5000):
        old, new = before.plan(str(number)).variant, after.plan(str(number)).variant
        assert old == new or (old, new) == ("main", "b")


@given(st.text(min_size=1))
def test_a_shadow_never_answers(unit: str) -> None:
    for planner in (_planner(_shadow({"a": 1.0})), _planner(_shadow({"a": 0.5, "b": 1.0}))):
        plan = planner.plan(unit)
        assert (plan.variant, plan.propensity, plan.experiment) == ("main", 1.0, "")
    plan = _planner(_ab({"main": 0.5, "a": 0.5}), _shadow({"b": 1.0})).plan(unit)
    assert plan.variant != "b"
    assert plan.shadows == (("b", "dark"),)


def test_shadows_score_the_share_they_were_given() -> None:
    planner = _planner(_shadow({"a": 0.25, "b": 1.0}))
    plans = [planner.plan(str(number)) for number in range(20_000)]
    assert all(("b", "dark") in plan.shadows for plan in plans)
    shadowed = sum(("a", "dark") in plan.shadows for plan in plans)
    assert stats.binomtest(shadowed, len(plans), 0.25).pvalue > SIGNIFICANCE


def test_an_arm_does_not_shadow_itself() -> None:
    planner = _planner(_ab({"main": 0.5, "a": 0.5}), _shadow({"a": 1.0}))
    plans = [planner.plan(str(number)) for number in range(1000)]
    assert {(plan.variant, plan.shadows) for plan in plans} == {("a", ()), ("main", (("a", "dark"),))}


def test_the_order_of_experiments_is_of_no_consequence_to_who_answers() -> None:
    ab, shadow = _ab({"main": 0.5, "a": 0.5}), _shadow({"b": 0.5})
    one, other = _planner(ab, shadow), _planner(shadow, ab)
    assert all(one.plan(str(number)) == other.plan(str(number)) for number in range(1000))


def test_experiments_of_different_names_split_independently() -> None:
    one, other = _planner(_ab({"main": 0.5, "a": 0.5}, "one")), _planner(_ab({"main": 0.5, "a": 0.5}, "two"))
    pairs = Counter((one.plan(str(n)).variant, other.plan(str(n)).variant) for n in range(20_000))
    table = [[pairs[x, y] for y in ("main", "a")] for x in ("main", "a")]
    assert float(cast(Any, stats.chi2_contingency(table)).pvalue) > SIGNIFICANCE


def test_a_restarted_experiment_with_another_salt_is_a_new_split() -> None:
    first = revise(Policy(), _policy(_ab({"main": 0.3, "a": 0.7})))
    salted = _ab({"main": 0.3, "a": 0.7}).model_copy(update={"salt": "other"})
    second = revise(first, _policy(salted))
    assert second.experiments[0].salt == "other"
    moved = sum(Planner(first).plan(str(n)).variant != Planner(second).plan(str(n)).variant for n in range(1000))
    assert moved > 100


def test_a_salt_that_was_filled_in_stays() -> None:
    first = revise(Policy(), _policy(_ab({"main": 0.5, "a": 0.5}).model_copy(update={"salt": "s"})))
    second = revise(first, _policy(_ab({"main": 0.5, "a": 0.5})))
    assert second == first
    assert revise(first, first) == first


def test_slices_that_a_client_sends_are_not_believed() -> None:
    hostile = _ab({"main": 0.5, "a": 0.5}).model_copy(update={"slices": ({"start": 0, "end": 9, "variant": "b"},)})
    assert revise(Policy(), _policy(hostile)) == revise(Policy(), _policy(_ab({"main": 0.5, "a": 0.5})))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"default": "nobody"}, "the default arm: there is no variant 'nobody'"),
        ({"variants": (Variant(name="main"), Variant(name="main"))}, "two variants are named 'main'"),
        ({"variants": ()}, "no variant 'main'"),
        ({"experiments": (_shadow({"a": 1.0}), _shadow({"b": 1.0}))}, "two experiments are named 'dark'"),
        (
            {"experiments": (_ab({"main": 0.5, "a": 0.5}, "x"), _ab({"main": 0.5, "b": 0.5}, "y"))},
            "x, y all split the same traffic",
        ),
        ({"experiments": (Experiment(name="e", kind="magic", shares={}),)}, "kind 'magic' is not one of ab, shadow"),
        ({"experiments": (_ab({"main": 0.5, "nobody": 0.5}),)}, "no variant 'nobody'"),
        ({"experiments": (_ab({"main": -0.5, "a": 1.5}),)}, "between 0 and 1"),
        ({"experiments": (_ab({"main": float("nan"), "a": 1.0}),)}, "between 0 and 1"),
        ({"experiments": (_ab({"main": 0.5, "a": 0.4}),)}, "sum to 1, not 0.9"),
        ({"experiments": (_ab({"main": 1.0}),)}, "at least two arms"),
        ({"experiments": (_shadow({}),)}, "at least one variant"),
        ({"experiments": (_shadow({"a": 1.5}),)}, "between 0 and 1"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(PolicyError, match=says):
        revise(Policy(), _policy().model_copy(update=changes))


def test_every_kind_is_covered_here() -> None:
    assert set(KINDS) == {"ab", "shadow"}
