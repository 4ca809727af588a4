"""The Open Inference Protocol, version 2, over HTTP: stock clients list, check and ask models; every call is routed, logged and
joined with feedback like any other prediction."""

import asyncio
from collections.abc import Sequence
from time import monotonic, perf_counter, time
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict
from starlette.requests import Request
from starlette.responses import Response

from serving import tensors
from serving.access import Allowance, Caller
from serving.asking import new_id
from serving.data_plane import ALLOWANCE, DataPlane
from serving.errors import BadRequest, Invalid, TimedOut, UnknownModel
from serving.hosted import Asked, Hosted, State
from serving.http import IDS, answer, read_body, whole_number
from serving.openapi import VERSION
from serving.operators import CALLER, validate
from serving.replica import Replica
from store.columns import rows_of
from store.errors import SchemaError
from store.records import Predictions
from store.schema import FeatureField
from store.spec import ModelRecord

UNIT_HEADER = "x-tidemill-unit"
HEADER_LENGTH = "inference-header-content-length"
EXTENSIONS = ("binary_tensor_data", "model_repository", "parameters")

_PLATFORM = "onnxruntime"
_INLINE_BYTES = 32 * 1024
_COMPRESS_BYTES = 1024
_LOADED_WITHIN_S = 10.0
_DATATYPES = {"number": "FP64", "vector": "FP32", "boolean": "BOOL", "category": "BYTES", "timestamp": "BYTES"}
_ABOUT = {"prediction_id": "BYTES", "variant": "BYTES", "version": "INT64"}
"""What can be asked for of every row, beside the model's own outputs."""


class _Index(BaseModel):
    model_config = ConfigDict(extra="ignore")

    ready: bool = False


