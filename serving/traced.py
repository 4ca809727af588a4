"""Predictions with their spans. These parts stand in for the plain ones where traces are on, which therefore know nothing of
them, and cost what they always did, where traces are off.

    POST /models/{model}/predict      continues the caller's trace
    ├── read                          the body, checked and planned
    ├── arm                           each run of a version; current while it lasts, so that a hop to elsewhere continues it
    └── log                           until the prediction is on disk
"""

import asyncio
import math
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from serving.arms import Arms
from serving.commit import GroupCommit
from serving.hosted import Answered, Asked, Hosted, Live, State
from serving.http import IDS, REFUSED
from store import tracing
from store.schema import Row

if TYPE_CHECKING:
    from serving.operators import Handler

MOST_IDS = 32
"""Ids of predictions that a span of a request names."""

_W3C = {name.encode(): name for name in tracing.W3C}


def traced(handler: "Handler", path: str) -> "Handler":
    """Return a handler whose work is a span, inside the trace that the request names."""

    async def spanned(request: Request) -> Response:
        scope = request.scope
        carried = {_W3C[name]: value.decode("latin-1") for name, value in scope["headers"] if name in _W3C}
        about: dict[str, tracing.Value] = {"http.request.method": request.method, "http.route": path}
        if model := request.path_params.get("model"):
            about["tidemill.model"] = model
        with tracing.continued(carried), tracing.span(f"{request.method} {path}", about, server=True) as span:
            try:
                response = await handler(request)
            finally:
                span.set_attributes(_predictions(scope.get(IDS, ())))
            span.set_attributes({"http.response.status_code": response.status_code})
            error = scope.get(REFUSED)
            if error is not None and response.status_code >= 500:
                span.fail(error)
            elif error is not None:  # the caller's own mistake is no failure of this side
                span.set_attributes({"error.type": type(error).__name__})
        return response

    return spanned


def _predictions(ids: list[str]) -> dict[str, tracing.Value]:
    if not ids:
        return {}
    about: dict[str, tracing.Value] = {"tidemill.prediction_id": ids[0], "tidemill.instances": len(ids)}
    return about if len(ids) == 1 else about | {"tidemill.prediction_ids": ids[:MOST_IDS]}


class TracedArms(Arms):
    async def answer(self, hosted: Hosted, state: State, asked: Asked, until: float = math.inf) -> Answered:
        name = hosted.record.name
        tracing.past("read", asked.at, {"tidemill.model": name, "tidemill.instances": len(asked.ids)})
        return await super().answer(hosted, state, asked, until)

    async def run(
        self, hosted: Hosted, variant: str, live: Live, rows: list[Row], on_trial: bool, until: float = math.inf
    ) -> tuple[np.ndarray, float]:
        about: dict[str, tracing.Value] = {
            "tidemill.model": hosted.record.name,
            "tidemill.variant": variant,
            "tidemill.version": live.number,
            "tidemill.rows": len(rows),
        }
        with tracing.span("arm", about):
            return await super().run(hosted, variant, live, rows, on_trial, until)


class TracedCommit(GroupCommit):
    def submit(self, stream: str, *payloads: bytes) -> "asyncio.Future[None]":
        landed = super().submit(stream, *payloads)
        span = tracing.begun("log", {"tidemill.log.stream": stream, "tidemill.log.entries": len(payloads)})
        if span is not None:
            landed.add_done_callback(partial(_landed, span))
        return landed


def _landed(span: tracing.Begun, landed: "asyncio.Future[None]") -> None:
    span.end(asyncio.CancelledError() if landed.cancelled() else landed.exception())
