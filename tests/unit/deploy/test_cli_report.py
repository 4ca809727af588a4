"""A report begins with what it means: what runs, the verdict and why, how long it takes, and whom it harmed."""

import json
import re
from typing import Any

import pytest
from rich.console import Console

from deploy import cli_experiments
from deploy.cli_report import page
from router import revise
from router.accounts import Account, ArmsAccount, DuelAccount, PairedAccount
from router.report import report
from router.rollout import find
from router.testing import BINARY, Behaviour, World, book, two_versions
from store.policy import Experiment, Judging, Policy, Progress, Step, Variant
from store.records import Shadows
from tests.unit.deploy.conftest import FakePlatform

QUICK = Judging(window_s=1.0, n_opt=4000, margin=0.15)
GOOD = Behaviour()
START = 1000.0


def _policy(**more: Any) -> Policy:
    declared: dict[str, Any] = {"kind": "canary", "shares": {"candidate": 0.3}, "judging": QUICK} | more
    return revise(Policy(), two_versions(Experiment(name="trial", **declared)), START)


def _shown(
    policy: Policy, account: Account | None, now: float, decisions: list[dict[str, Any]] | None = None
) -> dict[str, Any]:
    """What the platform answers: JSON, so through JSON."""
    experiment = next((one for one in policy.experiments if one.name == "trial"), None)
    content = report(policy, experiment, account, now) if account and experiment else None
    shown = {"experiment": "trial", "running": experiment is not None, "report": content, "decisions": decisions or []}
    return json.loads(json.dumps(shown))


