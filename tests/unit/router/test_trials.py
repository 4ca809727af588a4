"""Experiments decide rightly: what does harm goes, what is good comes, and nobody counts twice."""

import msgpack
import pytest

from router import revise
from router.accounts import ArmsAccount
from router.judge import Verdict, judge_arms
from router.rollout import advance, find
from router.testing import BINARY, Behaviour, World, book, two_versions
from store.policy import Experiment, Judging, Policy, Step, Variant
from store.records import Failures, Outcome, Predictions, Served

QUICK = Judging(window_s=1.0, n_opt=4000)
GOOD = Behaviour()


def _canary(share: float, judging: Judging = QUICK, **more: object) -> Experiment:
    return Experiment(name="trial", kind="canary", shares={"candidate": share}, judging=judging, **more)  # pyright: ignore[reportArgumentType]


def _account(policy: Policy, epoch: int = 1) -> ArmsAccount:
    experiment = find(policy, "trial")
    account = ArmsAccount(experiment, BINARY)
    account.begin(experiment, epoch)
    return account


def _watched(share: float, candidate: Behaviour, seed: int, requests: int, look: int = 100, **world: int) -> tuple[str, int]:
    """Look every `look` requests; return the first decision that is not to wait, and how many requests it took."""
    policy = revise(Policy(), two_versions(_canary(share)))
    account, place = _account(policy), World(seed, **world)
    for done in range(look, requests + 1, look):
        book(account, place.requests(policy, 1, {"champion": GOOD, "candidate": candidate}, look), place.now)
        [verdict] = judge_arms(find(policy, "trial"), account)
        if verdict.decision != "wait":
            return verdict.decision, done
    return "wait", requests


@pytest.mark.parametrize(
    ("candidate", "says"),
    [
        (Behaviour(errors=0.05), "errors"),
        (Behaviour(seconds=0.05), "latency"),
        (Behaviour(shift=4.0), "loss"),
        (Behaviour(errors=1.0), "errors"),
    ],
)
def test_what_does_harm_is_rolled_back_at_a_small_share(candidate: Behaviour, says: str) -> None:
    policy = revise(Policy(), two_versions(_canary(0.05)))
    account, place = _account(policy), World(1)
    [verdict] = judge_arms(find(policy, "trial"), account)
    while verdict.decision != "roll back" and place.now < 1200:
        book(account, place.requests(policy, 1, {"champion": GOOD, "candidate": candidate}, 100), place.now)
        [verdict] = judge_arms(find(policy, "trial"), account)
    assert verdict.decision == "roll back"
    assert says in verdict.why
    harmed = account.stages[0].units[1]
    assert harmed < 500


def test_odd_scores_alone_decide_only_where_no_labels_come() -> None:
    policy = revise(Policy(), two_versions(_canary(0.05)))
    account, place = _account(policy), World(1)
    other = {"champion": Behaviour(shift=-3.0), "candidate": GOOD}
    decisions: set[str] = set()
    for _ in range(200):
        book(account, place.requests(policy, 1, other, 10), place.now)
        [verdict] = judge_arms(find(policy, "trial"), account)
        decisions.add(verdict.decision)
    assert "roll back" not in decisions
    assert "block" in decisions
    account, place = _account(policy), World(1)
    for _ in range(20):
        unlabelled = (event for event in place.requests(policy, 1, other, 100) if not isinstance(event, Outcome))
        book(account, unlabelled, place.now)
    [verdict] = judge_arms(find(policy, "trial"), account)
    assert (verdict.decision, "scores" in verdict.why) == ("roll back", True)


def test_the_breaker_needs_no_baseline_to_compare_with() -> None:
    """With everyone on the candidate there is no other arm, and no statistics of two."""
    policy = revise(Policy(), two_versions(_canary(1.0)))
    account, place = _account(policy), World(1)
    book(account, place.requests(policy, 1, {"candidate": Behaviour(errors=0.9)}, 50), place.now)
    [verdict] = judge_arms(find(policy, "trial"), account)
    assert verdict.decision == "roll back"
    assert "it failed" in verdict.why


