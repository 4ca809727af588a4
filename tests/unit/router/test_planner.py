"""Plans and policies: propensities tell the truth, shadows stay unseen, and what makes no sense is refused."""

from collections import Counter
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from router import Plan, Planner, revise
from router.experiments import KINDS
from router.planner import HOLDOUT
from store.errors import PolicyError
from store.policy import Experiment, Policy, Rule, Variant

SIGNIFICANCE = 1e-6
ARMS = ("main", "a", "b")


def _policy(*experiments: Experiment, default: str = "main") -> Policy:
    return Policy(variants=tuple(Variant(name=name) for name in ARMS), default=default, experiments=experiments)


def _ab(shares: dict[str, float], name: str = "test", **more: Any) -> Experiment:
    return Experiment(name=name, kind="ab", shares=shares, **more)


def _canary(shares: dict[str, float], name: str = "canary", **more: Any) -> Experiment:
    return Experiment(name=name, kind="canary", shares=shares, **more)


def _shadow(shares: dict[str, float], name: str = "dark") -> Experiment:
    return Experiment(name=name, kind="shadow", shares=shares)


def _planner(*experiments: Experiment, before: Policy | None = None) -> Planner:
    return Planner(revise(before or Policy(), _policy(*experiments)))


def test_without_experiments_the_default_arm_answers_all() -> None:
    plan = Planner(_policy(default="a")).plan("anyone")
    assert plan == ("a", 1.0, (), ())


