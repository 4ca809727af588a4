"""The controller, killed at each of its durable steps: it resumes, decides nothing twice and skips no step."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from router import revise
from router.testing import BINARY, Behaviour, World, two_versions
from serving.controller import Controller
from store.errors import Fenced
from store.names import AUDIT, log_stream, outcome_stream
from store.policy import AuditRecord, Experiment, Judging, Policy, RolloutPlan, Step, Variant
from store.protocols import START, Advance, Commit, Version
from store.records import Outcome, Outcomes, pack_log, pack_outcomes
from store.redis_store import RedisStore

pytestmark = pytest.mark.anyio

STEPS = (
    Step(kind="shadow", share=1.0, min_s=0.5, min_units=0),
    Step(share=0.05, min_s=1.0, min_units=10),
    Step(share=0.5, min_s=1.0, min_units=100),
)
JUDGING = Judging(window_s=1.0, n_opt=2000, margin=0.3)


class Killed(Exception):
    """The process ends here."""


class Killer:
    """Ends a controller at its n-th durable step, once."""

    def __init__(self, at: int | None) -> None:
        self._left = at
        self.points: list[str] = []

    def __call__(self, point: str) -> None:
        self.points.append(point)
        if self._left is not None:
            self._left -= 1
            if self._left < 0:
                self._left = None
                raise Killed(point)


@pytest.fixture
async def store(redis_url: str, request: pytest.FixtureRequest) -> AsyncIterator[RedisStore]:
    store = RedisStore(redis_url, f"controller-{request.node.name[:60]}-{id(request)}")
    await store.register(BINARY)
    for count in range(2):
        version = Version(model="m", line="main", position=f"{count + 1}-0")
        await store.commit("m", Commit(Advance("learner", f"{count}-0" if count else START, version.position), version, b"w"))
    yield store
    await store.close()


class Platform:
    """A store, a world whose traffic goes into its streams, and a controller that is started again whenever it is killed."""

    def __init__(self, store: RedisStore, candidate: Behaviour, reached: Callable[[str], None] | None = None) -> None:
        self.store = store
        self.world = World(21)
        self.behaviours = {"champion": Behaviour(noise=1.0), "candidate": candidate}
        self.reached = reached
        self.deaths = 0

    def controller(self) -> Controller:
        return Controller(self.store, BINARY, clock=lambda: self.world.now, judge_every_s=0.0, reached=self.reached)

    async def live(self, controller: Controller, turns: int = 200) -> None:
        """Let requests come and the controller work until no experiment is left."""
        for _ in range(turns):
            snapshot = await self.store.snapshot("m")
            if not snapshot.policy.experiments and snapshot.policy.tried == 2:
                return
            if snapshot.policy.experiments:
                await self.ask(snapshot.policy, snapshot.epoch)
            controller = await self.work(controller)
        raise AssertionError(f"nothing was decided: {[record.action for record in await self.audit()]}")

    async def ask(self, policy: Policy, epoch: int) -> None:
        events = list(self.world.requests(policy, epoch, self.behaviours, 150))
        outcomes = [event for event in events if isinstance(event, Outcome)]
        entries = [(log_stream("m"), pack_log(event)) for event in events if not isinstance(event, Outcome)]
        await self.store.append([*entries, (outcome_stream("m"), pack_outcomes(Outcomes(outcomes)))])

    async def work(self, controller: Controller) -> Controller:
        try:
            while await controller.step():
                pass
            return controller
        except Killed:
            self.deaths += 1
            again = self.controller()
            await again.start()
            return again

    async def audit(self) -> list[AuditRecord]:
        entries = await self.store.read(AUDIT, START, 1000)
        return [AuditRecord.model_validate_json(entry.payload) for entry in entries]


async def _begin(store: RedisStore, **judging: Any) -> None:
    plan = RolloutPlan(steps=STEPS, judging=JUDGING.model_copy(update=judging))
    policy = two_versions().model_copy(update={"rollout": plan, "tried": 1})
    await store.set_policy("m", revise(Policy(), policy), 0)


GOOD_WAY = ["enter", "step", "step", "promote"]


@pytest.mark.parametrize("at", [None, *range(16)])
async def test_a_rollout_goes_its_way_wherever_the_controller_is_killed(store: RedisStore, at: int | None) -> None:
    await _begin(store)
    killer = Killer(at)
    platform = Platform(store, Behaviour(noise=0.0), killer)
    controller = platform.controller()
    await controller.start()
    await platform.live(controller)
    assert platform.deaths == (at is not None)
    records = await platform.audit()
    assert [record.action for record in records] == GOOD_WAY
    assert [record.epoch for record in records] == [2, 3, 4, 5]
    assert (await store.snapshot("m")).channels["champion"] == 2
    if at is None:
        assert len(killer.points) >= 16
        assert set(killer.points) >= {"before save", "after save", "before promote", "after promote", "before enter"}


async def test_what_was_booked_before_a_kill_is_booked_once(store: RedisStore) -> None:
    """A controller that forgets all since its last save, again and again, books each unit once all the same."""

    async def booked(platform: Platform) -> dict[str, int]:
        content = (await platform.store.consumer("controller:m"))[1]
        arms = json.loads(content)["experiments"]["rollout"]["arms"]
        return {arm["arm"]: arm["units"] for arm in arms}

    plan = RolloutPlan(steps=(Step(share=0.3, min_s=1e6),), judging=JUDGING)
    await store.set_policy("m", revise(Policy(), two_versions().model_copy(update={"rollout": plan, "tried": 1})), 0)
    platform = Platform(store, Behaviour())
    controller = platform.controller()
    await controller.start()
    sent = 0
    for turn in range(12):
        await platform.work(controller)
        snapshot = await store.snapshot("m")
        await platform.ask(snapshot.policy, snapshot.epoch)
        sent += 150
        if turn % 3 == 2:  # forget everything since the last save
            controller = platform.controller()
            await controller.start()
    async with asyncio.timeout(30):
        while True:
            await platform.work(controller)
            await controller._save(await store.snapshot("m"))  # pyright: ignore[reportPrivateUsage]
            if sum((await booked(platform)).values()) >= sent:
                break
    assert sum((await booked(platform)).values()) == sent


async def test_two_controllers_decide_once(store: RedisStore) -> None:
    await _begin(store)
    platform = Platform(store, Behaviour(noise=0.0))
    one, other = platform.controller(), platform.controller()
    await one.start()
    await other.start()

    async def work(controller: Controller) -> Controller:
        try:
            for _ in range(20):
                await controller.step()
        except Fenced:
            controller = platform.controller()
            await controller.start()
        return controller

    for _ in range(200):
        snapshot = await store.snapshot("m")
        if not snapshot.policy.experiments and snapshot.policy.tried == 2:
            break
        if snapshot.policy.experiments:
            await platform.ask(snapshot.policy, snapshot.epoch)
        one, other = await asyncio.gather(work(one), work(other))
    assert [record.action for record in await platform.audit()] == GOOD_WAY


async def test_a_harmful_version_is_rejected_with_its_evidence(store: RedisStore) -> None:
    await _begin(store)
    platform = Platform(store, Behaviour(errors=0.3))
    controller = platform.controller()
    await controller.start()
    await platform.live(controller)
    last = (await platform.audit())[-1]
    assert (last.action, last.who) == ("roll back", "controller")
    assert last.evidence[0]["decision"] == "roll back"
    gone = await store.version("m", 2)
    assert (gone.status, gone.reason) == ("rejected", last.why)
    assert (await store.snapshot("m")).channels["champion"] == 1


async def test_a_version_that_passed_other_gates_comes_to_the_last_step_and_no_further(store: RedisStore) -> None:
    await _begin(store)
    platform = Platform(store, Behaviour(noise=0.0))
    controller = platform.controller()
    await controller.start()
    verdict = {"gates": {"passed": True, "declared": "others", "evidence": {}}}
    version = Version(model="m", line="main", position="3-0", lineage=verdict)
    await store.commit("m", Commit(Advance("learner", "2-0", "3-0"), version, b"w"))
    for _ in range(60):
        snapshot = await store.snapshot("m")
        if snapshot.policy.experiments:
            await platform.ask(snapshot.policy, snapshot.epoch)
        await platform.work(controller)
        if controller.problem:
            break
    assert controller.problem == "version 3 is not to be promoted: the gates that it passed are not those that are declared now"
    assert [record.action for record in await platform.audit()] == GOOD_WAY[:-1]


async def test_an_operator_may_change_the_policy_meanwhile(store: RedisStore) -> None:
    """A change of the operator's between reading and deciding makes the controller look again."""
    await _begin(store)

    def interfere(point: str) -> None:
        if point == "before step":
            raise Killed(point)

    platform = Platform(store, Behaviour(noise=0.0), interfere)
    controller = platform.controller()
    await controller.start()
    while platform.deaths == 0:
        snapshot = await store.snapshot("m")
        if snapshot.policy.experiments:
            await platform.ask(snapshot.policy, snapshot.epoch)
        controller = await platform.work(controller)
    snapshot = await store.snapshot("m")
    await store.set_policy("m", snapshot.policy.model_copy(update={"forced": {"tester": "candidate"}}), snapshot.epoch)
    platform.reached = None
    controller = platform.controller()
    await controller.start()
    await platform.live(controller)
    assert [record.action for record in await platform.audit()] == GOOD_WAY
    assert (await store.snapshot("m")).policy.tried == 2