def test_worse_labels_are_found_where_nothing_else_is_wrong() -> None:
    assert _watched(0.5, Behaviour(noise=1.5), 2, 8000)[0] == "roll back"


@pytest.mark.simulation
def test_an_equal_version_is_promoted_when_it_need_not_be_better() -> None:
    policy = revise(Policy(), two_versions(_canary(0.5, QUICK.model_copy(update={"margin": 0.15}))))
    account, place = _account(policy), World(3)
    decisions: list[str] = []
    for _ in range(30):
        book(account, place.requests(policy, 1, {"champion": GOOD, "candidate": GOOD}, 500), place.now)
        decisions.append(judge_arms(find(policy, "trial"), account)[0].decision)
    assert decisions[0] == "wait"
    assert decisions[-1] == "promote"


@pytest.mark.simulation
def test_equal_versions_are_hardly_ever_rolled_back_however_often_one_looks() -> None:
    decisions = [_watched(0.2, GOOD, seed, 2500)[0] for seed in range(100, 120)]
    assert decisions.count("roll back") <= 2  # at 1 % each, three of twenty would be a sensation


@pytest.mark.simulation
def test_heavy_units_do_not_raise_alarms() -> None:
    """Few units with many requests each, a tenth of which always fail, in both arms."""
    bad = Behaviour(errors=0.1)
    policy = revise(Policy(), two_versions(_canary(0.5)))
    for seed in range(20):
        account, place = _account(policy), World(seed, population=200)
        for _ in range(10):
            book(account, place.requests(policy, 1, {"champion": bad, "candidate": bad}, 100), place.now)
            [verdict] = judge_arms(find(policy, "trial"), account)
            assert verdict.decision != "roll back"
        assert sum(account.stages[0].units) <= 200


def test_books_closed_and_opened_again_go_on_as_if_never_closed() -> None:
    policy = revise(Policy(), two_versions(_canary(0.3)))
    events = list(World(5).requests(policy, 1, {"champion": GOOD, "candidate": Behaviour(errors=0.1)}, 2000))
    whole, broken = _account(policy), _account(policy)
    for start in range(0, len(events), 400):
        book(whole, iter(events[start : start + 400]))
        book(broken, iter(events[start : start + 400]))
        state = msgpack.unpackb(msgpack.packb(broken.pack()), strict_map_key=False)
        broken = ArmsAccount(find(policy, "trial"), BINARY, state)
    assert msgpack.packb(broken.pack()) == msgpack.packb(whole.pack())
    assert judge_arms(find(policy, "trial"), broken) == judge_arms(find(policy, "trial"), whole)


def _one(unit: str, variant: str, epoch: int, at: float, id_: str = "p") -> Predictions:
    served = Served(variant, 1, 0.5, ("trial",), 0.001, epoch)
    return Predictions(at, [id_], [unit], [[]], [[0.5]], [served], [0])


def _failure(unit: str, variant: str, epoch: int, at: float) -> Failures:
    return Failures(at, ["p"], [unit], variant, 1, ("trial",), epoch, "error", True)


def test_a_unit_is_of_its_first_arm_and_stage_and_has_one_event_of_a_kind() -> None:
    first = revise(Policy(), two_versions(_canary(0.5)))
    account = _account(first)
    account.predictions(_one("u", "champion", 1, 10.0))
    for _ in range(3):
        account.failures(_failure("u", "champion", 1, 10.5))
    account.failures(_failure("u", "candidate", 1, 10.6))  # it has moved: what the other arm does to it says nothing
    assert account.stages[0].events["errors"] == [1, 0]
    assert account.stages[0].units == [1, 0]
    second = revise(first, two_versions(_canary(0.9)))
    account.begin(find(second, "trial"), 2)
    account.failures(_failure("v", "candidate", 1, 10.7))  # a replica that has not heard of the change
    account.failures(_failure("v", "candidate", 2, 10.8))  # the same unit in the next stage
    assert [stage.events["errors"] for stage in account.stages] == [[1, 1], [0, 0]]
    account.failures(_failure("w", "candidate", 0, 10.9))  # before the experiment
    account.failures(_failure("x", "candidate", 1, 11.0))
    account.failures(_failure("x", "candidate", 1, 12.5))
    assert [stage.units for stage in account.stages] == [[1, 2], [0, 0]]


