"""What operators call: policy, versions, schedule, retraining, status. Every route asks for the operators' token."""

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from time import monotonic, time
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from router import revise
from router.rollout import Move, outline
from serving.access import OPERATE, Access, Caller
from serving.controller import audit_of, rejection
from serving.errors import BadRequest, Invalid, NotTrainable, PreconditionRequired, TimedOut, UnknownModel
from serving.http import answer, place, read_body, whole_number
from serving.line_progress import at_a_glance
from serving.promotion import unproven_default
from serving.replica import Replica
from store.errors import EpochConflict, NotFound, PolicyError, SpecError
from store.keys import Role
from store.names import CONTROL, controller_consumer, join_consumer, learner_consumer, log_stream
from store.policy import MAIN, Policy, Snapshot
from store.protocols import START, position_key
from store.records import Cut, pack_log
from store.requests import answer_to
from store.spec import ModelRecord, Schedule

CALLER = "tidemill.caller"
"""Where a request's scope says who sends it."""

_LONG = {"golden", "label_times"}
"""Of a version's record, what no operator reads."""

_LEARNED = ("log_position", "verdict", "outcomes", "recent_loss", "reason", "at")
"""What of a learner's state says how a micro-batch went."""

_POLL_S = 0.002
_ROLES = ("replica", "trainer", "controller", "joiner", "supervisor", "host")


class RetrainRequest(BaseModel):
    """`wait_s`: how long to wait until every replica runs what was learned; 0 returns at once."""

    model_config = ConfigDict(extra="forbid")

    wait_s: float = Field(default=30.0, ge=0.0, le=600.0)


Handler = Callable[[Request], Awaitable[Response]]


def guarded(access: Access, handler: Handler, roles: frozenset[Role] = OPERATE, *, by_query: bool = False) -> Handler:
    """Return the handler for callers of these roles alone; a key for some models opens no route of another.

    Args:
        by_query: the query names the model, where the path does not.
    """

    async def checked(request: Request) -> Response:
        caller = access.expect(request.scope["headers"], roles)
        named = request.query_params.get("model") if by_query else request.path_params.get("model")
        caller.check_model(named or "*")  # what is about no model is about all of them
        request.scope[CALLER] = caller
        return await handler(request)

    return checked


