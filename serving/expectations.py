"""What operators call about expectations of features: what they are, what violated them, other ones."""

import json
from time import time
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from serving.errors import NotTrainable, PreconditionRequired
from serving.http import answer, whole_number
from serving.operators import Operators
from store.expectations import Expectation, Expectations, read_expectations, write_expectations
from store.names import profile_consumer
from store.policy import AuditRecord


class _Wanted(BaseModel):
    """`expectations` in place of all that there are."""

    model_config = ConfigDict(extra="forbid")

    expectations: tuple[Expectation, ...] = Field(max_length=20_000)
    why: str = Field(default="", max_length=1000)


class ExpectationRoutes:
    """The routes of a model's expectations, over one replica. A change is known to every replica within two seconds."""

    def __init__(self, operators: Operators) -> None:
        self._operators = operators
        self._store = operators.store

    async def show(self, request: Request) -> Response:
        model = self._operators.model(request)
        return await self._answer(model, await read_expectations(self._store, model))

    async def edit(self, request: Request) -> Response:
        """Replace them by others, which no inference changes.

        Raises:
            RevisionConflict: they were changed since they were read.
            SchemaError: they are not about this model's features.
        """
        model = self._operators.model(request)
        expected = whole_number(request.headers.get("if-match", "").strip().removeprefix("W/").strip('"'))
        if expected is None:
            raise PreconditionRequired("send If-Match with the revision that GET gave as ETag, so that no change is lost")
        wanted: _Wanted = await self._operators.body(request, _Wanted)
        edited = Expectations(expectations=wanted.expectations, origin="edited", at=time(), who=self._operators.who(request))
        edited.check(self._operators.record(model).features)
        return await self._change(request, model, edited, expected, wanted.why)

    async def infer(self, request: Request) -> Response:
        """Drop them, edited or not: the trainer infers others, at once where it has learned enough."""
        model = self._operators.model(request)
        if not self._operators.record(model).trainable:
            raise NotTrainable(model)
        current = await read_expectations(self._store, model)
        dropped = Expectations(at=time(), who=self._operators.who(request))
        return await self._change(request, model, dropped, current.revision, request.query_params.get("why", "")[:1000])

    async def _change(self, request: Request, model: str, wanted: Expectations, expected: int, why: str) -> Response:
        before = await read_expectations(self._store, model)
        said = AuditRecord(
            at=wanted.at, who=wanted.who, model=model, action="expectations", before=_outline(before), after=_outline(wanted),
            why=why,
        )  # fmt: skip
        new = await write_expectations(self._store, model, wanted, expected, said.model_dump_json().encode())
        return await self._answer(model, new)

    async def _answer(self, model: str, current: Expectations) -> Response:
        _, profile = await self._store.consumer(profile_consumer(model))
        content: dict[str, Any] = {
            "model": model,
            **current.model_dump(exclude={"expectations"}),
            "expectations": [one.model_dump(exclude_defaults=True) for one in current.expectations],
            "violated": await self._violated(model, current.revision),
            "profiled": json.loads(profile)["profiled"] if profile else 0,
        }
        return answer(content, headers={"etag": f'"{current.revision}"'})

    async def _violated(self, model: str, revision: int) -> list[dict[str, Any]]:
        """Return what replicas have counted since they know this revision, all together, most often first."""
        found: dict[tuple[str, str], dict[str, Any]] = {}
        for report in await self._store.reports():
            told = report.counters.get("expectations", {}).get(model, {})
            for one in told.get("violated", ()) if told.get("revision") == revision else ():
                known = found.setdefault((one["feature"], one["kind"]), one | {"violations": 0})
                newer = one if one["last_seen"] > known["last_seen"] else known
                found[one["feature"], one["kind"]] = newer | {"violations": known["violations"] + one["violations"]}
        return sorted(found.values(), key=lambda one: -one["violations"])


def _outline(expectations: Expectations) -> str:
    count = len(expectations.expectations)
    refusing = sum(one.action == "refuse" for one in expectations.expectations)
    what = "to be inferred" if expectations.awaited else f"{count} {expectations.origin}"
    return what + (f", {refusing} of them refuse" if refusing else "")