@pytest.mark.parametrize("shares", [{"main": 0.5, "a": 0.5}, {"main": 0.9, "a": 0.07, "b": 0.03}, {"main": 0, "a": 1}])
def test_propensities_are_the_frequencies(shares: dict[str, float]) -> None:
    planner = _planner(_ab(shares))
    plans = [planner.plan(f"unit-{number}") for number in range(100_000)]
    assert {plan.experiments for plan in plans} == {("test",)}
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
        assert (plan.variant, plan.propensity, plan.experiments) == ("main", 1.0, ())
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
    hostile = _ab({"main": 0.5, "a": 0.5}).model_copy(update={"slices": ({"start": 0, "end": 9, "owner": "b"},)})
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
            "'x' 100%, 'y' 100% of the same units make 200%",
        ),
        (
            {"experiments": (Experiment(name="e", kind="magic", shares={}),)},
            "kind 'magic' is not one of ab, canary, interleave, shadow",
        ),
        ({"experiments": (_ab({"main": 0.5, "nobody": 0.5}),)}, "no variant 'nobody'"),
        ({"experiments": (_ab({"main": -0.5, "a": 1.5}),)}, "between 0 and 1"),
        ({"experiments": (_ab({"main": float("nan"), "a": 1.0}),)}, "between 0 and 1"),
        ({"experiments": (_ab({"main": 0.5, "a": 0.4}),)}, "sum to 1, not 0.9"),
        ({"experiments": (_ab({"main": 1.0}),)}, "at least two arms"),
        ({"experiments": (_shadow({}),)}, "at least one variant"),
        ({"experiments": (_canary({"a": 0.1, "b": 0.1}),)}, "one candidate"),
        ({"experiments": (_canary({"main": 0.1}),)}, "one candidate"),
        ({"experiments": (_ab({"a": 0.5, "b": 0.5}),)}, "the baseline 'main' must be one of its arms"),
        ({"experiments": (_canary({"a": 0.1}).model_copy(update={"name": "holdout"}),)}, "this name is taken"),
        ({"forced": {"me": "nobody"}}, "the forced unit 'me': there is no variant 'nobody'"),
        (
            {"experiments": (_canary({"a": 0.1}, layer="one"), _ab({"a": 0.5, "b": 0.5}, layer="two", baseline="b"))},
            "its baseline must be the default arm 'main', not 'b'",
        ),
        ({"experiments": (_canary({"a": 0.1}, target=(Rule(by="feature", values=("x",)),)),)}, "needs the feature's name"),
        ({"experiments": (_canary({"a": 0.1}, target=(Rule(by="unit", name="u", pattern="x"),)),)}, "has no name"),
        ({"experiments": (_canary({"a": 0.1}, target=(Rule(by="header", name="x"),)),)}, "needs values, a pattern"),
        (
            {"experiments": (_canary({"a": 0.1}, target=(Rule(by="feature", name="x", at_least=2, below=1),)),)},
            "at least 2 and below 1",
        ),
        ({"experiments": (_shadow({"a": 1.5}),)}, "between 0 and 1"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(PolicyError, match=says):
        revise(Policy(), _policy().model_copy(update=changes))


def _assert_propensities(planner: Planner, plans: list[Plan]) -> None:
    """Each variant answered as often as its propensity says."""
    counts = Counter(plan.variant for plan in plans)
    for variant, count in counts.items():
        [propensity] = {plan.propensity for plan in plans if plan.variant == variant}
        assert stats.binomtest(count, len(plans), propensity).pvalue > SIGNIFICANCE


def test_experiments_of_one_layer_exclude_each_other() -> None:
    first = _ab({"main": 0.5, "a": 0.5}, "one", layer="ui", traffic=0.3)
    second = _canary({"b": 0.2}, "two", layer="ui", traffic=0.5)
    planner = _planner(first, second)
    plans = [planner.plan(f"unit-{number}") for number in range(50_000)]
    counts = Counter(plan.experiments for plan in plans)
    assert set(counts) == {("one",), ("two",), ()}
    assert stats.chisquare([counts["one",], counts["two",], counts[()]], [15_000, 25_000, 10_000]).pvalue > SIGNIFICANCE
    _assert_propensities(planner, plans)


def test_an_experiment_that_ends_leaves_the_others_of_its_layer_alone() -> None:
    one = _ab({"main": 0.5, "a": 0.5}, "one", traffic=0.4)
    two = _ab({"main": 0.5, "b": 0.5}, "two", traffic=0.6)
    both = revise(Policy(), _policy(one, two))
    alone, wider = revise(both, _policy(two)), revise(both, _policy(two.model_copy(update={"traffic": 0.8})))
    planners = [Planner(policy) for policy in (both, alone, wider)]
    for number in range(5000):
        before, after, grown = (planner.plan(str(number)) for planner in planners)
        if before.experiments == ("two",):
            assert before.variant == after.variant == grown.variant
        if before.experiments == ("one",):
            assert after.experiments == ()


def test_layers_cross_independently_and_nobodys_effect_is_mixed_with_anothers() -> None:
    one = _ab({"main": 0.6, "a": 0.4}, "one", layer="x")
    two = _canary({"b": 0.3}, "two", layer="y")
    planner = _planner(one, two)
    alone = {"one": _planner(one), "two": _planner(two)}
    units = [f"unit-{number}" for number in range(50_000)]
    plans = [planner.plan(unit) for unit in units]
    arms = [(alone["one"].plan(unit).variant, alone["two"].plan(unit).variant) for unit in units]
    table = Counter(arms)
    crossed = [[table[x, y] for y in ("main", "b")] for x in ("main", "a")]
    assert float(cast(Any, stats.chi2_contingency(crossed)).pvalue) > SIGNIFICANCE
    for (x, y), plan in zip(arms, plans, strict=True):
        assert plan.variant == (x if x != "main" else y)
        # Where both layers moved the unit, what it got says nothing about either experiment.
        counted = {"one": y == "main", "two": x == "main"}
        assert set(plan.experiments) == {name for name, counts in counted.items() if counts}
    _assert_propensities(planner, plans)


@settings(max_examples=30)
@given(st.floats(0.05, 0.9), st.floats(0.05, 0.9), st.floats(0.0, 0.5), st.integers(0, 3))
def test_the_propensities_of_all_variants_make_one(one: float, two: float, holdout: float, seed: int) -> None:
    policy = _policy(_canary({"a": one}, "one", layer="x", traffic=0.7), _canary({"b": two}, "two", layer="y"))
    planner = Planner(revise(Policy(), policy.model_copy(update={"holdout": holdout})))
    seen = {plan.variant: plan.propensity for plan in (planner.plan(f"{seed}-{n}") for n in range(2000))}
    if len(seen) == 3:
        assert sum(seen.values()) == pytest.approx(1.0, abs=1e-5)
    assert all(0.0 < propensity <= 1.0 for propensity in seen.values())


def test_held_out_units_are_in_no_experiment_and_stay_held_out() -> None:
    wanted = _policy(_ab({"main": 0.5, "a": 0.5}), _shadow({"b": 1.0})).model_copy(update={"holdout": 0.1})
    small = Planner(revise(Policy(), wanted))
    large = Planner(revise(Policy(), wanted.model_copy(update={"holdout": 0.2})))
    plans = {unit: small.plan(unit) for unit in (f"unit-{number}" for number in range(20_000))}
    held = {unit for unit, plan in plans.items() if plan.experiments == (HOLDOUT,)}
    assert all(plans[unit].variant == "main" and not plans[unit].shadows for unit in held)
    assert all(large.plan(unit).experiments == (HOLDOUT,) for unit in held)
    assert stats.binomtest(len(held), len(plans), 0.1).pvalue > SIGNIFICANCE
    _assert_propensities(small, list(plans.values()))


def test_a_forced_arm_is_no_choice_and_counts_nowhere() -> None:
    wanted = _policy(_ab({"main": 0.5, "a": 0.5})).model_copy(update={"forced": {"tester": "b"}})
    planner = Planner(revise(Policy(), wanted))
    assert planner.plan("tester") == planner.forced("b") == ("b", 0.0, (), ())
    assert planner.plan("somebody").experiments == ("test",)


@pytest.mark.parametrize(
    ("rules", "takes", "leaves"),
    [
        ([Rule(by="feature", name="country", values=("VN", "JP"))], {"country": "VN"}, {"country": "SE"}),
        ([Rule(by="feature", name="age", at_least=18, below=65)], {"age": 18}, {"age": 65}),
        ([Rule(by="feature", name="age", at_least=18)], {"age": 18.5}, {"age": None}),
        ([Rule(by="feature", name="new", values=(True,))], {"new": True}, {"new": False}),
        ([Rule(by="feature", name="name", pattern="a*")], {"name": "abc"}, {"name": "bc"}),
        ([Rule(by="feature", name="v", values=("x",))], {"v": "x"}, {"v": [1.0]}),
        ([Rule(by="unit", pattern="u[0-9]")], {}, None),
        ([Rule(by="unit", values=("u1", "u2"))], {}, None),
        ([Rule(by="header", name="X-Country", values=("VN",))], {"header": "VN"}, {"header": "SE"}),
        (
            [Rule(by="feature", name="c", values=("VN",)), Rule(by="feature", name="age", at_least=1)],
            {"c": "VN", "age": 1},
            {"c": "VN"},
        ),
    ],
)
def test_an_experiment_takes_only_whom_it_targets(
    rules: list[Rule], takes: dict[str, Any], leaves: dict[str, Any] | None
) -> None:
    planner = _planner(_ab({"main": 0.5, "a": 0.5}, target=tuple(rules)), _shadow({"b": 1.0}))
    headers = {"x-country": takes.pop("header")} if "header" in takes else {}
    inside = planner.plan("u1", takes, headers)
    assert (inside.experiments, inside.propensity) == (("test",), 0.5)
    if leaves is None:
        outside = planner.plan("somebody else")
    else:
        outside = planner.plan("u1", leaves, {"x-country": leaves["header"]} if "header" in leaves else {})
    assert (outside.variant, outside.propensity, outside.experiments) == ("main", 1.0, ())
    assert planner.plan("u1", {}, {}).experiments == ((("test",)) if rules[0].by == "unit" else ())


def test_a_pattern_that_is_made_to_hang_does_not() -> None:
    planner = _planner(_ab({"main": 0.5, "a": 0.5}, target=(Rule(by="unit", pattern="*a" * 100 + "b"),)))
    assert planner.plan("a" * 256).experiments == ()


@given(st.integers(1, 99), st.integers(1, 99))
def test_a_growing_canary_takes_units_in_and_lets_none_go(first: int, second: int) -> None:
    small, large = sorted((first, second))
    before = revise(Policy(), _policy(_canary({"a": small / 100})))
    after = revise(before, _policy(_canary({"a": large / 100})))
    one, other = Planner(before), Planner(after)
    assert all(other.plan(str(n)).variant == "a" for n in range(300) if one.plan(str(n)).variant == "a")


def test_every_kind_is_covered_here() -> None:
    assert set(KINDS) == {"ab", "canary", "interleave", "shadow"}
