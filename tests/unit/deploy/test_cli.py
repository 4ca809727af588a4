"""Each command asks the platform for one thing, prints it for people or for scripts, and says in one sentence what is wrong."""

import doctest
import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from deploy import cli_declaration, cli_experiments, cli_report, cli_words
from deploy.cli import app
from router import report, revise
from router.testing import BINARY
from store.policy import Experiment, Judging, Policy, RolloutPlan, Rule, Step, Variant
from store.records import Outcome, Served
from tests.unit.deploy.conftest import FakePlatform

POLICY = "GET /admin/models/m/policy"
STEPS = (Step(kind="shadow", share=1.0), Step(share=0.05))


def _state(policy: Policy, epoch: int = 7) -> dict[str, Any]:
    made = revise(Policy(tried=policy.tried, tried_at=policy.tried_at), policy, now=1000.0)
    return {"epoch": epoch, "policy": made.model_dump(mode="json"), "channels": {"main@latest": 3}}


PINNED = Policy(variants=(Variant(name="main", version=2), Variant(name="new", version=3)))
TRIAL = PINNED.model_copy(update={"experiments": (Experiment(name="trial", kind="canary", shares={"new": 0.0}, steps=STEPS),)})


def _version(number: int, status: str = "published", line: str = "main") -> dict[str, Any]:
    reason = "a [bold]bad[/bold] one" if status == "rejected" else ""
    return {
        "number": number, "status": status, "line": line, "reason": reason, "outcomes": 5, "metrics": {"loss": 0.5},
        "lineage": {"cut": "hand"},
    }  # fmt: skip


def test_examples_in_docstrings_hold() -> None:
    for module in (cli_declaration, cli_report, cli_words):
        found = doctest.testmod(module)
        assert found.attempted
        assert not found.failed


def test_every_command_has_a_help(platform: FakePlatform) -> None:
    commands = [command.callback for command in (*app.registered_commands, *cli_experiments.app.registered_commands)]
    groups = {group.name for group in app.registered_groups if group.name}
    assert all(command is not None and command.__doc__ for command in commands)
    assert groups == {"policy", "rollout", "experiment", "key", "line", "model", "versions"}
    assert {command.__name__ for command in commands if command} >= {"promote", "rollback", "report", "audit"}


def test_a_policy_is_shown_with_all_that_is_in_it(platform: FakePlatform) -> None:
    experiment = Experiment(
        name="trial", kind="canary", shares={"new": 0.05}, traffic=0.3, layer="prices",
        target=(Rule(by="feature", name="country", values=("VN", "JP")), Rule(by="unit", pattern="staff-[0-9]*")),
    )  # fmt: skip
    update: dict[str, Any] = {
        "experiments": (experiment,),
        "holdout": 0.02,
        "forced": {"tester": "new"},
        "rollout": RolloutPlan(steps=STEPS, judging=Judging(better=True)),
    }
    platform.answers[POLICY] = _state(PINNED.model_copy(update=update))
    said = platform.says("policy", "show", "m")
    assert "epoch 7; default arm: main" in said
    assert "variant new: version 3" in said
    assert (
        "canary trial: new 5.0% of 30% of the units whose feature country is VN or JP and unit is like staff-[0-9]*, "
        "layer prices, running"
    ) in said
    assert "hold-out: 2% of the units" in said
    assert "forced: tester to new" in said
    assert "versions of line main enter one at a time: shadow 100%, 5% of the units" in said
    assert "loss must be better" in said
    assert json.loads(platform.says("policy", "show", "m", "--json")) == platform.answers[POLICY]


