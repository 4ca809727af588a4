"""What applications may send and get, as an OpenAPI document: the platform describes itself at /openapi.json."""

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from serving.tensors import TYPES

VERSION = version("tidemill")
"""Looked up once: that reads directories for a millisecond."""

_NAME = {"type": "string", "minLength": 1, "maxLength": 256}
_PARAMETERS = {"type": "object"}
_AT = {
    "description": "seconds since 1970, or ISO 8601",
    "oneOf": [{"type": "number", "minimum": 0}, {"type": "string", "format": "date-time"}],
}


def _object(required: list[str], /, **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": required, "properties": properties}


def _list(items: Any, **more: Any) -> dict[str, Any]:
    return {"type": "array", "items": items} | more


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


_TENSOR = _object(
    ["name", "shape", "datatype"],
    name=_NAME,
    shape=_list({"type": "integer", "minimum": 0}, maxItems=8),
    datatype={"type": "string", "enum": [*TYPES]},
    parameters=_PARAMETERS,
    data=_list({}),
)
_SCHEMAS: dict[str, Any] = {
    "Error": _object(["error"], error={"type": "string"}),
    "PredictRequest": _object(
        ["instances"],
        instances=_list(_object(["features"], features={"type": "object"}, unit=_NAME, id=_NAME, at=_AT), minItems=1),
    ),
    "PredictResponse": _object(
        ["model", "predictions"],
        model=_NAME,
        predictions=_list(
            _object(
                ["id", "output", "variant", "version"],
                id=_NAME,
                output={"type": "object"},
                variant=_NAME,
                version={"type": "integer"},
            )
        ),
    ),
    "RankRequest": _object(
        ["candidates"],
        candidates=_list(_object(["item"], item=_NAME, features={"type": "object"}), minItems=1),
        unit=_NAME,
        context={"type": "object"},
        k={"type": "integer", "minimum": 1, "maximum": 200},
        cursor={"type": "string"},
        at=_AT,
    ),
    "RankResponse": _object(
        ["model", "id", "cursor", "items"],
        model=_NAME,
        id=_NAME,
        cursor={"type": ["string", "null"]},
        items=_list(_object(["item", "position", "score", "variant", "version"])),
    ),
    "FeedbackRequest": _object(
        ["events"],
        events=_list(
            _object(
                ["id", "label"],
                id=_NAME,
                label={"type": ["number", "boolean", "string"]},
                model=_NAME,
                item=_NAME,
                at=_AT,
                source={"type": "string", "maxLength": 64},
                confidence={"type": "number", "minimum": 0, "maximum": 1},
            ),
            minItems=1,
        ),
    ),
    "FeedbackResponse": _object(["accepted", "rejected"], accepted={"type": "integer"}, rejected=_list({"type": "object"})),
    "InferRequest": _object(
        ["inputs"],
        id={"type": "string", "maxLength": 256},
        parameters=_PARAMETERS,
        inputs=_list(_TENSOR, minItems=1),
        outputs=_list(_object(["name"], name=_NAME, parameters=_PARAMETERS)),
    ),
    "InferResponse": _object(
        ["model_name", "outputs"],
        model_name=_NAME,
        model_version={"type": "string"},
        id={"type": "string"},
        parameters=_PARAMETERS,
        outputs=_list(_TENSOR),
    ),
    "Server": _object(
        ["name", "version", "extensions"],
        name={"type": "string"},
        version={"type": "string"},
        extensions=_list({"type": "string"}),
    ),
    "Model": _object(
        ["name", "platform"],
        name={"type": "string"},
        versions=_list({"type": "string"}),
        platform={"type": "string"},
        inputs=_list(_object(["name", "datatype", "shape"])),
        outputs=_list(_object(["name", "datatype", "shape"])),
    ),
    "Ready": _object([], ready={"type": "boolean"}, live={"type": "boolean"}),
    "Index": _list(_object(["name"], name={"type": "string"})),
}
_REFUSALS = {
    400: "malformed", 401: "no key, or a wrong one", 403: "the key is not for this", 404: "no such model or version",
    408: "the body did not come in time", 413: "too large", 422: "fails the schema", 429: "more than the limit",
    500: "the version failed", 503: "overloaded, or not ready", 504: "the deadline has passed",
}  # fmt: skip


def _operation(summary: str, asks: str, answers: str, path: str, status: int, models: Sequence[str]) -> dict[str, Any]:
    kinds = {"model": {"type": "string", "enum": [*models]}, "version": {"type": "string", "pattern": "^[0-9]{1,18}$"}}
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": kind} for name, kind in kinds.items() if f"{{{name}}}" in path
    ]
    content = {"application/json": {"schema": _ref(answers)}}
    refusals = {
        str(code): {"description": text, "content": {"application/json": {"schema": _ref("Error")}}}
        for code, text in _REFUSALS.items()
    }
    operation: dict[str, Any] = {
        "summary": summary,
        "parameters": parameters,
        "responses": {str(status): {"description": "answered", "content": content}} | refusals,
    }
    if asks:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": _ref(asks)}}}
    return operation


_ROUTES = (
    ("/models/{model}/predict", "post", "Predictions", "PredictRequest", "PredictResponse", 200),
    ("/models/{model}/rank", "post", "A ranked list, or its next page", "RankRequest", "RankResponse", 200),
    ("/feedback", "post", "What was true", "FeedbackRequest", "FeedbackResponse", 202),
    ("/v2", "get", "Server metadata", "", "Server", 200),
    ("/v2/health/live", "get", "Server live", "", "Ready", 200),
    ("/v2/health/ready", "get", "Server ready", "", "Ready", 200),
    ("/v2/models/{model}", "get", "Model metadata", "", "Model", 200),
    ("/v2/models/{model}/ready", "get", "Model ready", "", "Ready", 200),
    ("/v2/models/{model}/infer", "post", "Inference", "InferRequest", "InferResponse", 200),
    ("/v2/models/{model}/versions/{version}", "get", "Version metadata", "", "Model", 200),
    ("/v2/models/{model}/versions/{version}/ready", "get", "Version ready", "", "Ready", 200),
    ("/v2/models/{model}/versions/{version}/infer", "post", "Inference by a version", "InferRequest", "InferResponse", 200),
    ("/v2/repository/index", "post", "All models", "", "Index", 200),
)


def document(models: Sequence[str]) -> dict[str, Any]:
    """Return the document, OpenAPI 3.1, for a platform that serves these models."""
    paths: dict[str, dict[str, Any]] = {}
    for path, method, summary, asks, answers, status in _ROUTES:
        paths.setdefault(path, {})[method] = _operation(summary, asks, answers, path, status, models)
    key = {"type": "http", "scheme": "bearer", "description": "a key, where the platform asks for one"}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Tidemill", "version": VERSION},
        "paths": paths,
        "components": {"schemas": _SCHEMAS, "securitySchemes": {"key": key}},
        "security": [{}, {"key": []}],
    }
