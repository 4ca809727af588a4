"""What operators call about experiments: start them, read them, move them; promote a version; read who decided what."""

import asyncio
import json
from collections import Counter, deque
from collections.abc import Callable
from functools import partial
from time import time
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from router import revise
from router.off_policy import OffPolicy
from router.report import forecast
from router.rollout import Move, candidate, described, pause, promote, resume, roll_back, stop
from serving.errors import Invalid
from serving.http import answer, read_body, whole_number
from serving.lines import LineRoutes
from serving.operators import Operators, validate
from store.errors import EpochConflict, NotFound, PolicyError
from store.lines import Line, read_lines
from store.names import AUDIT, controller_consumer, outcome_stream
from store.policy import MAIN, AuditRecord, Experiment, Policy, Variant
from store.protocols import START, Entry
from store.records import Outcome, Outcomes, unpack_outcomes

_TRIES = 20
_MOST_ENTRIES = 200_000
_FORECAST_OUTCOMES = 20_000
_ACTIONS: dict[str, Callable[..., Move]] = {"stop": stop, "pause": pause, "resume": resume}


class NewExperiment(BaseModel):
    """An experiment, and the variants that it needs and the policy does not have yet."""

    model_config = ConfigDict(extra="forbid")

    experiment: Experiment
    variants: tuple[Variant, ...] = ()


class Reason(BaseModel):
    """Why, for the record. `arm` names one where an experiment has several; `force`: promote what gates do not let through."""

    model_config = ConfigDict(extra="forbid")

    why: str = Field(default="", max_length=1000)
    arm: str = Field(default="", max_length=64)
    force: bool = False