async def test_what_cannot_be_read_stops_nothing(store: RedisStore) -> None:
    await _begin(store)
    platform = Platform(store, Behaviour(noise=0.0))
    controller = platform.controller()
    await controller.start()
    await platform.work(controller)
    await store.append([(log_stream("m"), b"\xc1 garbage"), (outcome_stream("m"), b"\x91\xa1z")])
    await platform.live(controller)
    assert [record.action for record in await platform.audit()] == GOOD_WAY


async def test_a_rollout_that_cannot_go_on_says_so_and_leaves_the_others_their_guards(store: RedisStore) -> None:
    """An operator's experiment has all units of the layer that the canary needs; it is itself rolled back when it does harm."""
    plan = RolloutPlan(steps=STEPS, judging=JUDGING)
    own = Experiment(name="own", kind="ab", shares={"champion": 0.5, "third": 0.5}, judging=JUDGING)
    base = two_versions(own)
    wanted = base.model_copy(
        update={"variants": (*base.variants, Variant(name="third", line="other")), "rollout": plan, "tried": 1}
    )
    await store.set_policy("m", revise(Policy(tried=1), wanted), 0)
    platform = Platform(store, Behaviour())
    platform.behaviours["third"] = Behaviour(errors=0.04)
    controller = platform.controller()
    await controller.start()
    said = ""
    for _ in range(60):
        snapshot = await store.snapshot("m")
        await platform.ask(snapshot.policy, snapshot.epoch)
        controller = await platform.work(controller)
        said = said or controller.problem
        if [record.action for record in await platform.audit()][-1:] == ["roll back"]:
            break
    assert "layer ''" in said
    assert [(record.experiment, record.action) for record in await platform.audit()][:2] == [
        ("rollout", "enter"),
        ("own", "roll back"),
    ]
