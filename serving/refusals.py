"""What is not answered: counted by kind, and logged where it is the platform that failed."""

import logging
from collections.abc import Mapping, MutableMapping
from typing import Any

from starlette.responses import Response

from serving.errors import ServingError, VersionFailed
from serving.http import IDS, REFUSED, refusal
from serving.metrics import ReplicaMetrics
from store.errors import StoreError
from store.records import Failures

log = logging.getLogger(__name__)


def refused(metrics: ReplicaMetrics, route: str, scope: MutableMapping[str, Any], error: Exception) -> Response:
    """Return the answer to a request that failed with `error`."""
    kind = type(error).__name__ if isinstance(error, ServingError | StoreError) else "Internal"
    response = refusal(error)
    scope[REFUSED] = _without_frames(error)
    metrics.errors.labels(route, kind).inc()
    if response.status_code >= 500:
        about = {"model": scope.get("path_params", {}).get("model"), "prediction_id": _prediction(scope, error), "error": kind}
        log.warning("%s answered %d: %s", route, response.status_code, error, extra=about)
    return response


def _without_frames(error: Exception) -> Exception:
    """Return the error, and those behind it, without the frames that they were raised in: these know the request's scope, and a
    scope that knew them would be a cycle, whose body stays in memory until cycles are looked for."""
    behind: list[BaseException | None] = [error]
    seen: set[int] = set()
    while behind:
        one = behind.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            one.__traceback__ = None
            behind += (one.__cause__, one.__context__)
    return error


def log_failure(model: str, failure: Failures) -> None:
    """Log what an arm could not answer, whoever answered instead."""
    log.warning(
        "variant '%s', version %d, could not answer %d instances%s: %s",
        failure.variant, failure.version, len(failure.ids), ", the default arm did" if failure.rescued else "", failure.text,
        extra={"model": model, "prediction_id": failure.ids[0], "error": failure.reason},
    )  # fmt: skip


def _prediction(scope: Mapping[str, Any], error: Exception) -> str:
    """Return the first prediction that was asked for, where its request came so far as to have one."""
    ids: list[str] = scope.get(IDS) or []
    if not ids and isinstance(error, VersionFailed) and error.failures:
        ids = error.failures[0].ids
    return ids[0] if ids else ""
