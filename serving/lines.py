"""What operators call about lines: show them, add one, retire one, make one main."""

from collections.abc import Mapping
from functools import partial
from time import monotonic, time
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from router.lines import Compared, compare
from router.succession import succeed, users
from serving.errors import InUse, Invalid, NotTrainable
from serving.http import answer, read_body
from serving.line_progress import progress
from serving.operators import Operators, validate
from serving.promotion import unproven
from store.errors import EpochConflict
from store.lines import Line, Lines, added, change_lines, planned_line, read_lines
from store.policy import MAIN, AuditRecord
from store.promoting import promote_line
from store.protocols import Version
from store.search import Way
from store.spec import ModelRecord

_NEWEST = 2000
"""Versions, of all lines, over which lines are compared."""

_TRIES = 20


class _NewLine(BaseModel):
    """`learning` and `shape`: settings in place of main's own. `start`: main, another line, a version's number, or scratch.
    `instead`: it takes the place of the active line of its name."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(max_length=100)
    start: str = Field(default=MAIN, max_length=100)
    learning: dict[str, Any] = {}
    shape: dict[str, Any] = {}
    instead: bool = False
    why: str = Field(default="", max_length=1000)


class _Reason(BaseModel):
    """`force`: make main what gates do not let through."""

    model_config = ConfigDict(extra="forbid")

    why: str = Field(default="", max_length=1000)
    force: bool = False


class LineRoutes:
    """The routes of a model's lines, over one replica."""

    def __init__(self, operators: Operators) -> None:
        self._operators = operators
        self._store = operators.store

    async def show(self, request: Request) -> Response:
        record = self._record(request)
        lines, versions = await read_lines(self._store, record.name), await self._store.versions(record.name, _NEWEST)
        main = {"line": lines.main.name if lines.main is not None else None, **lines.way(record).model_dump(mode="json")}
        shown = [await self._shown(record, lines, line, versions) for line in lines.lines]
        return answer({"model": record.name, "main": main, "lines": shown})

    async def add(self, request: Request) -> Response:
        """Put a line on record; its learner follows by itself."""
        record = self._record(request)
        wanted: _NewLine = await self._operators.body(request, _NewLine)
        now, who = time(), self._operators.who(request)
        planned = await planned_line(self._store, record, wanted.name, wanted.start, wanted.learning, wanted.shape)
        line = planned.model_copy(update={"at": now, "who": who, "why": wanted.why})
        before = await read_lines(self._store, record.name)
        said = AuditRecord(
            at=now, who=who, model=record.name, action="replace line" if wanted.instead else "add line", why=wanted.why,
            after=f"line '{line.name}' begins with {_words(line.start)}: {_told(_settings(line.way, before.way(record)))}",
        )  # fmt: skip
        change = partial(added, line=line, instead=wanted.instead)
        lines = await change_lines(self._store, record.name, change, said.model_dump_json().encode())
        return answer(await self._shown(record, lines, lines.expect(line.name), []), 201)

    async def act(self, request: Request) -> Response:
        action, reason = request.path_params["action"], await self._reason(request)
        if action == "retire":
            return await self._retire(request, reason.why)
        if action != "promote":
            raise Invalid(f"no action '{action[:40]}': retire or promote")
        return await self.promote(request, request.path_params["name"], reason.why, force=reason.force)

    async def promote(self, request: Request, name: str, why: str, *, force: bool = False) -> Response:
        """Make a line main, and let what followed it follow main; answer when every replica has it.

        Raises:
            NotFound, LineError: it cannot be.
            PolicyError: the policy's experiments do not allow it; nothing has happened then.
        """
        record = self._record(request)
        model, who = record.name, self._operators.who(request)
        lines, snapshot = await read_lines(self._store, model), await self._store.snapshot(model)
        line, versions = lines.expect(name), await self._store.versions(model, _NEWEST)
        move = succeed(snapshot.policy, name, 1, why, time())
        experiment = move.experiment if move is not None else ""
        compared = compare(versions, name, line.born)
        evidence = {"line": name, "settings": _settings(line.way, lines.way(record))} | _plain(compared)
        version = await promote_line(
            self._store, model, name, who=who, why=why, experiment=experiment,
            report=await self._operators.report(model, experiment), evidence=[evidence],
            check=None if force else partial(_problem, record),
        )  # fmt: skip
        await self.follow(request, name, version.number, why)
        counter = (await self._store.snapshot(model)).channel_seq
        await self._operators.applied(model, "channel_seq", counter, monotonic() + 10.0)
        return answer({"model": model, "line": name, "version": version.number, "parent": version.parent, **_plain(compared)})

    async def follow(self, request: Request, name: str, version: int, why: str) -> None:
        """Let what followed a line that became main follow main."""
        model = self._operators.model(request)
        for attempt in range(_TRIES):
            snapshot = await self._store.snapshot(model)
            move = succeed(snapshot.policy, name, version, why or f"line {name} became main", time())
            if move is None:
                return
            try:
                known = await self._operators.report(model, move.experiment)
                await self._operators.install(model, snapshot, move, self._operators.who(request), known, force=True)
            except EpochConflict:
                if attempt == _TRIES - 1:
                    raise
                continue
            return

    async def _retire(self, request: Request, why: str) -> Response:
        """End a line; its versions stay, and no more come.

        Raises:
            InUse: somebody is answered by it.
        """
        record, name, now = self._record(request), request.path_params["name"], time()
        (await read_lines(self._store, record.name)).expect(name)
        if found := users((await self._store.snapshot(record.name)).policy, name):
            raise InUse(f"line '{name}' cannot be retired while {', '.join(found)} follows it: end that first")
        said = AuditRecord(
            at=now, who=self._operators.who(request), model=record.name, action="retire line", why=why,
            before=f"line '{name}' learned beside '{MAIN}'",
            evidence=(await self._evidence(record.name, name),),
        )  # fmt: skip

        def retired(lines: Lines) -> Lines:
            return lines.ended(lines.expect(name), "retired", now)

        lines = await change_lines(self._store, record.name, retired, said.model_dump_json().encode())
        [line] = [one for one in lines.lines if one.name == name]
        return answer(await self._shown(record, lines, line, await self._store.versions(record.name, _NEWEST)))

    async def _evidence(self, model: str, name: str) -> dict[str, Any]:
        line = (await read_lines(self._store, model)).expect(name)
        return {"line": name} | _plain(compare(await self._store.versions(model, _NEWEST), name, line.born))

    async def _shown(self, record: ModelRecord, lines: Lines, line: Line, versions: list[Version]) -> dict[str, Any]:
        told = line.model_dump(mode="json") | {"settings": _settings(line.way, lines.way(record))}
        return told | await progress(self._store, record.name, line) | _plain(compare(versions, line.name, line.born))

    def _record(self, request: Request) -> ModelRecord:
        record = self._operators.record(self._operators.model(request))
        if not record.trainable:
            raise NotTrainable(record.name)
        return record

    @staticmethod
    async def _reason(request: Request) -> _Reason:
        reason: _Reason = validate(_Reason, await read_body(request, 10_000) or b"{}")
        if reason.force and not reason.why.strip():
            raise Invalid("force needs a why, for the record")
        return reason


def _problem(record: ModelRecord, version: Version) -> str:
    return unproven(record, version, time())


def _plain(compared: Compared | None) -> dict[str, Any]:
    return {"compared": compared.plain() if compared is not None else None}


def _settings(way: Way, main: Way) -> dict[str, Any]:
    """In what a way of learning is another than main's."""
    mine, theirs = (one.model_dump(mode="json") for one in (way, main))
    pairs = ((name, value, theirs[part][name]) for part in ("shape", "learning") for name, value in mine[part].items())
    return {name: value for name, value, other in pairs if value != other}


def _told(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items()) or "main's own way"


def _words(start: str) -> str:
    return f"version {start}" if start.isdecimal() else start