class Experiments:
    """The routes of experiments, over one replica. Each change is made of the policy as it is, and tried again where somebody
    else was faster; all are on record."""

    def __init__(self, operators: Operators, lines: LineRoutes) -> None:
        self._operators, self._lines = operators, lines
        self._store = operators.store

    async def show_all(self, request: Request) -> Response:
        model = self._operators.model(request)
        snapshot = await self._store.snapshot(model)
        reports = (await self._reports(model)).get("experiments", {})
        rows = [
            {"experiment": one.name, "kind": one.kind, "status": one.progress.status, "report": reports.get(one.name)}
            for one in snapshot.policy.experiments
        ]
        return answer({"experiments": rows})

    async def show(self, request: Request) -> Response:
        """The report of a running experiment, or what was decided of one that ended."""
        model, name = self._operators.model(request), request.path_params["name"]
        content = await self._reports(model)
        decisions = [record.model_dump() for record in await self._audit(model, 1000) if record.experiment == name]
        snapshot = await self._store.snapshot(model)
        running = next((one for one in snapshot.policy.experiments if one.name == name), None)
        # Of one that ended, what was known when it did.
        known = next((one["report"] for one in decisions if one["report"]), None)
        report = content.get("experiments", {}).get(name) if running else known
        if running is None and not decisions:
            raise NotFound(f"model '{model}' has no experiment '{name[:80]}' and never had")
        content = {"experiment": name, "running": running is not None, "report": report, "decisions": decisions[:50]}
        if running is not None and running.kind == "shadow":
            content["shadow_queue"] = await self._shadow_queue()
        return answer(content)

    async def create(self, request: Request) -> Response:
        wanted: NewExperiment = await self._operators.body(request, NewExperiment)

        def added(policy: Policy, now: float) -> Move:
            if any(one.name == wanted.experiment.name for one in policy.experiments):
                raise PolicyError(f"an experiment is named '{wanted.experiment.name}' already")
            variants = {variant.name: variant for variant in policy.variants}
            for variant in wanted.variants:
                if variants.setdefault(variant.name, variant) != variant:
                    raise PolicyError(f"variant '{variant.name}' is there already, and is another")
            update = {"variants": tuple(variants.values()), "experiments": (*policy.experiments, wanted.experiment)}
            changed = revise(policy, policy.model_copy(update=update), now)
            name = wanted.experiment.name
            return Move(changed, "enter", name, "", described(changed, name), "an operator started it")

        return await self._change(request, added)

    async def forecast(self, request: Request) -> Response:
        """How long an experiment is likely to take that has not begun: by the newest outcomes."""
        model = self._operators.model(request)
        wanted: NewExperiment = await self._operators.body(request, NewExperiment)
        outcomes: deque[Outcome] = deque(maxlen=_FORECAST_OUTCOMES)
        after = START
        while entries := await self._store.read(outcome_stream(model), after, 1000):
            for record in await asyncio.to_thread(_outcomes, entries):
                outcomes.extend(outcome for outcome in record if outcome.final)
            after = entries[-1].position
        record = self._operators.record(model)
        return answer(await asyncio.to_thread(forecast, wanted.experiment, record, list(outcomes)))

    async def act(self, request: Request) -> Response:
        name, action = request.path_params["name"], request.path_params["action"]
        reason = await self._reason(request)
        why = reason.why or "an operator asked for it"
        if action == "promote":
            if (won := await self._line(request, name, reason.arm)) is not None:
                return await self._promoted(request, won, why, force=reason.force)
            promoted = partial(promote, name=name, why=why, arm=reason.arm)
            return await self._change(request, lambda policy, now: promoted(policy, now=now), force=reason.force)
        if action == "rollback":
            return await self._change(request, lambda policy, now: roll_back(policy, name, reason.arm, why, now))
        if action not in _ACTIONS:
            raise NotFound(f"no action '{action[:40]}': one of {', '.join((*_ACTIONS, 'promote', 'rollback'))}")
        return await self._change(request, lambda policy, now: _ACTIONS[action](policy, name, why, now))

    async def _line(self, request: Request, name: str, arm: str) -> Line | None:
        """The line that an experiment's winner follows, where it learns beside main or has just become main."""
        model = self._operators.model(request)
        winner = candidate((await self._store.snapshot(model)).policy, name, arm)
        lines = () if winner.version is not None else (await read_lines(self._store, model)).lines
        return next((line for line in lines if line.name == winner.line and line.status != "retired"), None)

    async def _promoted(self, request: Request, won: Line, why: str, *, force: bool) -> Response:
        model = self._operators.model(request)
        if won.status == "active":
            await self._lines.promote(request, won.name, why, force=force)
        else:  # it was made main, and whoever did it came no further
            newest = (await self._store.snapshot(model)).channels[f"{MAIN}@latest"]
            await self._lines.follow(request, won.name, newest, why)
        return await self._operators.show_policy(request)

    async def promote_version(self, request: Request) -> Response:
        """Pin the default arm to a version at once."""
        number = whole_number(request.path_params["number"])
        if not number:
            raise Invalid("the version is a number, such as /versions/12/promote")
        reason = await self._reason(request)

        def pinned(policy: Policy, now: float) -> Move:
            default = policy.variant(policy.default)
            moved = default.model_copy(update={"version": number})
            variants = tuple(moved if variant.name == default.name else variant for variant in policy.variants)
            changed = revise(policy, policy.model_copy(update={"variants": variants}), now)
            before = f"version {default.version}" if default.version else f"line {default.line}"
            why = reason.why or "an operator asked for it"
            return Move(changed, "promote", "", f"'{default.name}' is {before}", f"'{default.name}' is version {number}", why)

        return await self._change(request, pinned, force=reason.force)

    async def off_policy(self, request: Request) -> Response:
        """What a variant would have earned on all the traffic whose outcomes are kept."""
        model, variant = self._operators.model(request), request.path_params["variant"]
        metric = request.query_params.get("metric", "label")
        if metric not in ("label", "loss"):
            raise Invalid("metric: label or loss")
        study = OffPolicy(self._operators.record(model), variant, metric)
        after, read = START, 0
        while read < _MOST_ENTRIES and (entries := await self._store.read(outcome_stream(model), after, 1000)):
            # Unpacking a year of outcomes is not for the loop that answers predictions.
            await asyncio.to_thread(_book, study, entries)
            after, read = entries[-1].position, read + len(entries)
        return answer(await asyncio.to_thread(study.estimates))

    async def audit(self, request: Request) -> Response:
        last = whole_number(request.query_params.get("last", "100"))
        if last is None or not 1 <= last <= 10_000:
            raise Invalid("last: a number from 1 to 10000")
        records = await self._audit(request.query_params.get("model", ""), last)
        return answer({"audit": [record.model_dump() for record in records]})

    async def _change(self, request: Request, make: Callable[[Policy, float], Move], *, force: bool = False) -> Response:
        model = self._operators.model(request)
        for attempt in range(_TRIES):
            snapshot = await self._store.snapshot(model)
            move = make(snapshot.policy, time())
            try:
                known = await self._operators.report(model, move.experiment)
                who = self._operators.who(request)
                return await self._operators.install(model, snapshot, move, who, known, force=force)
            except EpochConflict:
                if attempt == _TRIES - 1:
                    raise
        raise AssertionError("unreachable")

    async def _reason(self, request: Request) -> Reason:
        reason: Reason = validate(Reason, await read_body(request, 10_000) or b"{}")
        if reason.force and not reason.why.strip():
            raise Invalid("force needs a why, for the record")
        return reason

    async def _reports(self, model: str) -> dict[str, Any]:
        _, state = await self._store.consumer(controller_consumer(model))
        return json.loads(state) if state else {}

    async def _shadow_queue(self) -> dict[str, int]:
        """What became of requests' shadows, over all replicas since each began."""
        counts: Counter[str] = Counter({"scored": 0, "failed": 0, "dropped": 0})
        for report in await self._store.reports():
            counts.update(report.counters.get("shadows", {}))
        return dict(counts)

    async def _audit(self, model: str, last: int) -> list[AuditRecord]:
        """The newest records, newest first; of one model, or with an empty name of all."""
        records: list[AuditRecord] = []
        after = START
        while entries := await self._store.read(AUDIT, after, 1000):
            records += [AuditRecord.model_validate_json(entry.payload) for entry in entries]
            after = entries[-1].position
        return [record for record in records[::-1] if not model or record.model == model][:last]


def _book(study: OffPolicy, entries: list[Entry]) -> None:
    for outcomes in _outcomes(entries):
        study.add(outcomes)


def _outcomes(entries: list[Entry]) -> list[list[Outcome]]:
    records = [unpack_outcomes(entry.payload) for entry in entries]
    return [record.outcomes for record in records if isinstance(record, Outcomes)]