class OpenInference:
    """The protocol's routes, over one replica."""

    def __init__(self, replica: Replica, data: DataPlane) -> None:
        self._replica, self._data = replica, data

    async def server(self, _: Request) -> Response:
        return answer({"name": "tidemill", "version": VERSION, "extensions": list(EXTENSIONS)})

    async def live(self, _: Request) -> Response:
        return answer({"live": True, "ready": self._replica.ready})

    async def ready(self, _: Request) -> Response:
        ready = self._replica.ready
        return answer({"live": True, "ready": ready}, 200 if ready else 503, None if ready else {"retry-after": "1"})

    async def model(self, request: Request) -> Response:
        hosted, variant = self._asked_for(request)
        state = hosted.state
        numbers = sorted({live.number for live in state.live.values()}, reverse=True)
        if variant is not None:
            numbers = [state.live[variant].number]
        return answer(
            {
                "name": hosted.record.name,
                "versions": [str(number) for number in numbers],
                "platform": _PLATFORM,
                "inputs": [_described(field) for field in hosted.record.features.asked],
                "outputs": [
                    {"name": name, "datatype": datatype, "shape": shape}
                    for name, (datatype, shape) in _outputs_of(hosted.record).items()
                ],
            }
        )

    async def model_ready(self, request: Request) -> Response:
        hosted, variant = self._asked_for(request)
        state = hosted.state
        ready = (variant or state.snapshot.policy.default) in state.live
        content = {"name": hosted.record.name, "ready": ready}
        return answer(content, 200 if ready else 503, None if ready else {"retry-after": "1"})

    async def index(self, request: Request) -> Response:
        """All models, each with the versions that are open."""
        body = await read_body(request, 10_000)
        only_ready = validate(_Index, body or b"{}").ready
        caller: Caller = request.scope[CALLER]
        rows: list[dict[str, str]] = []
        for name, record in sorted((await self._replica.store.models()).items()):
            if not caller.sees(name):
                continue
            hosted = self._replica.models.get(name)
            live = hosted.state.live.values() if hosted is not None else ()
            for number in sorted({one.number for one in live}, reverse=True):
                rows.append({"name": name, "version": str(number), "state": "READY", "reason": ""})
            if not live and not only_ready:
                reason = "it has no version yet" if record.loaded else "unloaded"
                rows.append({"name": name, "version": "", "state": "UNAVAILABLE", "reason": reason})
        return answer(rows)

    async def load(self, request: Request) -> Response:
        return await self._set_loaded(request, True)

    async def unload(self, request: Request) -> Response:
        return await self._set_loaded(request, False)

    async def _set_loaded(self, request: Request, loaded: bool) -> Response:
        """Let all replicas serve a model, or stop serving it; answer when they do."""
        await read_body(request, 1_000_000)
        model: str = request.path_params["model"]
        await self._replica.store.set_loaded(model, loaded)
        deadline = monotonic() + _LOADED_WITHIN_S
        while True:
            reports = [report for report in await self._replica.store.reports() if report.role == "replica"]
            behind = [report.name for report in reports if (model in report.applied) != loaded]
            if not behind:
                return answer({})
            if monotonic() > deadline:
                raise TimedOut(f"it is asked for, but these replicas have not done it yet: {', '.join(behind)}")
            await asyncio.sleep(0.02)

    async def infer(self, request: Request) -> Response:
        started = perf_counter()
        hosted, variant = self._asked_for(request)
        allowed: Allowance = request.scope[ALLOWANCE]
        body = await read_body(request, allowed.body_bytes)
        self._data.check_log()
        state, headers = hosted.state, request.headers
        forced = variant or self._data.forced(request.scope["headers"])
        if len(body) <= _INLINE_BYTES and "content-encoding" not in headers:
            given, asked = self._read(hosted, state, request, body, forced, allowed)
        else:
            loop = asyncio.get_running_loop()
            reading = loop.run_in_executor(self._data.threads, self._read, hosted, state, request, body, forced, allowed)
            given, asked = await reading
        request.scope[IDS] = asked.ids
        wanted = _wanted(hosted.record, given)
        encoding = _encoding(headers.get("accept-encoding", ""))

        def respond(record: ModelRecord, predictions: Predictions) -> Response:
            return _response(record, predictions, given, wanted, encoding)

        return await self._data.answered(hosted, state, asked, allowed, started, respond)

    def _asked_for(self, request: Request) -> tuple[Hosted, str | None]:
        """Return the model, and the variant that runs the version that the path names; None where it names none.

        Raises:
            UnknownModel: there is no such model, or no variant runs that version.
        """
        hosted = self._data.hosted(request.path_params["model"])
        text: str | None = request.path_params.get("version")
        if text is None:
            return hosted, None
        live = hosted.state.live
        variant = next((name for name, one in live.items() if one.number == whole_number(text)), None)
        if variant is None:
            name = hosted.record.name
            raise UnknownModel(f"{name}/versions/{text}", [f"{name}/versions/{one.number}" for one in live.values()])
        return hosted, variant

    def _read(
        self, hosted: Hosted, state: State, request: Request, body: bytes, forced: str | None, allowed: Allowance
    ) -> tuple[tensors.Tensors, Asked]:
        headers = request.headers
        body = tensors.inflate(body, headers.get("content-encoding", "").strip().lower(), allowed.body_bytes)
        length = headers.get(HEADER_LENGTH)
        header_bytes = whole_number(length) if length is not None else None
        if length is not None and header_bytes is None:
            raise BadRequest(f"Inference-Header-Content-Length: '{length[:80]}' is no number of bytes")
        given = tensors.read(body, header_bytes, allowed.instances)
        try:
            rows = rows_of(hosted.record.features, given.inputs)
        except SchemaError as error:
            raise BadRequest(f"input {error}") from None
        if not rows:
            raise BadRequest("inputs: they have no rows")
        at = time()
        prefix = new_id(hosted.record.name, at)
        ids = [f"{prefix}{index}" for index in range(len(rows))]
        unit = _unit(given, headers.get(UNIT_HEADER)) or ids[0]
        event_times = [_event_time(given, at)] * len(rows) if hosted.record.clock == "event" else None
        # Rules see what the request gave, as those of a prediction in JSON do.
        places = [(place, field.name) for place, field in enumerate(hosted.record.features.asked) if field.name in given.inputs]
        features = ({name: row[place] for place, name in places} for row in rows)
        asked = hosted.planned(
            state, at, ids, [unit] * len(rows), rows, event_times, features, request.scope["headers"], forced
        )
        return given, asked


