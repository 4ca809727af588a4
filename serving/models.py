"""What admins call to add and remove models while others are served.

Adding names a module, which then runs in a trainer: so only admins may, and only modules that the platform can import.
Nobody is told of a change: replicas, controllers, the joiner and the supervisor of trainers look at the models on record.
"""

import asyncio
import contextlib
from time import monotonic, time
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from starlette.requests import Request
from starlette.responses import Response

from serving.declaring import declared_apart
from serving.errors import InUse, Invalid, TimedOut, UnknownModel
from serving.http import answer
from serving.operators import Operators
from store.errors import EpochConflict, ModelExists, NotFound, SpecError
from store.lines import read_lines
from store.names import AUDIT, CONTROL
from store.policy import AuditRecord, Report
from store.protocols import position_key
from store.spec import ModelRecord

_SETTLED_S = 20.0
_POLL_S = 0.02
_FLAGS = {"true": True, "1": True, "false": False, "0": False}


class _Wanted(BaseModel):
    """A spec, or the name of a model that was removed."""

    model_config = ConfigDict(extra="forbid")

    spec: str = Field(default="", max_length=500)
    model: str = Field(default="", max_length=63)
    why: str = Field(default="", max_length=1000)

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if bool(self.spec) == bool(self.model):
            raise ValueError("'spec' (package.module:attribute) or 'model' (one that was removed), one of them")
        return self


class Models:
    """The routes on models as a whole, over one replica."""

    def __init__(self, operators: Operators) -> None:
        self._operators = operators
        self._store = operators.store
        self._turn = asyncio.Lock()

    async def show(self, _: Request) -> Response:
        records, reports = await self._store.models(), await self._store.reports()
        shown = [await self._shown(record, reports) for _, record in sorted(records.items())]
        removed = [
            {"model": name, "spec": one.record.source, "removed_at": one.at, "purging": one.purging}
            for name, one in sorted((await self._store.removed()).items())
        ]
        return answer({"models": shown, "removed": removed})

    async def add(self, request: Request) -> Response:
        """Put a model on record; its trainer, and replicas when it has a version, follow by themselves."""
        wanted: _Wanted = await self._operators.body(request, _Wanted)
        async with self._turn:  # each import takes a processor
            record = await self._declared(wanted)
        what = f"from {record.source}" if record.source else "without a trainer"
        await self._store.add(record, self._said(request, record.name, "add model", what, wanted.why))
        reports = await self._store.reports()
        return answer(await self._shown((await self._store.models())[record.name], reports), 201)

    async def remove(self, request: Request) -> Response:
        """Take a model out of service, and with `purge` its data out of the store; answer when nobody works on it any more."""
        model: str = request.path_params["model"]
        purge, force, why = _flag(request, "purge"), _flag(request, "force"), request.query_params.get("why", "")[:1000]
        known, kept = await self._store.models(), await self._store.removed()
        if model in known:
            await self._take_off(model, force, self._said(request, model, "remove model", "its data are kept", why))
        elif model not in kept:
            raise UnknownModel(model, list(known))
        elif not purge:
            raise NotFound(f"model '{model}' was removed already, and its data are kept: --purge drops them")
        await self._settled(model)
        if purge:
            await self._store.purge(model)
            await self._store.append([(AUDIT, self._said(request, model, "purge model", "its data are gone", why))])
        return answer({"model": model, "purged": purge})

    async def _declared(self, wanted: _Wanted) -> ModelRecord:
        """Return the record to add; raises SpecError, and ModelExists before anything is imported in vain."""
        if wanted.spec:
            return await asyncio.to_thread(declared_apart, wanted.spec)
        kept = (await self._store.removed()).get(wanted.model)
        if kept is None:
            if wanted.model in await self._store.models():
                raise ModelExists(wanted.model)
            raise NotFound(f"no model '{wanted.model}' was removed here; name a spec, package.module:attribute, to add one")
        record = kept.ready()
        if not record.source:
            return record
        declared = await asyncio.to_thread(declared_apart, record.source)
        if declared.name != record.name:
            raise SpecError(f"spec '{record.source}' now declares model '{declared.name}', not '{record.name}'")
        return declared

    async def _take_off(self, model: str, force: bool, said: bytes) -> None:
        """Take a model off the record; one whose policy has changed since it was looked at is looked at again.

        Raises:
            InUse: experiments run on it, and it is not to go by force.
        """
        while True:
            snapshot = await self._store.snapshot(model)
            running = ", ".join(f"'{experiment.name}'" for experiment in snapshot.policy.experiments)
            if running and not force:
                raise InUse(f"model '{model}' has experiments that run: {running}; stop them first, or remove it with --force")
            with contextlib.suppress(EpochConflict):
                await self._store.remove(model, said, None if force else snapshot.epoch)
                return

    async def _settled(self, model: str) -> None:
        """Wait until all who work on models have looked at them since now.

        Raises:
            TimedOut: naming those who have not.
        """
        position, deadline = await self._store.last(CONTROL), monotonic() + _SETTLED_S
        while True:
            # Trainers are ended by their supervisor; hosts only read, and are ended when replicas use them no more.
            reports = [report for report in await self._store.reports() if report.role not in ("trainer", "host")]
            behind = [
                f"{report.role} {report.name} (pid {report.pid})"
                for report in reports
                if position_key(report.seen or "0-0") < position_key(position)
            ]
            if not behind:
                return
            if monotonic() > deadline:
                raise TimedOut(f"model '{model}' is removed, but still at work in {', '.join(behind)}; its data are kept")
            await asyncio.sleep(_POLL_S)

    async def _shown(self, record: ModelRecord, reports: list[Report]) -> dict[str, Any]:
        name = record.name
        replicas = [report for report in reports if report.role == "replica"]
        trainer = next((one for one in reports if one.name == f"trainer:{name}"), None)
        snapshot = await self._store.snapshot(name)
        serving = [one for one in replicas if name in one.applied and snapshot.policy.default in one.applied[name].versions]
        newest = await self._store.versions(name, 1)
        return {
            "model": name,
            "spec": record.source,
            "objective": record.objective,
            "trainable": record.trainable,
            "way": taken.name if (taken := (await read_lines(self._store, name)).main) is not None else None,
            "loaded": record.loaded,
            "version": newest[0].number if newest else None,
            "experiments": [experiment.name for experiment in snapshot.policy.experiments],
            "limits": record.limits.model_dump(exclude_none=True),
            "replicas": {"serving": len(serving), "of": len(replicas)},
            "trainer": {"pid": trainer.pid, "problem": trainer.away.get("trainer", "")} if trainer is not None else None,
        }

    def _said(self, request: Request, model: str, action: str, after: str, why: str) -> bytes:
        who = self._operators.who(request)
        said = AuditRecord(at=time(), who=who, model=model, action=action, after=after, why=why)
        return said.model_dump_json().encode()


def _flag(request: Request, name: str) -> bool:
    text = request.query_params.get(name, "false").lower()
    if text not in _FLAGS:
        raise Invalid(f"{name}: true or false, not '{text[:80]}'")
    return _FLAGS[text]
