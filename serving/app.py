"""The Serve application: one ingress deployment whose replicas answer predictions in their own process."""

import contextlib
from collections.abc import AsyncGenerator, Sequence
from functools import partial
from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from serving import express
from serving.access import ADMIN, PREDICT, UNLIMITED, VIEW, Caller, allowance
from serving.data_plane import ALLOWANCE, DataPlane
from serving.errors import Overloaded
from serving.experiments import Experiments
from serving.http import answer, refusal
from serving.imports import Imports
from serving.keys import Keys
from serving.metrics import merge
from serving.open_inference import OpenInference
from serving.openapi import document
from serving.operators import CALLER, Handler, Operators, guarded
from serving.replica import Replica
from serving.scaling import AT_WORK, Scaling
from serving.settings import ServingSettings
from store.errors import Unavailable


class Edge:
    """One replica's ASGI application: predictions go straight to their handler, everything else through Starlette.

    Starlette's middleware and routing were measured at a third of the time of a small prediction. At most
    `max_ongoing` predictions are at work at a time; more are refused at once, so that those at work are answered.
    """

    def __init__(self, app: Starlette, handlers: dict[str, Handler], max_ongoing: int) -> None:
        self.app = app
        self._handlers = handlers
        self._max_ongoing = max_ongoing
        self._ongoing = 0

    @property
    def ongoing(self) -> int:
        """Predictions at work now."""
        return self._ongoing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if express.is_prediction(scope):
            path, _, route = scope["path"].partition("/models/")[2].rpartition("/")
            scope["path_params"] = {"model": path}
            if route == "infer" and "/versions/" in path:
                model, _, number = path.partition("/versions/")
                scope["path_params"] = {"model": model, "version": number}
            await (await self._answered(Request(scope, receive), self._handlers[route]))(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _answered(self, request: Request, handler: Handler) -> ASGIApp:
        if self._ongoing >= self._max_ongoing:
            return refusal(Overloaded(f"{self._ongoing} predictions are at work already; send fewer at a time"))
        self._ongoing += 1
        try:
            return await handler(request)
        except ClientDisconnect:
            return _nobody
        finally:
            self._ongoing -= 1


async def _nobody(scope: Scope, receive: Receive, send: Send) -> None:
    """The answer to a client that went away."""


def build(settings: ServingSettings) -> Edge:
    """Return one replica's ASGI application; its background tasks live from its start-up to its shutdown."""
    replica = Replica(settings)
    data, operators = DataPlane(replica), Operators(replica)
    inference = OpenInference(replica, data)
    experiments, imports = Experiments(operators), Imports(operators, settings.max_import_bytes)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None]:
        await replica.start()
        express.enter(edge)
        yield
        express.leave()
        await replica.close()

    async def healthz(_: Request) -> Response:
        return answer({"status": "alive", "replica": replica.name})

    def seen_by(caller: Caller) -> list[str]:
        return sorted(name for name in replica.models if caller.sees(name))

    async def readyz(request: Request) -> Response:
        state: dict[str, Any] = {"ready": replica.ready}
        if (caller := replica.access.known(request.scope["headers"])) is not None:
            state |= {"replica": replica.name, "models": seen_by(caller), "away": replica.away}
        return answer(state, 200 if replica.ready else 503, None if replica.ready else {"retry-after": "1"})

    async def openapi(request: Request) -> Response:
        return answer(document(seen_by(request.scope[CALLER])))

    async def metrics(_: Request) -> Response:
        replica.measure()
        expositions = {replica.name: replica.report().metrics}
        with contextlib.suppress(Unavailable):
            expositions |= {report.name: report.metrics for report in await replica.store.reports()} | expositions
        return Response(merge(expositions.items()), media_type="text/plain; version=0.0.4")

    guard = partial(guarded, replica.access)
    view = partial(guarded, replica.access, roles=VIEW)
    keys = Keys(replica)
    keeper = partial(guarded, replica.access, roles=ADMIN)
    open_to = partial(_known, replica)
    model = "/admin/models/{model}"
    v2, repository = "/v2/models/{model}", "/v2/repository"
    routes = [
        *(_route(path, "GET", replica, open_to(inference.server)) for path in ("/v2", "/v2/")),
        _route("/v2/health/live", "GET", replica, inference.live),
        _route("/v2/health/ready", "GET", replica, inference.ready),
        *(
            _route(f"{v2}{versioned}{path}", method, replica, handler)
            for versioned in ("", "/versions/{version}")
            for path, method, handler in (
                ("", "GET", open_to(inference.model)),
                ("/ready", "GET", open_to(inference.model_ready)),
                ("/infer", "POST", _admitted(replica, inference.infer)),
            )
        ),
        _route(f"{repository}/index", "POST", replica, open_to(inference.index)),
        _route(f"{repository}/models/{{model}}/load", "POST", replica, guard(inference.load)),
        _route(f"{repository}/models/{{model}}/unload", "POST", replica, guard(inference.unload)),
        _route("/models/{model}/predict", "POST", replica, _admitted(replica, data.predict)),
        _route("/models/{model}/rank", "POST", replica, _admitted(replica, data.rank)),
        _route("/feedback", "POST", replica, _admitted(replica, data.feedback)),
        _route("/healthz", "GET", replica, healthz),
        _route("/readyz", "GET", replica, readyz),
        _route("/openapi.json", "GET", replica, open_to(openapi)),
        _route("/metrics", "GET", replica, view(metrics) if settings.require_key else metrics),
        _route(f"{model}/policy", "GET", replica, view(operators.show_policy)),
        _route(f"{model}/policy", "PUT", replica, guard(operators.set_policy)),
        _route(f"{model}/experiments", "GET", replica, view(experiments.show_all)),
        _route(f"{model}/experiments", "POST", replica, guard(experiments.create)),
        _route(f"{model}/experiments/forecast", "POST", replica, view(experiments.forecast)),
        _route(f"{model}/experiments/{{name}}", "GET", replica, view(experiments.show)),
        _route(f"{model}/experiments/{{name}}/{{action}}", "POST", replica, guard(experiments.act)),
        _route(f"{model}/off-policy/{{variant}}", "GET", replica, view(experiments.off_policy)),
        _route(f"{model}/versions", "GET", replica, view(operators.versions)),
        _route(f"{model}/versions", "POST", replica, guard(imports.create)),
        _route(f"{model}/versions/{{number}}/promote", "POST", replica, guard(experiments.promote_version)),
        _route(f"{model}/retrain", "POST", replica, guard(operators.retrain)),
        _route(f"{model}/schedule", "GET", replica, view(operators.show_schedule)),
        _route(f"{model}/schedule", "PUT", replica, guard(operators.set_schedule)),
        _route("/admin/audit", "GET", replica, view(experiments.audit, by_query=True)),
        _route("/admin/status", "GET", replica, view(operators.status)),
        _route("/admin/keys", "GET", replica, keeper(keys.show)),
        _route("/admin/keys", "POST", replica, keeper(keys.create)),
        _route("/admin/keys/{key}", "DELETE", replica, keeper(keys.drop)),
        _route("/admin/keys/{key}/rotate", "POST", replica, keeper(keys.rotate)),
    ]
    handlers = {404: _not_found, 405: _wrong_method}
    starlette = Starlette(routes=routes, lifespan=lifespan, exception_handlers=handlers)
    hot = {
        "predict": _answered(replica, _admitted(replica, data.predict)),
        "rank": _answered(replica, _admitted(replica, data.rank), "/models/{model}/rank"),
        "infer": _answered(replica, _admitted(replica, inference.infer), f"{v2}/infer"),
    }
    edge = Edge(starlette, hot, settings.max_ongoing)
    return edge


