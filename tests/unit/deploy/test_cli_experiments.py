"""Experiments, rollouts and what changes who answers: asked of the platform, and told as they came out."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from router import report
from router.testing import BINARY
from store.policy import Experiment, Judging, Policy, RolloutPlan, Rule, Step
from store.records import Outcome, Served
from tests.unit.deploy.conftest import FakePlatform
from tests.unit.deploy.policies import PINNED, POLICY, STEPS, TRIAL, state_of, version_of


def _started(platform: FakePlatform, *words: str, stdin: str | None = None) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    platform.answers |= {POLICY: state_of(PINNED), "POST /admin/models/m/experiments": state_of(TRIAL, 8)}
    assert "'trial' runs" in platform.says("experiment", "start", "m", "trial", *words, stdin=stdin)
    body = platform.sent("POST /admin/models/m/experiments")
    Experiment.model_validate(body["experiment"])
    return body["experiment"], body["variants"]


def _set(platform: FakePlatform) -> Policy:
    return Policy.model_validate(platform.sent("PUT /admin/models/m/policy"))


def test_experiments_are_listed(platform: FakePlatform) -> None:
    shown = {"verdict": "new: wait", "arms": [{"units": 900}, {"units": 100}]}
    platform.answers |= {
        POLICY: state_of(TRIAL),
        "GET /admin/models/m/experiments": {"experiments": [{"experiment": "trial", "report": shown}]},
    }
    said = platform.says("experiment", "list", "m")
    assert re.search(r"trial\W+shadow\W+running\W+1 of 2\W+new 100%\W+1,000\W+new: wait", said), said
    assert json.loads(platform.says("experiment", "list", "m", "--json"))[0]["experiment"] == "trial"
    platform.answers["GET /admin/models/m/experiments"] = {"experiments": []}
    assert "no experiment runs" in platform.says("experiment", "list", "m")


def test_a_canary_is_started_with_one_share(platform: FakePlatform) -> None:
    experiment, variants = _started(platform, "--arm", "candidate=3", "--share", "0.05")
    assert experiment == {"name": "trial", "kind": "canary", "shares": {"candidate": 0.05}}
    assert variants == [{"name": "candidate", "version": 3}]


def test_a_rollout_is_started_with_all_that_can_be_said(platform: FakePlatform) -> None:
    words = "--arm wide=wide-line --steps shadow,0.05,0.5 --min-s 5 --min-units 20 --max-s 3600 --metric label --better"
    more = "--margin 0.1 --window-s 30 --labels-s 600 --layer prices --traffic 0.5 --baseline main"
    targets = ("--target", "feature:country=VN,JP", "--target", "unit:staff-*")
    experiment, variants = _started(platform, *words.split(), *more.split(), *targets)
    assert variants == [{"name": "wide", "line": "wide-line"}]
    parsed = Experiment.model_validate(experiment)
    assert parsed.steps == (
        Step(kind="shadow", share=1.0, min_s=5.0, min_units=20),
        Step(share=0.05, min_s=5.0, min_units=20),
        Step(share=0.5, min_s=5.0, min_units=20),
    )
    assert parsed.judging == Judging(metric="label", better=True, margin=0.1, window_s=30.0, labels_s=600.0)
    assert (parsed.layer, parsed.traffic, parsed.baseline, parsed.max_s) == ("prices", 0.5, "main", 3600.0)
    assert parsed.target == (
        Rule(by="feature", name="country", values=("VN", "JP")),
        Rule(by="unit", pattern="staff-*"),
    )


def test_arms_divide_the_units_of_an_ab_test_and_rankers_draft_together(platform: FakePlatform) -> None:
    experiment, _ = _started(platform, "--kind", "ab", "--arm", "b=3", "--arm", "c=2", "--share", "b=0.1", "--share", "c=0.2")
    assert experiment["shares"] == pytest.approx({"main": 0.7, "b": 0.1, "c": 0.2})
    experiment, _ = _started(platform, "--kind", "interleave", "--arm", "b=3", "--strategy", "optimised")
    assert experiment["shares"] == {"main": 0.5, "b": 0.5}
    assert experiment["strategy"] == "optimised"


def test_a_forecast_starts_nothing(platform: FakePlatform) -> None:
    experiment = Experiment(name="trial", kind="ab", shares={"main": 0.5, "new": 0.5}, judging=Judging(margin=0.1))
    served = Served("main", 2, 1.0, (), 0.001, 1)
    outcomes = [Outcome(f"{n}", f"u{n}", [], [0.1 + n % 5 / 10], served, n % 2, "label", True, n, n, n) for n in range(50)]
    forecast = "POST /admin/models/m/experiments/forecast"
    platform.answers |= {POLICY: state_of(PINNED), forecast: report.forecast(experiment, BINARY, outcomes)}
    words = ("experiment", "start", "m", "trial", "--kind", "ab", "--arm", "new=3", "--forecast")
    said = platform.says(*words)
    assert re.search(
        r"^to see a difference of \S+ \(10% of \S+\) of loss with 50% of the units takes about [\d,]+ units, ", said
    ), said
    assert platform.sent(forecast)["experiment"]["shares"] == {"main": 0.5, "new": 0.5}
    assert json.loads(platform.says(*words, "--json"))["metric"] == "loss"
    platform.answers[forecast] = report.forecast(experiment, BINARY, [])
    assert "nothing can be foretold: 0 units have had outcomes" in platform.says(*words)
    platform.answers[forecast] = report.forecast(experiment.model_copy(update={"shares": {"main": 1.0}}), BINARY, outcomes)
    assert "is never seen" in platform.says(*words)


def test_an_experiment_comes_from_a_file(platform: FakePlatform, tmp_path: Path) -> None:
    declared: dict[str, Any] = {"kind": "ab", "shares": {"main": 0.5, "b": 0.5}}
    content = {"experiment": declared, "variants": [{"name": "b", "version": 3}]}
    (tmp_path / "trial.json").write_text(json.dumps(content))
    for source, stdin in ((str(tmp_path / "trial.json"), None), ("-", json.dumps(content))):
        experiment, variants = _started(platform, "--file", source, stdin=stdin)
        assert experiment == {"name": "trial"} | declared
        assert variants == content["variants"]
    refused = platform.refuses("experiment", "start", "m", "trial", "--file", str(tmp_path / "trial.json"), "--kind", "ab")
    assert "leave --kind out" in refused


@pytest.mark.parametrize(
    ("words", "asked", "sent", "says"),
    [
        (("experiment", "stop", "m", "a?b", "--why", "done"), "experiments/a%3Fb/stop", {"why": "done", "arm": ""}, "ended"),
        (("experiment", "pause", "m", "trial"), "experiments/trial/pause", None, "stays as it is"),
        (("experiment", "resume", "m", "trial"), "experiments/trial/resume", None, "goes on"),
        (
            ("promote", "m", "3", "--why", "good"),
            "versions/3/promote",
            {"why": "good"},
            "'main' (version 2) is the default arm",
        ),
        (
            ("promote", "m", "--experiment", "trial", "--arm", "new", "--why", "good"),
            "experiments/trial/promote",
            {"why": "good", "arm": "new"},
            "'main' (version 2) is the default arm",
        ),
        (
            ("rollback", "m", "trial", "--arm", "new", "--why", "bad"),
            "experiments/trial/rollback",
            {"why": "bad", "arm": "new"},
            "rolled back: 'trial' has ended",
        ),
    ],
)
def test_a_move_is_made_and_told(
    platform: FakePlatform, words: tuple[str, ...], asked: str, sent: dict[str, Any] | None, says: str
) -> None:
    platform.answers[f"POST /admin/models/m/{asked}"] = state_of(PINNED, 8)
    said = platform.says(*words)
    assert says in said
    assert "epoch 8 is on every replica" in said
    if sent is not None:
        assert platform.sent(f"POST /admin/models/m/{asked}") == sent
    assert json.loads(platform.says(*words, "--json"))["epoch"] == 8


def test_other_arms_go_on_when_one_is_rolled_back(platform: FakePlatform) -> None:
    platform.answers["POST /admin/models/m/experiments/trial/rollback"] = state_of(TRIAL, 8)
    assert "goes on with its other arms" in platform.says("rollback", "m", "trial", "--arm", "new", "--why", "bad")


@pytest.mark.parametrize("words", [("promote", "m", "3"), ("rollback", "m", "trial")])
def test_what_changes_who_answers_needs_a_reason(platform: FakePlatform, words: tuple[str, ...]) -> None:
    result = platform.run(*words)
    assert result.exit_code == 2
    assert "--why" in result.stderr
    assert not platform.asked


def test_a_rollout_pins_the_newest_good_version_of_the_line_that_the_default_arm_follows(platform: FakePlatform) -> None:
    versions = [version_of(4, "rejected"), version_of(3, line="other"), version_of(2), version_of(1)]
    platform.answers |= {
        POLICY: state_of(Policy()),
        "GET /admin/models/m/versions?last=1000": {"versions": versions},
        "PUT /admin/models/m/policy": state_of(TRIAL.model_copy(update={"rollout": RolloutPlan(steps=STEPS)}), 8),
    }
    said = platform.says("rollout", "on", "m", "--steps", "shadow,0.05", "--min-units", "7", "--line", "main", "--better")
    assert said.startswith("'main' is pinned to version 2; versions of line main enter one at a time")
    assert platform.headers[-1]["if-match"] == '"7"'
    policy = _set(platform)
    assert policy.champion == 2
    steps = tuple(step.model_copy(update={"min_units": 7}) for step in STEPS)
    assert policy.rollout == RolloutPlan(steps=steps, judging=Judging(better=True))
    platform.answers["GET /admin/models/m/versions?last=1000"] = {"versions": versions[:2]}
    assert "has published no version yet" in platform.refuses("rollout", "on", "m")


def test_a_rollouts_plan_may_come_from_a_file(platform: FakePlatform, tmp_path: Path) -> None:
    plan = RolloutPlan(steps=STEPS, every_s=60.0)
    state = state_of(PINNED.model_copy(update={"rollout": plan}), 8)
    platform.answers |= {POLICY: state_of(PINNED), "PUT /admin/models/m/policy": state}
    (tmp_path / "plan.json").write_text(plan.model_dump_json())
    assert "pinned" not in platform.says("rollout", "on", "m", "--file", str(tmp_path / "plan.json"))
    assert _set(platform).rollout == plan
    assert "leave --line out" in platform.refuses("rollout", "on", "m", "--file", "-", "--line", "main")


@pytest.mark.parametrize(("options", "champion"), [((), 2), (("--follow",), None)])
def test_a_rollout_that_is_off_leaves_the_default_arm_where_it_is(
    platform: FakePlatform, options: tuple[str, ...], champion: int | None
) -> None:
    platform.answers |= {
        POLICY: state_of(TRIAL.model_copy(update={"rollout": RolloutPlan()})),
        "PUT /admin/models/m/policy": state_of(TRIAL, 8),
    }
    said = platform.says("rollout", "off", "m", *options)
    assert "no version enters by itself" in said
    assert "on trial: shadow trial: new 100.0%, step 1 of 2, running" in said
    assert (_set(platform).rollout, _set(platform).champion) == (None, champion)


def test_a_rollout_is_shown_on_and_off(platform: FakePlatform) -> None:
    update = {"rollout": RolloutPlan(steps=STEPS), "tried": 3, "tried_at": 1000.0}
    platform.answers[POLICY] = state_of(TRIAL.model_copy(update=update))
    said = platform.says("rollout", "show", "m")
    assert "each for at least 60 s and 100 units; loss must be not more than 5% worse; undecided after 7 days" in said
    assert "'main' (version 2) is the default arm" in said
    assert "the last to enter was version 3" in said
    assert json.loads(platform.says("rollout", "show", "m", "--json"))["tried"] == 3
    platform.answers[POLICY] = state_of(PINNED)
    assert "off: 'tidemill rollout on m'" in platform.says("rollout", "show", "m")
