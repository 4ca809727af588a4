"""A model from elsewhere becomes a version: the route that takes the file, has it examined apart, and publishes it."""

import asyncio
import contextlib
import re
from time import monotonic, time
from typing import Any, get_args

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from serving.errors import BadRequest, Invalid
from serving.foreign.question import Examined, Question
from serving.foreign.sandbox import examine_apart
from serving.http import Room, answer, read_body
from serving.operators import Operators
from store.errors import Conflict, Fenced
from store.names import compressed_line, import_consumer
from store.policy import MAIN, AuditRecord, Policy, Variant
from store.protocols import NUMBER, Advance, Version
from store.publishing import following, publish_answered
from store.spec import MODEL_NAME, ModelRecord, Objective

LINE = "imported"
_APPLIED_S = 15.0
_LINE_NAME = re.compile(MODEL_NAME.pattern)
_PARAMETERS = ("line", "output", "objective", "classes", "why")
_LONGEST = 1000
_SMALLER = "export a smaller model, or raise TIDEMILL_MAX_IMPORT_BYTES"
_Made = tuple[ModelRecord | None, Examined, Version]
"""What was on record before, what the file is good for, and the version that it has become."""


class Imports:
    """One import at a time, of those whose files have come: each takes a processor. Of large files, memory has room for one
    and as much again of those that come or wait."""

    def __init__(self, operators: Operators, max_bytes: int) -> None:
        self._operators = operators
        self._store = operators.store
        self._max_bytes = max_bytes
        self._turn = asyncio.Lock()
        self._room = Room(2 * max_bytes)

    async def create(self, request: Request) -> Response:
        """Publish the ONNX file that is the body; answer with its version's number when every replica knows of it."""
        name: str = request.path_params["model"]
        line, question = _asked(name, request)
        # Whoever asked may go away: what has begun is ended all the same, and nobody else begins before that.
        known, examined, version = await asyncio.shield(await self._begun(question, line, request))
        snapshot = await self._store.snapshot(name)
        if known is None or known.loaded:
            await self._operators.applied(name, "channel_seq", snapshot.channel_seq, monotonic() + _APPLIED_S)
        answers = [one.name for one in snapshot.policy.variants if snapshot.resolve(one) == version.number]
        return answer(_described(examined.record, version, answers, new=known is None, said=examined.said), 201)

    async def _begun(self, question: Question, line: str, request: Request) -> asyncio.Task[_Made]:
        """Return the work on the file that is the body, which has its turn, and keeps it and its room until it is done."""
        with contextlib.ExitStack() as held:
            take = held.enter_context(self._room.held())
            content = await read_body(request, self._max_bytes, _SMALLER, take)
            await self._turn.acquire()
            held.callback(self._turn.release)
            if await request.is_disconnected():
                raise ClientDisconnect
            work = asyncio.create_task(self._made(content, question, line, request))
            kept = held.pop_all()
            work.add_done_callback(lambda _: kept.close())
        return work

    async def _made(self, content: bytes, question: Question, line: str, request: Request) -> _Made:
        name, claim = question.name, import_consumer(question.name)
        at, _ = await self._store.consumer(claim)
        known = (await self._store.models()).get(name)
        if known is None and name in await self._store.removed():
            raise Invalid(
                f"model '{name}' was removed and its data are kept: 'tidemill model add {name}' brings it back, "
                f"'tidemill model remove {name} --purge' drops them"
            )
        if line in (MAIN, compressed_line(MAIN)) and (known is None or known.trainable):
            raise Invalid(f"line: '{line}' is the trainer's; name another, such as {LINE}")
        examined = await asyncio.to_thread(examine_apart, content, question.model_copy(update={"record": known}))
        if known is None:
            await self._claim(name, Advance(claim, at, following(at)))
        return known, examined, await self._publish(known, examined, line, request)

    async def _claim(self, name: str, step: Advance) -> None:
        """Let one import alone make a new model: another replica may have one of that name, with other features, at work.

        Raises:
            Conflict: another one has made it meanwhile.
        """
        with contextlib.suppress(Fenced):
            await self._store.advance(step, [])
            if name not in await self._store.models():
                return
        raise Conflict(f"another import has made model '{name}' meanwhile: look at it, and send this one again")

    async def _publish(self, known: ModelRecord | None, examined: Examined, line: str, request: Request) -> Version:
        record, why = examined.record, request.query_params.get("why", "")
        said = AuditRecord(
            at=time(),
            who=self._operators.who(request),
            model=record.name,
            action="import",
            after=f"version {NUMBER} of line '{line}'",
            why=why or "an operator imported it",
            epoch=(await self._store.snapshot(record.name)).epoch,
        )
        audit = said.model_dump_json().encode()
        version = await publish_answered(
            self._store,
            record.name,
            examined.graph,
            examined.weights,
            examined.scores,
            line,
            examined.lineage | {"why": why},
            record.digest,
            audit=audit if known is not None else b"",
        )
        if known is None:
            await self._serve(record, line, audit.replace(NUMBER.encode(), str(version.number).encode()))
        return version

    async def _serve(self, record: ModelRecord, line: str, audit: bytes) -> None:
        """Put a new model on record, last of all: whoever is killed before leaves nothing that anybody looks at."""
        epoch = (await self._store.snapshot(record.name)).epoch
        await self._store.set_policy(record.name, Policy(variants=(Variant(name=MAIN, line=line),)), epoch)
        await self._store.add(record, audit)


def _asked(name: str, request: Request) -> tuple[str, Question]:
    """Return the line and what is asked of the file; raises Invalid, naming the parameter."""
    if not MODEL_NAME.fullmatch(name):
        raise Invalid(f"model name '{name[:80]}': use lower-case letters, digits, '.', '_' and '-', at most 63")
    if (encoding := request.headers.get("content-encoding", "identity").strip().lower()) not in ("", "identity"):
        raise BadRequest(f"Content-Encoding '{encoding[:80]}': send the ONNX file as it is")
    given = dict(request.query_params)
    if unknown := [key for key in given if key not in _PARAMETERS]:
        raise Invalid(f"there is no parameter '{unknown[0][:80]}': there are {', '.join(_PARAMETERS)}")
    if long := [key for key, value in given.items() if len(value) > _LONGEST]:
        raise Invalid(f"{long[0]}: at most {_LONGEST} characters")
    line = given.get("line", LINE)
    if not _LINE_NAME.fullmatch(line):
        raise Invalid(f"line '{line[:80]}': use lower-case letters, digits, '.', '_' and '-', at most 63")
    objective: Any = given.get("objective") or None
    if objective not in (None, *get_args(Objective)):
        raise Invalid(f"objective '{objective[:80]}': one of {', '.join(get_args(Objective))}")
    classes = tuple(part.strip() for part in given.get("classes", "").split(",") if part.strip())
    return line, Question(name=name, output=given.get("output", ""), objective=objective, classes=classes)


def _described(
    record: ModelRecord, version: Version, answers: list[str], *, new: bool, said: tuple[str, ...]
) -> dict[str, Any]:
    return {
        "model": record.name,
        "version": version.number,
        "line": version.line,
        "new": new,
        "trainable": record.trainable,
        "objective": record.objective,
        "features": [field.model_dump(include={"name", "kind", "length"}) for field in record.features.fields],
        "answers": answers,
        "said": said,
        "lineage": version.lineage,
    }