def _known(replica: Replica, handler: Handler) -> Handler:
    """Return the handler for all who may ask for predictions."""

    async def known(request: Request) -> Response:
        caller = replica.access.expect(request.scope["headers"], PREDICT)
        request.scope[CALLER] = caller
        if (model := request.path_params.get("model")) is not None:
            caller.check_model(model)
        return await handler(request)

    return known


def _admitted(replica: Replica, handler: Handler) -> Handler:
    """Return a handler of predictions and feedback for those who may send them, within their limits."""
    access, settings = replica.access, replica.settings

    async def admitted(request: Request) -> Response:
        headers: list[tuple[bytes, bytes]] = request.scope["headers"]
        model: str = request.path_params.get("model", "")
        caller = request.scope[CALLER] = access.expect(headers, PREDICT)
        if model:
            caller.check_model(model)
        hosted = replica.models.get(model)
        limits = hosted.record.limits if hosted is not None else UNLIMITED
        request.scope[ALLOWANCE] = allowance(settings.max_body_bytes, settings.max_instances, limits, caller, headers)
        with access.admitted(caller, model, limits):
            return await handler(request)

    return admitted


def _route(path: str, method: str, replica: Replica, handler: Handler) -> Route:
    return Route(path, _answered(replica, handler, path), methods=[method])


def _answered(replica: Replica, handler: Handler, path: str = "/models/{model}/predict") -> Handler:
    """Return a handler whose domain errors become answers, counted by route and status."""
    counts = {status: replica.metrics.requests.labels(path, status) for status in (200, 201, 202)}

    async def answered(request: Request) -> Response:
        try:
            response = await handler(request)
        except ClientDisconnect:
            raise
        except Exception as error:
            response = refusal(error)
        status = response.status_code
        (counts.get(status) or replica.metrics.requests.labels(path, status)).inc()
        return response

    return answered


async def _not_found(request: Request, _: Exception) -> Response:
    return answer({"error": f"no route {request.url.path[:200]}; POST /models/{{model}}/predict asks for a prediction"}, 404)


async def _wrong_method(request: Request, error: Any) -> Response:
    allowed = (error.headers or {}).get("Allow", "another method")
    message = {"error": f"{request.method} is not for {request.url.path[:200]}; allowed: {allowed}"}
    return answer(message, 405, {"allow": allowed})


def application(
    settings: ServingSettings,
    replicas: int | Scaling = 1,
    *,
    cpus: float = 0.1,
    workers: Sequence[serve.Application] = (),
) -> serve.Application:
    """Return the Serve application.

    Args:
        replicas: how many ingress replicas, or between how many.
        cpus: what a replica asks Ray for.
        workers: deployed together with the ingress, and never called by it.
    """

    class Ingress:
        """The deployment that every request comes to."""

        def __init__(self, *_: DeploymentHandle[Any]) -> None:
            self._edge: Edge | None = None

        def __serve_build_asgi_app__(self) -> Edge:
            self._edge = build(settings)
            return self._edge

        def record_autoscaling_stats(self) -> dict[str, int]:
            return {AT_WORK: self._edge.ongoing if self._edge is not None else 0}

    scaled = isinstance(replicas, Scaling)
    ingress = serve.deployment(
        name="ingress",
        num_replicas=None if scaled else replicas,
        autoscaling_config=replicas.config() if scaled else None,
        max_ongoing_requests=settings.max_ongoing,
        ray_actor_options={"num_cpus": cpus},
        health_check_period_s=2,
        health_check_timeout_s=30,
        graceful_shutdown_timeout_s=5,
        # Serve makes a record of every request at INFO even where nothing is written.
        logging_config={"enable_access_log": False, "log_level": "WARNING"},
    )(serve.ingress()(Ingress))
    return ingress.bind(*workers)