def _read(policy: Policy, shown: dict[str, Any], now: float = START + 60.0) -> str:
    """Return what stands on a wide page."""
    console = Console(width=2000, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(page("m", shown, policy.model_dump(mode="json"), now), highlight=False)
    return capture.get()


def _lived(policy: Policy, candidate: Behaviour, requests: int) -> tuple[ArmsAccount, World]:
    account, world = ArmsAccount(find(policy, "trial"), BINARY), World(3)
    account.begin(find(policy, "trial"), 1)
    book(account, world.requests(policy, 1, {"champion": GOOD, "candidate": candidate}, requests))
    account.close(world.now)
    return account, world


def _told(policy: Policy, candidate: Behaviour, requests: int) -> tuple[str, str]:
    """Return the words and the tables."""
    account, world = _lived(policy, candidate, requests)
    words, _, tables = _read(policy, _shown(policy, account, world.now), world.now).partition("\n")
    return words, tables


def test_a_canary_that_has_to_wait() -> None:
    words, tables = _told(_policy(), GOOD, 600)
    assert words.startswith(
        "Canary 'trial' has been running for 6 s: 'candidate' (version 2) answers 30% of all units, 'champion' (version 1) the "
        "others. The verdict on 'candidate' is to wait: errors, timeouts"
    )
    assert "not shown yet to be within their margins" in words
    assert re.search(
        r"A decision on loss is likely after about [\d,]+ units, in about \d+ s; [\d,]+ have been seen\.", words
    ), words
    assert "Nobody was harmed" in words
    assert re.search(r"candidate │ +2 │ 30%", tables) or re.search(r"candidate │ 2 +│ 30%", tables), tables
    assert "sample ratio: as assigned" in tables
    assert re.search(r"errors +│ \S+ of 500 +│ \S+ of 20 +│ 0 of \d+ units of 'candidate', 0 of \d+ of 'champion'", tables), (
        tables
    )


def test_before_labels_have_come_nothing_is_foretold() -> None:
    words, _ = _told(_policy(), GOOD, 0)
    assert "cannot be said before labels have come" in words


def test_a_good_arm_names_the_command_that_promotes_it() -> None:
    words, _ = _told(_policy(shares={"candidate": 0.5}), GOOD, 12_000)
    assert "The verdict on 'candidate' is to promote it: every guard and metric is within its margin." in words
    assert "'tidemill promote m --experiment trial' makes it the default arm." in words


def test_one_that_fails_says_whom_it_harmed() -> None:
    words, _ = _told(_policy(), Behaviour(errors=0.3), 400)
    assert re.search(r"to roll it back: errors: \d+ of \d+ units of 'candidate', 0 of \d+ of 'champion'", words), words
    assert re.search(r"\d+ of 400 units \(\S+%\) were harmed: .* the default arm answered them\.", words), words


def test_one_that_scores_otherwise_goes_no_further_until_labels_decide() -> None:
    policy = _policy(shares={"candidate": 0.05})
    account, world = ArmsAccount(find(policy, "trial"), BINARY), World(1)
    account.begin(find(policy, "trial"), 1)
    behaviours = {"champion": Behaviour(shift=-3.0), "candidate": GOOD}
    while "block" not in (shown := _shown(policy, account, world.now))["report"]["verdict"]:
        book(account, world.requests(policy, 1, behaviours, 10))
    assert "The verdict on 'candidate' is to go no further: scores: " in _read(policy, shown)


def test_steps_say_where_they_are_and_how_long_they_take() -> None:
    steps = (Step(share=0.3, min_s=100.0, min_units=50), Step(share=0.5, min_s=80.0))
    words, _ = _told(_policy(steps=steps), GOOD, 600)
    assert "has been running for 6 s, step 1 of 2: 'candidate'" in words
    assert "its steps take at least 2.9 min more, and this one 50 units of its own." in words


@pytest.mark.parametrize(
    ("status", "why", "says"),
    [
        ("paused", "lunch", "It is paused: lunch; it stays as it is until 'tidemill experiment resume m trial'"),
        ("held", "no decision within 60 s; errors: 0 of 5", "It is held: no decision within 60 s; it stays as it is until"),
    ],
)
def test_one_that_stands_still_says_what_it_waits_for(status: Any, why: str, says: str) -> None:
    policy = _policy()
    account, world = _lived(policy, GOOD, 200)
    progress = Progress(status=status, why=why, started_at=START, entered_at=START)
    stopped = find(policy, "trial").model_copy(update={"progress": progress})
    policy = policy.model_copy(update={"experiments": (stopped,)})
    said = _read(policy, _shown(policy, account, world.now))
    assert says in said
    assert "A decision on" not in said


def test_of_several_arms_each_has_its_verdict() -> None:
    variants = (*two_versions().variants, Variant(name="third", version=3))
    shares = {"champion": 0.4, "candidate": 0.3, "third": 0.3}
    experiment = Experiment(name="trial", kind="ab", shares=shares, judging=QUICK)
    wanted = Policy(variants=variants, default="champion", experiments=(experiment,))
    policy = revise(Policy(), wanted, START)
    account, world = ArmsAccount(find(policy, "trial"), BINARY), World(3)
    account.begin(find(policy, "trial"), 1)
    behaviours = {"champion": GOOD, "candidate": GOOD, "third": Behaviour(errors=0.3)}
    book(account, world.requests(policy, 1, behaviours, 600))
    account.close(world.now)
    words = _read(policy, _shown(policy, account, world.now)).partition("\n")[0]
    assert "A/B test 'trial'" in words
    assert (
        "'champion' (version 1) answers 40%, 'candidate' (version 2) answers 30% and 'third' (version 3) answers 30%" in words
    )
    assert "The verdict on 'candidate' is to wait" in words
    assert "The verdict on 'third' is to roll it back: errors" in words
    out = find(policy, "trial").model_copy(update={"shares": {"champion": 0.7, "candidate": 0.3, "third": 0.0}})
    policy = policy.model_copy(update={"experiments": (out,)})
    assert "'third' has been rolled back: errors" in _read(policy, _shown(policy, account, world.now))


def test_a_shadow_answers_nobody() -> None:
    policy = _policy(kind="shadow", shares={"candidate": 1.0})
    account = PairedAccount(find(policy, "trial"), BINARY.model_copy(update={"slices": ("country",)}))
    account.begin(find(policy, "trial"), 1)
    assert "'candidate' (version 2) scores 100% of all units, unseen" in _read(policy, _shown(policy, account, START))
    ids, outputs = ["a", "b"], [[0.2], [0.7]]
    within = [["VN"], ["SE"]]
    account.shadows(Shadows(START, ids, ids, outputs, [[0.3], [0.4]], "candidate", 2, "trial", 0.001, 0.002, within))
    shown = _shown(policy, account, START) | {"shadow_queue": {"scored": 2, "failed": 0, "dropped": 5}}
    said = _read(policy, shown)
    assert "since they began: 2 scored, 0 failed, 5 dropped" in said
    assert said.index("country=SE") < said.index("country=VN")
    assert "The verdict on 'candidate' is to wait: nothing speaks against it. It decides nothing but to roll back" in said
    assert "Nobody was harmed: nobody is answered by it." in said
    assert re.search(r"candidate │ 2 +│ 0 +│ 50% +│ 0.2 ", said), said


def test_rankers_draft_together() -> None:
    policy = _policy(kind="interleave", shares={"champion": 0.5, "candidate": 0.5})
    account = DuelAccount(find(policy, "trial"), BINARY)
    account.begin(find(policy, "trial"), 1)
    said = _read(policy, _shown(policy, account, START))
    assert "Interleaving 'trial' has been running" in said
    assert "'champion' (version 1) and 'candidate' (version 2) draft lists together (team_draft), for all units" in said
    assert "0 lists for 0 units" in said
    account.failed = 3
    assert "3 times a ranker failed" in _read(policy, _shown(policy, account, START))


def _decision(action: str, at: float, **more: str) -> dict[str, Any]:
    return {"at": at, "who": "controller", "action": action, "before": "", "after": "", "why": "", **more}


def test_before_its_first_report_it_says_that_it_runs() -> None:
    assert "There is no report of it yet" in _read(_policy(), _shown(_policy(), None, START))


def test_one_that_ended_says_how_and_shows_its_own_decisions() -> None:
    decisions = [
        _decision("roll back", START, after="'champion' answers all", why="errors: 5 of [9]"),
        _decision("enter", START - 10, why="entered now"),
        _decision("stop", START - 20, why="of another of this name"),
    ]
    said = _read(two_versions(), _shown(two_versions(), None, START, decisions))
    assert said.startswith(
        "'trial' has ended: rolled back by controller 60 s ago: errors: 5 of [9]. Now 'champion' answers all."
    )
    assert "entered now" in said
    assert "of another of this name" not in said
    assert "another policy was set" in _read(two_versions(), _shown(two_versions(), None, START, decisions[1:2]))


def test_a_report_is_watched_until_the_experiment_ends(platform: FakePlatform, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(cli_experiments, "sleep", slept.append)
    policy = _policy()
    account, world = _lived(policy, GOOD, 100)
    ended = _shown(two_versions(), None, START, [_decision("stop", START)])
    platform.answers = {
        "GET /admin/models/m/policy": [{"policy": one.model_dump(mode="json")} for one in (policy, policy, two_versions())],
        "GET /admin/models/m/experiments/trial": [
            _shown(policy, account, world.now),
            _shown(policy, account, world.now),
            ended,
        ],
    }
    said = platform.says("report", "m", "trial", "--watch", "--every-s", "0.5")
    assert slept == [0.5, 0.5]
    assert said.count("Canary 'trial'") == 2
    assert "'trial' has ended: stopped by controller" in said
    assert json.loads(platform.says("report", "m", "trial", "--json")) == ended
    platform.answers["GET /admin/models/m/experiments/trial"] = (404, {"error": "model 'm' never had it"})
    assert "never had it" in platform.refuses("report", "m", "trial")