def test_a_unit_enters_the_sums_once_when_its_window_closes() -> None:
    account = _account(revise(Policy(), two_versions(_canary(0.5))))

    def outcome(unit: str, at: float, label: int, epoch: int = 1) -> Outcome:
        served = Served("candidate", 2, 0.5, ("trial",), 0.0, epoch)
        return Outcome("p", unit, [], [0.5], served, label, "label", True, at, at, at)

    account.outcome(outcome("u", 9.0, 1, epoch=0))  # before the experiment
    account.outcome(outcome("u", 10.0, 1))  # an outcome may be read before its prediction
    account.predictions(_one("u", "candidate", 1, 10.0))
    account.outcome(outcome("u", 10.9, 0))
    account.outcome(outcome("u", 11.5, 1))  # after its window
    account.close(10.5)
    assert account.closed == [0, 0]
    account.close(11.2)
    account.close(100.0)
    account.outcome(outcome("u", 50.0, 1))
    account.close(200.0)
    assert account.closed == [0, 1]
    loss, outcomes, label, before, before_outcomes = account.moments[1].sums
    assert (account.moments[1].n, outcomes, label, before_outcomes) == (1, 2.0, 1.0, 1.0)
    assert (loss, before) == (pytest.approx(2 * 0.6931, abs=1e-3), pytest.approx(0.6931, abs=1e-3))


def test_units_that_go_missing_block_a_promotion() -> None:
    policy = revise(Policy(), two_versions(_canary(0.5)))
    account, place = _account(policy), World(9)
    events = place.requests(policy, 1, {"champion": GOOD, "candidate": Behaviour(noise=0.0)}, 12_000)
    lost = (
        event
        for number, event in enumerate(events)
        if not (isinstance(event, Predictions | Outcome) and _arm(event) == "candidate" and number % 20 < 4)
    )
    book(account, lost, place.now + 1e6)
    [verdict] = judge_arms(find(policy, "trial"), account)
    assert verdict.decision == "block"
    assert "other proportions" in verdict.why


def _arm(event: Predictions | Outcome) -> str:
    return event.served[0].variant if isinstance(event, Predictions) else event.served.variant


STEPS = (
    Step(share=0.05, min_s=1.0, min_units=20),
    Step(share=0.25, min_s=1.0, min_units=50),
    Step(share=0.5, min_s=1.0, min_units=100),
)


