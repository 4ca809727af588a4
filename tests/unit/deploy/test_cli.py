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
from store.policy import Experiment, Judging, RolloutPlan, Rule
from tests.unit.deploy.conftest import FakePlatform
from tests.unit.deploy.policies import PINNED, POLICY, STEPS, state_of, version_of


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
    platform.answers[POLICY] = state_of(PINNED.model_copy(update=update))
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
    platform.answers |= {POLICY: state_of(PINNED), "PUT /admin/models/m/policy": state_of(PINNED, 8)}
    (tmp_path / "policy.json").write_text(json.dumps(content))
    for source, stdin in ((str(tmp_path / "policy.json"), None), ("-", json.dumps(content))):
        assert "epoch 8 is on every replica" in platform.says("policy", "set", "m", source, *options, stdin=stdin)
        assert platform.sent("PUT /admin/models/m/policy") == {"default": "main"}
        assert platform.headers[-1]["if-match"] == epoch


def test_who_asks_goes_on_record(platform: FakePlatform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "thùy")
    platform.answers[POLICY] = state_of(PINNED)
    platform.says("policy", "show", "m")
    assert platform.headers[-1]["x-operator"] == "th?y"
    assert platform.headers[-1]["authorization"].startswith("Bearer ")


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
    platform.answers[POLICY] = state_of(PINNED)
    assert says in platform.refuses(*words)
    assert all(not asked.startswith(("PUT", "POST")) or "/stop" in asked for asked, _ in platform.asked)


def test_without_a_platform_one_is_told_how_to_start_it(platform: FakePlatform, tmp_path: Path) -> None:
    elsewhere = FakePlatform(tmp_path / "elsewhere")
    assert "'tidemill up' starts one" in elsewhere.refuses("report", "m", "trial")


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
    platform.answers["GET /admin/models/m/versions?last=20"] = {"versions": [version_of(4, "rejected"), version_of(3)]}
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
