"""What operators write on the command line becomes what the platform takes, or one sentence on what is wrong."""

import json
from typing import Any

import pytest

from deploy.cli_declaration import from_file, judging_of, rules_of, shares_of, steps_of, variants_of
from router.targeting import compiled
from store.policy import Experiment, Rule, Step


@pytest.mark.parametrize(
    ("kind", "arms", "given", "expected"),
    [
        ("canary", ["new"], ["new=0.05"], {"new": 0.05}),
        ("canary", [], ["old=0.05"], {"old": 0.05}),
        ("shadow", ["new", "old"], ["old=0.5"], {"new": 1.0, "old": 0.5}),
        ("ab", ["b"], ["0.1"], {"main": 0.9, "b": 0.1}),
        ("ab", ["b", "c"], ["b=0.1", "c=0.2"], {"main": 0.7, "b": 0.1, "c": 0.2}),
        ("ab", ["b"], ["b=0.4", "main=0.6"], {"main": 0.6, "b": 0.4}),
        ("ab", ["b", "c", "d"], [], {"main": 0.25, "b": 0.25, "c": 0.25, "d": 0.25}),
        ("interleave", ["b"], [], {"main": 0.5, "b": 0.5}),
    ],
)
def test_shares_are_filled_up(kind: str, arms: list[str], given: list[str], expected: dict[str, float]) -> None:
    assert shares_of(kind, "main", arms, given, steps=False) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("kind", "arms", "given", "steps", "says"),
    [
        ("canary", [], [], False, "name an arm"),
        ("canary", ["new"], [], False, "--share new=0.05"),
        ("canary", ["new"], ["0.05"], True, "--share and --steps"),
        ("canary", ["new", "b"], ["0.05"], False, "NAME=FRACTION"),
        ("canary", ["new"], ["=0.05"], False, "NAME=FRACTION"),
        ("canary", ["new"], ["new=much"], False, "a number from 0 to 1"),
        ("canary", ["new"], ["new=nan"], False, "a number from 0 to 1"),
        ("ab", ["b"], ["b=-0.1"], False, "a number from 0 to 1"),
        ("ab", ["b"], ["b=1.5"], False, "a number from 0 to 1"),
        ("ab", ["b", "c"], ["b=0.6", "c=0.6"], False, "more than 1"),
        ("ab", ["b", "c"], ["b=0.6"], False, "how much 'c' gets"),
        ("ab", ["b"], ["b=0.6", "b=0.4"], False, "twice"),
    ],
)
def test_shares_that_cannot_be_read_are_named(kind: str, arms: list[str], given: list[str], steps: bool, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        shares_of(kind, "main", arms, given, steps)


@pytest.mark.parametrize("arm", ["new", "new=", "=12", " = ", ""])
def test_an_arm_has_a_name_and_what_it_follows(arm: str) -> None:
    with pytest.raises(ValueError, match="NAME=VERSION or NAME=LINE"):
        variants_of([arm])


def test_an_arm_is_declared_once() -> None:
    assert variants_of(["a=1", "b=2024-spring"]) == [{"name": "a", "version": 1}, {"name": "b", "line": "2024-spring"}]
    with pytest.raises(ValueError, match="twice"):
        variants_of(["a=1", "a=2"])


def test_steps_are_what_a_policy_takes() -> None:
    steps = steps_of("shadow, shadow:0.5,0.01,1", 5.0, 20)
    parsed = [Step.model_validate(step) for step in steps]
    assert [(step.kind, step.share, step.min_s, step.min_units) for step in parsed] == [
        ("shadow", 1.0, 5.0, 20), ("shadow", 0.5, 5.0, 20), ("canary", 0.01, 5.0, 20), ("canary", 1.0, 5.0, 20),
    ]  # fmt: skip
    assert steps_of(None, None, None) == []
    usual = [Step.model_validate(step) for step in steps_of(None, None, 7)]
    assert {step.min_units for step in usual} == {7}
    assert (usual[0].kind, len(usual)) == ("shadow", 5)


@pytest.mark.parametrize(
    "steps", ["", ",", "0.1,", "0.1;0.2", "often", "0", "1.1", "shadow:0", "shadow:x", "shadows", "0.1:0.2"]
)
def test_steps_that_cannot_be_read_are_named(steps: str) -> None:
    with pytest.raises(ValueError, match="--steps"):
        steps_of(steps, None, None)


@pytest.mark.parametrize(
    ("target", "takes", "leaves"),
    [
        ("feature:country=VN, JP", {"country": "JP"}, {"country": "SE"}),
        ("feature:seats=2,4", {"seats": 4}, {"seats": 3}),
        ("feature:code=2,4", {"code": "4"}, {"code": "3"}),
        ("feature:new=true", {"new": True}, {"new": False}),
        ("feature:city=New *", {"city": "New York"}, {"city": "York"}),
        ("feature:age>=18", {"age": 18}, {"age": 17}),
        ("feature:age<18", {"age": 17}, {"age": 18}),
        ("unit:staff-*", "staff-7", "user-7"),
        ("unit:7,8", "8", "9"),
        ("header:x-country=VN", ("x-country", "VN"), ("x-country", "SE")),
    ],
)
def test_a_target_takes_whom_it_says(target: str, takes: Any, leaves: Any) -> None:
    test = compiled([Rule.model_validate(rule) for rule in rules_of([target])])

    def taken(whom: Any) -> bool:
        unit = whom if isinstance(whom, str) else "u"
        features = whom if isinstance(whom, dict) else {}
        return test(unit, features, dict([whom]) if isinstance(whom, tuple) else {})

    assert taken(takes)
    assert not taken(leaves)


@pytest.mark.parametrize(
    "target",
    [
        "", "country=VN", "user:7", "unit:", "feature:country", "feature:=VN", "feature:country=", "feature:country=VN,,JP",
        "feature:age>=old", "feature:age<true", "feature:age>18", "header:VN", "unit:a*,b", "feature:age>=NaN",
    ],
)  # fmt: skip
def test_targets_that_cannot_be_read_are_named(target: str) -> None:
    with pytest.raises(ValueError, match="--target"):
        rules_of([target])


def test_judging_says_only_what_was_said() -> None:
    assert judging_of(None, False, None, None, None) == {}
    assert judging_of("label", True, 0.0, 5.0, None) == {"metric": "label", "better": True, "margin": 0.0, "window_s": 5.0}


def test_a_file_holds_an_experiment_alone_or_with_its_variants() -> None:
    experiment = {"kind": "canary", "shares": {"new": 0.1}}
    declared, variants = from_file(experiment, "trial")
    assert (Experiment.model_validate(declared).name, variants) == ("trial", [])
    both = {"experiment": {"name": "trial", **experiment}, "variants": [{"name": "new", "version": 2}]}
    assert from_file(both, "trial") == (both["experiment"], both["variants"])
    assert json.dumps(from_file(both, "trial"))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"experiment": {"name": "other"}}, "named 'other', not 'trial'"),
        ({"experiment": 5}, "is an object"),
        ({"experiment": {}, "variants": {}}, "a list"),
        ({"experiment": {}, "arms": []}, "has 'arms' beside"),
    ],
)
def test_a_file_of_another_shape_is_refused(content: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        from_file(content, "trial")