def _run(candidate: Behaviour, judging: Judging, requests: int, max_s: float = 1e9) -> tuple[list[str], Policy]:
    """Let a rollout go its way; return what happened, and the policy at the end."""
    experiment = _canary(0.0, judging, steps=STEPS, max_s=max_s)
    place = World(11)
    policy = revise(Policy(), two_versions(experiment), place.now)
    account, epoch, happened = _account(policy), 1, list[str]()
    for _ in range(requests // 200):
        book(account, place.requests(policy, epoch, {"champion": GOOD, "candidate": candidate}, 200), place.now)
        trial = find(policy, "trial")
        move = advance(policy, "trial", judge_arms(trial, account), account.stages[-1].units[1], place.now)
        if move is not None:
            happened.append(move.action)
            policy, epoch = move.policy, epoch + 1
            if not policy.experiments:
                break
            account.begin(find(policy, "trial"), epoch)
    return happened, policy


def test_a_better_version_goes_step_by_step_to_champion() -> None:
    judging = QUICK.model_copy(update={"better": True})
    place = Behaviour(noise=2.0)
    experiment_champion_is_bad = {"champion": place, "candidate": GOOD}
    world = World(12)
    policy = revise(Policy(), two_versions(_canary(0.0, judging, steps=STEPS)), world.now)
    account, epoch, happened = _account(policy), 1, list[str]()
    while policy.experiments and world.now < 2000:
        book(account, world.requests(policy, epoch, experiment_champion_is_bad, 200), world.now)
        move = advance(policy, "trial", judge_arms(find(policy, "trial"), account), account.stages[-1].units[1], world.now)
        if move is not None:
            happened.append(move.action)
            policy, epoch = move.policy, epoch + 1
            if policy.experiments:
                account.begin(find(policy, "trial"), epoch)
    assert happened == ["step", "step", "promote"]
    assert policy.champion == 2
    assert [variant.name for variant in policy.variants] == ["champion"]


def test_an_equal_version_is_held_where_it_has_to_be_better() -> None:
    happened, policy = _run(GOOD, QUICK.model_copy(update={"better": True}), 6000, max_s=40.0)
    assert happened == ["step", "step", "hold"]
    assert find(policy, "trial").progress.status == "held"
    assert policy.champion == 1


def test_a_bad_version_never_gets_far() -> None:
    happened, policy = _run(Behaviour(errors=0.5), QUICK, 20_000)
    assert happened in (["roll back"], ["step", "roll back"])
    assert policy.champion == 1
    assert [variant.name for variant in policy.variants] == ["champion"]


def test_a_shadow_that_is_no_step_of_a_rollout_is_only_looked_at() -> None:
    dark = Experiment(name="trial", kind="shadow", shares={"candidate": 1.0})
    policy = revise(Policy(), two_versions(dark))
    assert advance(policy, "trial", [Verdict("candidate", "roll back", "it is worse")], 100, 1e6) is None
    stepped = dark.model_copy(update={"steps": (Step(kind="shadow", share=1.0), Step(share=0.5))})
    policy = revise(Policy(), two_versions(stepped))
    move = advance(policy, "trial", [Verdict("candidate", "roll back", "it is worse")], 100, 1e6)
    assert move is not None
    assert (move.action, move.rejected) == ("roll back", 2)


def test_an_arm_that_is_out_is_judged_no_more_and_its_units_go_to_the_baseline() -> None:
    experiment = Experiment(name="trial", kind="ab", shares={"champion": 0.4, "candidate": 0.3, "third": 0.3}, judging=QUICK)
    three = two_versions(experiment).model_copy(
        update={"variants": (*two_versions().variants, Variant(name="third", version=3))}
    )
    policy = revise(Policy(), three)
    account, place = _account(policy), World(31)
    behaviours = {"champion": GOOD, "candidate": Behaviour(errors=0.3), "third": GOOD}
    book(account, place.requests(policy, 1, behaviours, 600), place.now)
    move = advance(policy, "trial", judge_arms(find(policy, "trial"), account), 0, place.now)
    assert move is not None
    assert (move.action, move.rejected) == ("roll back", 2)
    assert find(move.policy, "trial").shares == {"champion": pytest.approx(0.7), "candidate": 0.0, "third": 0.3}
    account.begin(find(move.policy, "trial"), 2)
    assert [verdict.arm for verdict in judge_arms(find(move.policy, "trial"), account)] == ["third"]
    assert advance(move.policy, "trial", judge_arms(find(move.policy, "trial"), account), 0, place.now) is None


def test_a_version_that_answers_elsewhere_too_is_not_rejected() -> None:
    """An A/A test: both arms are the champion's version."""
    same = two_versions(_canary(0.5)).model_copy(
        update={"variants": (Variant(name="champion", version=1), Variant(name="candidate", version=1))}
    )
    move = advance(revise(Policy(), same), "trial", [Verdict("candidate", "roll back", "a false alarm")], 0, 1.0)
    assert move is not None
    assert (move.action, move.rejected, move.policy.champion) == ("roll back", 0, 1)