@pytest.mark.parametrize(
    ("content", "options", "epoch"),
    [
        ({"default": "main"}, (), '"7"'),
        ({"epoch": 5, "policy": {"default": "main"}}, (), '"5"'),
        ({"epoch": 5, "policy": {"default": "main"}}, ("--epoch", "3"), '"3"'),
    ],
)
def test_a_policy_is_set_at_the_epoch_that_was_read(
    platform: FakePlatform, tmp_path: Path, content: dict[str, Any], options: tuple[str, ...], epoch: str
) -> None:
    platform.answers |= {POLICY: _state(PINNED), "PUT /admin/models/m/policy": _state(PINNED, 8)}
    (tmp_path / "policy.json").write_text(json.dumps(content))
    for source, stdin in ((str(tmp_path / "policy.json"), None), ("-", json.dumps(content))):
        assert "epoch 8 is on every replica" in platform.says("policy", "set", "m", source, *options, stdin=stdin)
        assert platform.sent("PUT /admin/models/m/policy") == {"default": "main"}
        assert platform.headers[-1]["if-match"] == epoch


def test_who_asks_goes_on_record(platform: FakePlatform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "thùy")
    platform.answers[POLICY] = _state(PINNED)
    platform.says("policy", "show", "m")
    assert platform.headers[-1]["x-operator"] == "th?y"
    assert platform.headers[-1]["authorization"].startswith("Bearer ")


def test_experiments_are_listed(platform: FakePlatform) -> None:
    shown = {"verdict": "new: wait", "arms": [{"units": 900}, {"units": 100}]}
    platform.answers |= {
        POLICY: _state(TRIAL),
        "GET /admin/models/m/experiments": {"experiments": [{"experiment": "trial", "report": shown}]},
    }
    said = platform.says("experiment", "list", "m")
    assert re.search(r"trial\W+shadow\W+running\W+1 of 2\W+new 100%\W+1,000\W+new: wait", said), said
    assert json.loads(platform.says("experiment", "list", "m", "--json"))[0]["experiment"] == "trial"
    platform.answers["GET /admin/models/m/experiments"] = {"experiments": []}
    assert "no experiment runs" in platform.says("experiment", "list", "m")


