"""The Serve application: one ingress deployment whose replicas answer predictions in their own process."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Sequence
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
from serving.about import About
from serving.access import ADMIN, PREDICT, UNLIMITED, VIEW, allowance
from serving.admission import Admission
from serving.awake import Wakefulness, stay_awake
from serving.data_plane import ALLOWANCE, DataPlane
from serving.dedicated.host import reach
from serving.errors import Overloaded
from serving.expectations import ExpectationRoutes
from serving.experiments import Experiments
from serving.http import answer, refusal
from serving.imports import Imports
from serving.keys import Keys
from serving.lines import LineRoutes
from serving.models import Models
from serving.open_inference import OpenInference
from serving.operators import CALLER, Handler, Operators, guarded
from serving.placements import Placements
from serving.refusals import refused
from serving.replica import Replica, new_name
from serving.scaling import AT_WORK, Scaling, given
from serving.settings import ServingSettings
from serving.swapping import Reach
from serving.traced import traced
from store import garbage


class Edge:
    """One replica's ASGI application: predictions go straight to their handler, everything else through Starlette.

    Starlette's middleware and routing were measured at a third of the time of a small prediction. A
    prediction that finds no place is refused at once, so that those at work are answered.
    """

    def __init__(
        self, app: Starlette, handlers: dict[str, Handler], admission: Admission, refuse: "_Refuse | None" = None
    ) -> None:
        self.app = app
        self._refuse = refuse or _refusal
        self._handlers = handlers
        self._admission = admission

    @property
    def ongoing(self) -> int:
        """Predictions at work now."""
        return self._admission.ongoing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if express.is_prediction(scope):
            path, _, route = scope["path"].partition("/models/")[2].rpartition("/")
            scope["path_params"] = {"model": path}
            if route == "infer" and "/versions/" in path:
                model, _, number = path.partition("/versions/")
                scope["path_params"] = {"model": model, "version": number}
            await (await self._answered(scope, receive, route))(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _answered(self, scope: Scope, receive: Receive, route: str) -> ASGIApp:
        try:
            place = self._admission.enter(receive)
        except Overloaded as error:
            return self._refuse(route, Request(scope, receive), error)
        try:
            return await self._handlers[route](Request(scope, place.receive))
        except ClientDisconnect:
            return _nobody
        finally:
            place.leave()


_Refuse = Callable[[str, Request, Exception], Response]
"""Makes the answer to a request of one of the hot routes for which there is no room."""


def _refusal(_: str, __: Request, error: Exception) -> Response:
    return refusal(error)


async def _nobody(scope: Scope, receive: Receive, send: Send) -> None:
    """The answer to a client that went away."""


def build(settings: ServingSettings, reach: Reach | None = None, name: str = "") -> Edge:
    """Return one replica's ASGI application; its background tasks live from its start-up to its shutdown.

    Args:
        reach: finds the hosts of variants with a deployment of their own; None where there are none.
        name: the replica's; empty makes one.

    Raises:
        TracesUnavailable: the settings ask for traces that cannot be sent.
    """
    settings.telemetry.check()
    replica = Replica(settings, reach, name)
    data, operators = DataPlane(replica), Operators(replica)
    inference = OpenInference(replica, data)
    lines = LineRoutes(operators)
    experiments, imports = Experiments(operators, lines), Imports(operators, settings.max_import_bytes)
    placements, models = Placements(operators, settings.prefix), Models(operators)
    expectations = ExpectationRoutes(operators)
    about = About(replica)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None]:
        await replica.start()
        garbage.begin()
        express.enter(edge)
        awake = asyncio.create_task(stay_awake(lambda: admission.entered, Wakefulness())) if settings.stay_awake else None
        yield
        if awake is not None:
            awake.cancel()
            await asyncio.gather(awake, return_exceptions=True)
        express.leave()
        await replica.close()

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
        _route("/healthz", "GET", replica, about.live),
        _route("/readyz", "GET", replica, about.ready),
        _route("/openapi.json", "GET", replica, open_to(about.openapi)),
        _route("/metrics", "GET", replica, view(about.metrics) if settings.require_key else about.metrics),
        _route(f"{model}/policy", "GET", replica, view(operators.show_policy)),
        _route(f"{model}/policy", "PUT", replica, guard(operators.set_policy)),
        _route(f"{model}/experiments", "GET", replica, view(experiments.show_all)),
        _route(f"{model}/experiments", "POST", replica, guard(experiments.create)),
        _route(f"{model}/experiments/forecast", "POST", replica, view(experiments.forecast)),
        _route(f"{model}/experiments/{{name}}", "GET", replica, view(experiments.show)),
        _route(f"{model}/experiments/{{name}}/{{action}}", "POST", replica, guard(experiments.act)),
        _route(f"{model}/off-policy/{{variant}}", "GET", replica, view(experiments.off_policy)),
        _route(f"{model}/versions", "GET", replica, view(operators.versions)),
        _route(f"{model}/versions/{{number}}", "GET", replica, view(operators.version)),
        _route(f"{model}/versions", "POST", replica, guard(imports.create)),
        _route(f"{model}/versions/{{number}}/promote", "POST", replica, guard(experiments.promote_version)),
        _route(f"{model}/variants/{{variant}}/placement", "GET", replica, view(placements.show)),
        _route(f"{model}/variants/{{variant}}/placement", "PUT", replica, guard(placements.place)),
        _route(f"{model}/retrain", "POST", replica, guard(operators.retrain)),
        _route(f"{model}/drift", "GET", replica, view(operators.drift)),
        _route(f"{model}/schedule", "GET", replica, view(operators.show_schedule)),
        _route(f"{model}/schedule", "PUT", replica, guard(operators.set_schedule)),
        _route(f"{model}/expectations", "GET", replica, view(expectations.show)),
        _route(f"{model}/expectations", "PUT", replica, guard(expectations.edit)),
        _route(f"{model}/expectations", "DELETE", replica, guard(expectations.infer)),
        _route(f"{model}/lines", "GET", replica, view(lines.show)),
        _route(f"{model}/lines", "POST", replica, guard(lines.add)),
        _route(f"{model}/lines/{{name}}/{{action}}", "POST", replica, guard(lines.act)),
        _route("/admin/models", "GET", replica, view(models.show)),
        _route("/admin/models", "POST", replica, keeper(models.add)),
        _route(model, "DELETE", replica, keeper(models.remove)),
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
        "predict": ("/models/{model}/predict", data.predict),
        "rank": ("/models/{model}/rank", data.rank),
        "infer": (f"{v2}/infer", inference.infer),
    }

    def full(route: str, request: Request, error: Exception) -> Response:
        path, _ = hot[route]
        response = refused(replica.metrics, path, request.scope, error)
        replica.metrics.requests.labels(path, response.status_code).inc()
        return response

    answering = {route: _answered(replica, _admitted(replica, handler), path) for route, (path, handler) in hot.items()}
    admission = Admission(settings.max_at_work, settings.max_ongoing)
    edge = Edge(starlette, answering, admission, full)
    replica.metrics.in_flight.set_function(lambda: edge.ongoing)
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
        if hosted is None:
            with access.admitted(caller, model, limits):
                return await handler(request)
        if hosted.ongoing >= replica.most_ongoing:
            raise Overloaded(f"{hosted.ongoing} requests to model '{model}' are at work already; send fewer at a time")
        hosted.ongoing += 1
        try:
            with access.admitted(caller, model, limits):
                return await handler(request)
        finally:
            hosted.ongoing -= 1

    return admitted


_TRACED = ("/predict", "/rank", "/infer", "/feedback")


def _route(path: str, method: str, replica: Replica, handler: Handler) -> Route:
    return Route(path, _answered(replica, handler, path), methods=[method])


def _answered(replica: Replica, handler: Handler, path: str) -> Handler:
    """Return a handler whose domain errors become answers, counted by route and status, and traced if that is asked for."""
    counts = {status: replica.metrics.requests.labels(path, status) for status in (200, 201, 202)}

    async def answered(request: Request) -> Response:
        try:
            response = await handler(request)
        except ClientDisconnect:
            raise
        except Exception as error:
            response = refused(replica.metrics, path, request.scope, error)
        status = response.status_code
        (counts.get(status) or replica.metrics.requests.labels(path, status)).inc()
        return response

    return traced(answered, path) if replica.settings.telemetry.traces and path.endswith(_TRACED) else answered


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
        replicas: how many ingress replicas, the first of which can answer before the others are there, or between how many.
        cpus: what a replica asks Ray for.
        workers: deployed together with the ingress, and never called by it.
    """

    class Ingress:
        """The deployment that every request comes to."""

        def __init__(self, *_: DeploymentHandle[Any]) -> None:
            self._edge: Edge | None = None

        def __serve_build_asgi_app__(self) -> Edge:
            name = new_name()
            settings.telemetry.start("replica", name)
            self._edge = build(settings, reach, name)
            return self._edge

        def record_autoscaling_stats(self) -> dict[str, int]:
            return {AT_WORK: self._edge.ongoing if self._edge is not None else 0}

    ingress = serve.deployment(
        name="ingress",
        autoscaling_config=replicas.config() if isinstance(replicas, Scaling) else given(replicas),
        max_ongoing_requests=settings.max_ongoing,
        ray_actor_options={"num_cpus": cpus},
        health_check_period_s=2,
        health_check_timeout_s=30,
        graceful_shutdown_timeout_s=5,
        # Serve makes a record of every request at INFO even where nothing is written.
        logging_config={"enable_access_log": False, "log_level": "WARNING"},
    )(serve.ingress()(Ingress))
    return ingress.bind(*workers)
