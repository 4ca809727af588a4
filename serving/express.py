"""The short way in: predictions go from a replica's HTTP server straight to its application.

Serve wraps every request of its own into tasks and contexts; that is two thirds of the time of a small prediction. Serve
lets middleware stand before all that, in the replica's process, and this one answers what it can: the deployment's
other routes, and every request in a process that has no application, such as Serve's own proxy, go on to Serve.
"""

import asyncio

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.config import HTTP_PROTOCOLS

IMPORT_PATH = "serving.express:middleware"
"""What `RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH` is to name."""

WHOLE = "tidemill.whole"
"""Where a request's scope has its body, if all of it is here already."""

_open: dict[asyncio.AbstractEventLoop, ASGIApp] = {}


def enter(application: ASGIApp) -> None:
    """From now on the predictions that come to this event loop's server are answered by `application`."""
    _open[asyncio.get_running_loop()] = application


def leave() -> None:
    _open.pop(asyncio.get_running_loop(), None)


def application(loop: asyncio.AbstractEventLoop) -> ASGIApp | None:
    """Return what answers the predictions that come to this loop's server, None where nothing does."""
    return _open.get(loop)


def is_prediction(scope: Scope) -> bool:
    """Whether a request asks for a prediction: these are the hot routes."""
    if scope["type"] != "http" or scope["method"] != "POST":
        return False
    path: str = scope["path"]
    if path.startswith("/models/"):
        return path.endswith(("/predict", "/rank"))
    return path.startswith("/v2/models/") and path.endswith("/infer")


class Express:
    """Takes the predictions; `app` is Serve's way for the rest."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answers = application(asyncio.get_running_loop())
        if answers is not None and is_prediction(scope):
            await answers(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def middleware() -> list[Middleware]:
    """Serve calls this before it starts a process's HTTP server, which then reads predictions as `serving.wire` does."""
    HTTP_PROTOCOLS["auto"] = "serving.wire:Protocol"
    return [Middleware(Express)]