class Operators:
    """The routes of the control plane, over one replica."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self.store = replica.store

    async def show_policy(self, request: Request) -> Response:
        snapshot = await self.store.snapshot(self.model(request))
        return _policy_answer(snapshot)

    async def set_policy(self, request: Request) -> Response:
        model = self.model(request)
        expected = request.headers.get("if-match", "").strip().removeprefix("W/").strip('"')
        epoch_expected = whole_number(expected)
        if epoch_expected is None:
            raise PreconditionRequired("send If-Match with the epoch that GET gave as ETag, so that no change is lost")
        wanted = await self.body(request, Policy)
        current = await self.store.snapshot(model)
        if current.epoch != epoch_expected:
            raise EpochConflict(model, epoch_expected, current.epoch)
        now = time()
        policy = revise(current.policy, wanted, now)
        return await self.install(
            model,
            current,
            Move(policy, "set", "", outline(current.policy), outline(policy), "an operator set the policy"),
            self.who(request),
        )

    async def install(
        self,
        model: str,
        current: Snapshot,
        move: Move,
        who: str,
        known: dict[str, Any] | None = None,
        *,
        force: bool = False,
    ) -> Response:
        """Install a change that was made of `current`; answer when every replica has it. `known` is its experiment's report.

        Args:
            force: promote a version that failed its gates, or passed others, or passed them too long ago.

        Raises:
            EpochConflict: the policy has been changed meanwhile.
            PolicyError: it pins a version that cannot be served, or promotes one that its gates do not let through.
        """
        await self._check_pins(model, move.policy, current.policy, force)
        if move.action == "promote" and not force and (why := await unproven_default(self.store, model, move.policy)):
            raise PolicyError(f"{why}; --force (in the body: force) promotes it all the same, and needs a why")
        self._check_targets(model, move.policy)
        rejected = await rejection(self.store, model, move)
        record = audit_of(model, move, who, time(), current.epoch + 1, known)
        epoch = await self.store.set_policy(model, move.policy, current.epoch, record, rejected)
        await self.applied(model, "epoch", epoch, deadline=monotonic() + 10.0)
        return _policy_answer(await self.store.snapshot(model))

    async def report(self, model: str, experiment: str) -> dict[str, Any] | None:
        """What is known of an experiment that runs."""
        _, state = await self.store.consumer(controller_consumer(model))
        return (json.loads(state) if state else {}).get("experiments", {}).get(experiment)

    @staticmethod
    def who(request: Request) -> str:
        """Whom a request comes from, for the record: its key's name; whoever has the token says it themselves."""
        caller: Caller = request.scope[CALLER]
        return caller.name if caller.key is not None else request.headers.get("x-operator", "operator")[:100]

    async def versions(self, request: Request) -> Response:
        last = whole_number(request.query_params.get("last", "20"))
        if last is None or not 1 <= last <= 10_000:
            raise Invalid("last: a number from 1 to 10000")
        versions = await self.store.versions(self.model(request), last)
        return answer({"versions": [version.model_dump(exclude=_LONG) for version in versions]})

    async def version(self, request: Request) -> Response:
        """One version's record: what it comes from."""
        number = whole_number(request.path_params["number"])
        if not number:
            raise Invalid("the version is a number, such as /versions/12")
        version = await self.store.version(self.model(request), number)
        return answer(version.model_dump(exclude=_LONG))

    async def retrain(self, request: Request) -> Response:
        """End the current micro-batch; answer when every replica runs what was learned from all labels before this call."""
        model, _ = await self._trainable(request)
        body = await read_body(request, 10_000)
        wanted = validate(RetrainRequest, body or b"{}")
        cut = pack_log(Cut("hand", time()))
        position, _ = await self.store.append([(log_stream(model), cut), (CONTROL, b"")])
        if not wanted.wait_s:
            return answer({"position": position, "verdict": "asked"}, 202)
        deadline = monotonic() + wanted.wait_s
        while True:
            look = self._replica.look
            learned, state = await self.store.consumer(learner_consumer(model))
            progress: dict[str, Any] = json.loads(state) if state else {}
            if progress and position_key(progress["log_position"]) >= position_key(position):
                break
            if monotonic() > deadline:
                raise TimedOut(f"the trainer of model '{model}' has not finished the micro-batch in {wanted.wait_s:g} s")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(look.wait(), 0.25)
        snapshot = await self.store.snapshot(model)
        await self.applied(model, "channel_seq", snapshot.channel_seq, deadline, learned)
        said = {name: progress[name] for name in _LEARNED if name in progress}
        return answer({"position": position, "version": snapshot.channels.get(f"{MAIN}@latest"), **said})

    async def show_schedule(self, request: Request) -> Response:
        _, record = await self._trainable(request)
        return answer(record.schedule.model_dump())

    async def set_schedule(self, request: Request) -> Response:
        model, record = await self._trainable(request)
        schedule = await self.body(request, Schedule)
        if unfit := record.schedule_error(schedule):
            raise SpecError(f"model '{model}': schedule: {unfit}")
        await self.store.set_schedule(model, schedule)
        return answer(schedule.model_dump())

    async def drift(self, request: Request) -> Response:
        """What its trainer found of drift: the newest alarms first, and how far the watching is."""
        model, record = await self._trainable(request)
        _, state = await self.store.consumer(learner_consumer(model))
        found: dict[str, Any] = (json.loads(state) if state else {}).get("drift", {})
        if wanted := found.get("retrain"):
            known = await answer_to(self.store, model, wanted["log_position"])
            found["retrain"] = wanted | {"version": known.number if known else None}
        return answer({"watched": record.drift is not None, **found})

    async def _trainable(self, request: Request) -> tuple[str, ModelRecord]:
        """Return the model of a request about learning; raises NotTrainable where it has no trainer."""
        model = self.model(request)
        record = (await self.store.models()).get(model)
        if record is None:  # it was removed a moment ago
            raise UnknownModel(model, [name for name in self._replica.models if name != model])
        if not record.trainable:
            raise NotTrainable(model)
        return model, record

    async def status(self, request: Request) -> Response:
        """The whole platform at a glance; with Redis away, what this replica knows."""
        replica = self._replica
        result: dict[str, Any] = {"away": replica.away, "models": {}} | {f"{role}s": [] for role in _ROLES}
        if not replica.control_away:
            reports = await self.store.reports()
            for role in _ROLES:
                told = (report for report in reports if report.role == role)
                result[f"{role}s"] = [report.model_dump(exclude={"metrics", "used"}) for report in told]
            records = await self.store.models()
            for name in replica.models.keys() & records.keys():
                result["models"][name] = await self._model_status(records[name])
        return answer(result)

    async def _model_status(self, record: ModelRecord) -> dict[str, Any]:
        model = record.name
        _, joined = await self.store.consumer(join_consumer(model))
        _, learned = await self.store.consumer(learner_consumer(model))
        snapshot = await self.store.snapshot(model)
        return {
            "epoch": snapshot.epoch,
            "channels": snapshot.channels,
            "join": json.loads(joined) if joined else {},
            "learner": json.loads(learned) if learned else {},
            "schedule": record.schedule.model_dump(),
            "trainable": record.trainable,
            "sources": record.labels.sources,
            **await at_a_glance(self.store, record.name),
        }

    async def applied(self, model: str, counter: str, wanted: int, deadline: float, outcomes: str = START) -> None:
        """Wait until every replica with a lease has applied a policy epoch or channel sequence, and its streaming features, if
        the model has any, hold the outcomes up to a position.

        Raises:
            TimedOut: naming the replicas that have not.
        """
        if outcomes != START and not any(one.over_outcomes for one in self.record(model).streaming):
            outcomes = START
        while True:
            behind: list[str] = []
            replicas = [report for report in await self.store.reports() if report.role == "replica"]
            for report in replicas:
                applied = report.applied.get(model)
                if applied is None or getattr(applied, counter) < wanted or _before(applied.outcomes, outcomes):
                    behind.append(f"{report.name} (pid {report.pid})")
            if not behind:
                return
            if monotonic() > deadline:
                raise TimedOut(f"the change is made, but these replicas have not applied it yet: {', '.join(behind)}")
            await asyncio.sleep(_POLL_S)

    async def _check_pins(self, model: str, policy: Policy, current: Policy, force: bool = False) -> None:
        before = {(variant.name, variant.version) for variant in current.variants}
        fresh = {one.version for one in policy.variants if one.version and (one.name, one.version) not in before}
        for number in sorted(fresh):
            try:
                version = await self.store.version(model, number)
                # Before its weights: of many that a gate refused none are kept, and it is the reason that tells.
                if version.status != "published" and not (force and not version.lineage.get("gates", {}).get("passed", True)):
                    raise PolicyError(f"a variant pins version {number}, which is {version.status}: {version.reason}")
                await self.store.weights(model, number)
            except NotFound as error:
                raise PolicyError(f"a variant pins version {number}: {error}") from error

    def _check_targets(self, model: str, policy: Policy) -> None:
        """Raises PolicyError where a rule asks for a feature that the model does not have."""
        known = [field.name for field in self.record(model).features.asked]
        for experiment in policy.experiments:
            for rule in (*experiment.target, *(rule for step in experiment.steps for rule in step.target or ())):
                if rule.by == "feature" and rule.name not in known:
                    there = ", ".join(known)
                    raise PolicyError(f"experiment '{experiment.name}': there is no feature '{rule.name}' among {there}")

    def record(self, model: str) -> ModelRecord:
        return self._replica.models[model].record

    def model(self, request: Request) -> str:
        model: str = request.path_params["model"]
        if model not in self._replica.models:
            raise UnknownModel(model, list(self._replica.models))
        return model

    @staticmethod
    async def body(request: Request, shape: type[Any]) -> Any:
        return validate(shape, await read_body(request, 1_000_000))


def _before(position: str, wanted: str) -> bool:
    return position_key(position) < position_key(wanted)


def validate(shape: type[Any], body: bytes) -> Any:
    try:
        return shape.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        path = place(first["loc"]) or "the body"
        kind = BadRequest if first["type"] == "json_invalid" else Invalid
        raise kind(f"{path}: {first['msg']}") from None


def _policy_answer(snapshot: Snapshot) -> Response:
    content = {"epoch": snapshot.epoch, "policy": snapshot.policy.model_dump(), "channels": snapshot.channels}
    return answer(content, headers={"etag": f'"{snapshot.epoch}"'})