def _described(field: FeatureField) -> dict[str, Any]:
    shape = [-1, field.length] if field.kind == "vector" else [-1]
    described: dict[str, Any] = {"name": field.name, "datatype": _DATATYPES[field.kind], "shape": shape}
    if field.optional or field.default is not None:
        described["parameters"] = {"optional": True}
    return described


def _outputs_of(record: ModelRecord) -> dict[str, tuple[str, list[int]]]:
    """Datatype and shape of the model's own outputs, by name."""
    match record.objective:
        case "binary":
            return {"probability": ("FP32", [-1])}
        case "multiclass":
            return {"probabilities": ("FP32", [-1, len(record.classes)]), "class": ("BYTES", [-1])}
        case "regression":
            return {"value": ("FP32", [-1])}
        case "ranking":
            return {"score": ("FP32", [-1])}


def _wanted(record: ModelRecord, given: tensors.Tensors) -> dict[str, bool]:
    """Return the outputs to answer, each with whether it is wanted raw."""
    own = _outputs_of(record)
    if given.outputs is None:
        return dict.fromkeys(own, given.raw)
    if unknown := next((name for name in given.outputs if name not in own and name not in _ABOUT), None):
        raise BadRequest(f"output '{unknown[:80]}' is not one of {', '.join((*own, *_ABOUT))}")
    return given.outputs


def _unit(given: tensors.Tensors, header: str | None) -> str | None:
    unit = given.parameters.get("unit", header)
    if unit is not None and not (isinstance(unit, str) and 1 <= len(unit) <= 256):
        raise Invalid("parameters.unit: a text of 1 to 256 characters")
    return unit


def _event_time(given: tensors.Tensors, now: float) -> float:
    at = given.parameters.get("at", now)
    if isinstance(at, bool) or not isinstance(at, int | float) or not 0 <= at <= 253_402_300_799:
        raise Invalid("parameters.at: seconds since 1970")
    return float(at)


def _response(
    record: ModelRecord,
    predictions: Predictions,
    given: tensors.Tensors,
    wanted: dict[str, bool],
    encoding: str,
) -> Response:
    first = predictions.served[predictions.arms[0]]
    content: dict[str, Any] = {
        "model_name": record.name,
        "model_version": str(first.version),
        "parameters": {
            "prediction_id": predictions.ids[0],
            "variant": first.variant,
            "version": first.version,
        },
    }
    if given.id is not None:
        content["id"] = given.id
    outputs = {name: _output(record, predictions, name) for name in wanted}
    body, header_bytes = tensors.write(content, outputs, wanted)
    headers: dict[str, str] = {}
    if header_bytes is not None:
        headers["Inference-Header-Content-Length"] = str(header_bytes)
    if encoding and len(body) > _COMPRESS_BYTES:
        body = tensors.deflate(body, encoding)
        headers |= {"content-encoding": encoding, "vary": "accept-encoding"}
    return Response(body, 200, headers, "application/json" if header_bytes is None else "application/octet-stream")


def _output(record: ModelRecord, predictions: Predictions, name: str) -> tuple[str, np.ndarray]:
    """Return an output's datatype and array, first axis the rows."""
    arms = [predictions.served[arm] for arm in predictions.arms]
    match name:
        case "prediction_id":
            return _ABOUT[name], _texts(predictions.ids)
        case "variant":
            return _ABOUT[name], _texts([arm.variant for arm in arms])
        case "version":
            return _ABOUT[name], np.array([arm.version for arm in arms], dtype=np.int64)
        case _:
            datatype, shape = _outputs_of(record)[name]
            scores = np.array(predictions.outputs)
            if name == "class":
                return datatype, _texts([record.classes[best] for best in scores.argmax(axis=1)])
            return datatype, scores if len(shape) > 1 else scores[:, 0]


def _texts(values: Sequence[str]) -> np.ndarray:
    made = np.empty(len(values), dtype=np.object_)
    made[:] = values
    return made


def _encoding(accepted: str) -> str:
    """Return the encoding to answer in: the first one that a client names and that there is; '' for none."""
    for part in accepted.lower().split(","):
        name, _, quality = part.strip().partition(";")
        if name.strip() in ("gzip", "deflate") and quality.replace(" ", "") not in ("q=0", "q=0.0"):
            return name.strip()
    return ""