def _started(platform: FakePlatform, *words: str, stdin: str | None = None) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    platform.answers |= {POLICY: _state(PINNED), "POST /admin/models/m/experiments": _state(TRIAL, 8)}
    assert "'trial' runs" in platform.says("experiment", "start", "m", "trial", *words, stdin=stdin)
    body = platform.sent("POST /admin/models/m/experiments")
    Experiment.model_validate(body["experiment"])
    return body["experiment"], body["variants"]


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
    platform.answers |= {POLICY: _state(PINNED), forecast: report.forecast(experiment, BINARY, outcomes)}
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
    ("words", "says"),
    [
        (("experiment", "start", "m", "x"), "name an arm"),
        (("experiment", "start", "m", "x", "--arm", "new"), "NAME=VERSION or NAME=LINE"),
        (("experiment", "start", "m", "x", "--arm", "new=3"), "say how much 'new' gets"),
        (("experiment", "start", "m", "x", "--arm", "new=3", "--share", "5"), "a number from 0 to 1"),
        (("experiment", "start", "m", "x", "--arm", "new=3", "--share", "0.1", "--min-s", "5"), "name them with --steps"),
        (("experiment", "start", "m", "x", "--arm", "new=3", "--steps", "soon"), "--steps 'soon'"),
        (("experiment", "start", "m", "x", "--arm", "new=3", "--share", "0.1", "--target", "VN"), "--target 'VN'"),
        (("experiment", "start", "m", "x", "--file", "no-such-file.json"), "no-such-file.json"),
        (("experiment", "start", "m", "x", "--file", "-"), "not JSON"),
        (("experiment", "stop", "m", "x"), "no route POST /admin/models/m/experiments/x/stop"),
        (("promote", "m", "--why", "because"), "say what"),
        (("promote", "m", "3", "--experiment", "x", "--why", "because"), "say what"),
        (("promote", "m", "3", "--arm", "x", "--why", "because"), "say what"),
        (("report", "m", "x", "--watch", "--json"), "choose one"),
        (("rollout", "on", "m", "--steps", "often"), "--steps 'often'"),
        (("policy", "set", "m", "no-such-file.json"), "no-such-file.json"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(platform: FakePlatform, words: tuple[str, ...], says: str) -> None:
    platform.answers[POLICY] = _state(PINNED)
    assert says in platform.refuses(*words)
    assert all(not asked.startswith(("PUT", "POST")) or "/stop" in asked for asked, _ in platform.asked)


def test_without_a_platform_one_is_told_how_to_start_it(platform: FakePlatform, tmp_path: Path) -> None:
    elsewhere = FakePlatform(tmp_path / "elsewhere")
    assert "'tidemill up' starts one" in elsewhere.refuses("report", "m", "trial")


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
    platform.answers[f"POST /admin/models/m/{asked}"] = _state(PINNED, 8)
    said = platform.says(*words)
    assert says in said
    assert "epoch 8 is on every replica" in said
    if sent is not None:
        assert platform.sent(f"POST /admin/models/m/{asked}") == sent
    assert json.loads(platform.says(*words, "--json"))["epoch"] == 8


def test_other_arms_go_on_when_one_is_rolled_back(platform: FakePlatform) -> None:
    platform.answers["POST /admin/models/m/experiments/trial/rollback"] = _state(TRIAL, 8)
    assert "goes on with its other arms" in platform.says("rollback", "m", "trial", "--arm", "new", "--why", "bad")


@pytest.mark.parametrize("words", [("promote", "m", "3"), ("rollback", "m", "trial")])
def test_what_changes_who_answers_needs_a_reason(platform: FakePlatform, words: tuple[str, ...]) -> None:
    result = platform.run(*words)
    assert result.exit_code == 2
    assert "--why" in result.stderr
    assert not platform.asked


def test_decisions_are_listed(platform: FakePlatform) -> None:
    record = {
        "at": 1000.0, "who": "controller", "model": "m", "action": "roll back", "experiment": "trial", "before": "",
        "after": "'main' answers all", "why": "errors: 5 of [9]", "epoch": 4, "evidence": [],
    }  # fmt: skip
    platform.answers["GET /admin/audit?model=m&last=3"] = {"audit": [record]}
    said = platform.says("audit", "m", "--last", "3")
    assert re.search(r"controller\W+m\W+roll back\W+trial\W+'main' answers all\W+errors: 5 of \[9\]\W+4", said), said
    assert json.loads(platform.says("audit", "m", "--last", "3", "--json")) == [record]
    platform.answers["GET /admin/audit?model=&last=20"] = {"audit": []}
    assert "nothing was decided yet" in platform.says("audit")


def _set(platform: FakePlatform) -> Policy:
    return Policy.model_validate(platform.sent("PUT /admin/models/m/policy"))


def test_a_rollout_pins_the_newest_good_version_of_the_line_that_the_default_arm_follows(platform: FakePlatform) -> None:
    versions = [_version(4, "rejected"), _version(3, line="other"), _version(2), _version(1)]
    platform.answers |= {
        POLICY: _state(Policy()),
        "GET /admin/models/m/versions?last=1000": {"versions": versions},
        "PUT /admin/models/m/policy": _state(TRIAL.model_copy(update={"rollout": RolloutPlan(steps=STEPS)}), 8),
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
    state = _state(PINNED.model_copy(update={"rollout": plan}), 8)
    platform.answers |= {POLICY: _state(PINNED), "PUT /admin/models/m/policy": state}
    (tmp_path / "plan.json").write_text(plan.model_dump_json())
    assert "pinned" not in platform.says("rollout", "on", "m", "--file", str(tmp_path / "plan.json"))
    assert _set(platform).rollout == plan
    assert "leave --line out" in platform.refuses("rollout", "on", "m", "--file", "-", "--line", "main")


@pytest.mark.parametrize(("options", "champion"), [((), 2), (("--follow",), None)])
def test_a_rollout_that_is_off_leaves_the_default_arm_where_it_is(
    platform: FakePlatform, options: tuple[str, ...], champion: int | None
) -> None:
    platform.answers |= {
        POLICY: _state(TRIAL.model_copy(update={"rollout": RolloutPlan()})),
        "PUT /admin/models/m/policy": _state(TRIAL, 8),
    }
    said = platform.says("rollout", "off", "m", *options)
    assert "no version enters by itself" in said
    assert "on trial: shadow trial: new 100.0%, step 1 of 2, running" in said
    assert (_set(platform).rollout, _set(platform).champion) == (None, champion)


def test_a_rollout_is_shown_on_and_off(platform: FakePlatform) -> None:
    update = {"rollout": RolloutPlan(steps=STEPS), "tried": 3, "tried_at": 1000.0}
    platform.answers[POLICY] = _state(TRIAL.model_copy(update=update))
    said = platform.says("rollout", "show", "m")
    assert "each for at least 60 s and 100 units; loss must be not more than 5% worse; undecided after 7 days" in said
    assert "'main' (version 2) is the default arm" in said
    assert "the last to enter was version 3" in said
    assert json.loads(platform.says("rollout", "show", "m", "--json"))["tried"] == 3
    platform.answers[POLICY] = _state(PINNED)
    assert "off: 'tidemill rollout on m'" in platform.says("rollout", "show", "m")


def test_drift_is_shown_with_what_moved_and_where(platform: FakePlatform) -> None:
    place = {"outcome": 4000, "at": 0.0, "log_position": "1-1"}
    moved = {
        "what": "price", "test": "ks", "effect": 0.51, "p": 1e-9, "before": 1.0, "after": 2.5, "value": "",
        "slices": [{"slice": "country", "value": "VN", "effect": 0.7, "rows": 40}],
    }  # fmt: skip
    alarm = {
        "kind": "covariate", "window": "short", "since": place, "found": place, "moved": [moved], "responses": ["retrain"],
    }  # fmt: skip
    found = {
        "watched": True, "alarms": [alarm], "counts": {"covariate": 1}, "outcomes": 5000, "compared": 3, "columns": 4,
        "off": {"kernel": "ValueError: no"}, "faster": 0, "retrain": place,
    }  # fmt: skip
    platform.answers["GET /admin/models/m/drift"] = found
    said = platform.says("drift", "m")
    assert "1970-01-01 00:00" in said
    for words in (
        "price",
        "0.510",
        "VN (0.70)",
        "1 covariate",
        "switched off: kernel: ValueError: no",
        "asked for: retraining",
    ):
        assert words in said
    assert json.loads(platform.says("drift", "m", "--json")) == found
    platform.answers["GET /admin/models/m/drift"] = {"watched": False}
    assert "is not watched" in platform.says("drift", "m")


def test_reasons_are_printed_as_they_are(platform: FakePlatform) -> None:
    platform.answers["GET /admin/models/m/versions?last=20"] = {"versions": [_version(4, "rejected"), _version(3)]}
    said = platform.says("versions", "m")
    assert "rejected: a [bold]bad[/bold] one" in said
    assert "0.5000" in said


def test_a_platform_elsewhere_is_named_by_its_url(platform: FakePlatform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEMILL_URL", "http://elsewhere")
    monkeypatch.setenv("TIDEMILL_TOKEN", "of-the-cluster")
    platform.answers["GET /admin/audit"] = {"records": []}
    CliRunner().invoke(app, ["audit"])
    [headers] = platform.headers
    assert (headers["host"], headers["authorization"]) == ("elsewhere", "Bearer of-the-cluster")


def test_a_home_that_is_named_goes_before_the_url(platform: FakePlatform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEMILL_URL", "http://elsewhere")
    platform.run("audit")
    assert platform.headers[0]["host"] == "platform"
