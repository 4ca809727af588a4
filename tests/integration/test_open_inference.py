"""The Open Inference Protocol: routed, logged and joined like any prediction, whole and raw and compressed, and its errors."""

import asyncio
import gzip
import json
import zlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import numpy as np
import pytest

from serving.testing import GOOD, TOKEN, refused
from store.errors import Unavailable
from store.names import log_stream, outcome_stream
from store.policy import Report
from store.protocols import START
from store.records import Outcomes, Predictions, unpack_log, unpack_outcomes
from store.redis_store import RedisStore
from trainer.loop import Trainer

pytestmark = pytest.mark.anyio
Place = tuple[Trainer, RedisStore, httpx.AsyncClient]
TYPES = {"x": "FP64", "name": "BYTES", "colour": "BYTES", "limited": "FP64"}


@pytest.fixture
async def client(platform: Place) -> AsyncIterator[httpx.AsyncClient]:
    yield platform[2]
    assert (await platform[2].post("/v2/models/m/infer", json=_body())).status_code == 200


def _body(rows: int = 1, **more: Any) -> dict[str, Any]:
    inputs = [
        {"name": name, "shape": [rows], "datatype": datatype, "data": [GOOD[name]] * rows} for name, datatype in TYPES.items()
    ]
    return {"inputs": inputs} | more


async def _infer(client: httpx.AsyncClient, body: dict[str, Any], path: str = "/v2/models/m/infer", **more: Any) -> Any:
    reply = await client.post(path, json=body, **more)
    assert reply.status_code == 200, reply.text
    return reply.json()


async def test_the_server_and_its_models_describe_themselves(client: httpx.AsyncClient) -> None:
    for path in ("/v2", "/v2/"):
        server = (await client.get(path)).json()
        assert server["name"] == "tidemill"
        assert "binary_tensor_data" in server["extensions"]
    assert (await client.get("/v2/health/live")).json()["live"] is True
    assert (await client.get("/v2/health/ready")).json() == {"live": True, "ready": True}
    model = (await client.get("/v2/models/m")).json()
    assert (model["name"], model["versions"], model["platform"]) == ("m", ["1"], "onnxruntime")
    assert model["inputs"][0] == {"name": "x", "datatype": "FP64", "shape": [-1]}
    assert model["outputs"] == [{"name": "probability", "datatype": "FP32", "shape": [-1]}]
    assert (await client.get("/v2/models/m/versions/1")).json()["versions"] == ["1"]
    for path in ("/v2/models/m/ready", "/v2/models/m/versions/1/ready"):
        assert (await client.get(path)).json() == {"name": "m", "ready": True}
    assert (await client.post("/v2/repository/index")).json() == [{"name": "m", "version": "1", "state": "READY", "reason": ""}]


async def test_an_infer_call_is_routed_logged_and_joined_like_any_prediction(
    platform: Place, client: httpx.AsyncClient
) -> None:
    trainer, store, _ = platform
    made = await _infer(client, _body(3, id="mine", parameters={"unit": "user-1"}))
    assert (made["model_name"], made["model_version"], made["id"]) == ("m", "1", "mine")
    about = made["parameters"]
    assert (about["variant"], about["version"]) == ("main", 1)
    [output] = made["outputs"]
    assert (output["name"], output["shape"], output["datatype"]) == ("probability", [3], "FP32")
    again = await client.post("/models/m/predict", json={"instances": [{"features": GOOD}]})
    assert output["data"][0] == again.json()["predictions"][0]["output"]["probability"]
    logged = [unpack_log(entry.payload) for entry in await store.read(log_stream("m"), START, 10_000)]
    [entry] = [one for one in logged if isinstance(one, Predictions) and one.ids[0] == about["prediction_id"]]
    assert entry.units == ["user-1"] * 3
    assert entry.rows == [[1.0, "n", "red", 0.5]] * 3
    assert (await client.post("/feedback", json={"events": [{"id": entry.ids[2], "label": 1}]})).status_code == 202
    while not (joined := await _outcomes(store, entry.ids[2])):
        await trainer.step(0.01)
    assert (joined[0].unit, joined[0].label) == ("user-1", 1.0)


async def _outcomes(store: RedisStore, id_: str) -> list[Any]:
    entries = await store.read(outcome_stream("m"), START, 10_000)
    records = [unpack_outcomes(entry.payload) for entry in entries]
    return [one for record in records if isinstance(record, Outcomes) for one in record.outcomes if one.id == id_]


async def test_the_unit_may_come_in_a_header_and_is_the_calls_own_where_there_is_none(client: httpx.AsyncClient) -> None:
    policy = await client.get("/admin/models/m/policy", headers=TOKEN)
    experiment = {"name": "t", "kind": "ab", "shares": {"main": 0.5, "b": 0.5}}
    arms = {"variants": [{"name": "main"}, {"name": "b"}], "experiments": [experiment]}
    headers = TOKEN | {"if-match": policy.headers["etag"]}
    assert (await client.put("/admin/models/m/policy", headers=headers, json=arms)).status_code == 200
    try:
        outputs = [{"name": "variant"}, {"name": "prediction_id"}, {"name": "version"}]
        seen: set[str] = set()
        for number in range(40):
            units = {"x-tidemill-unit": f"u{number}"}
            first = await _infer(client, _body(4, outputs=outputs), headers=units)
            [variants, ids, versions] = [one["data"] for one in first["outputs"]]
            assert len(set(variants)) == 1  # one unit, one arm
            assert versions == [1] * 4
            assert len(set(ids)) == 4
            assert ids[0] == first["parameters"]["prediction_id"]
            again = await _infer(client, _body(parameters={"unit": f"u{number}"}))
            assert again["parameters"]["variant"] == variants[0]
            alone = await _infer(client, _body(4, outputs=outputs))
            assert len(set(alone["outputs"][0]["data"])) == 1
            seen.add(variants[0])
        assert seen == {"main", "b"}
    finally:
        etag = (await client.get("/admin/models/m/policy", headers=TOKEN)).headers["etag"]
        plain = {"variants": [{"name": "main"}], "default": "main"}
        await client.put("/admin/models/m/policy", headers=TOKEN | {"if-match": etag}, json=plain)


async def test_a_version_that_is_named_answers_or_there_is_none(client: httpx.AsyncClient) -> None:
    made = await _infer(client, _body(), "/v2/models/m/versions/1/infer")
    assert made["model_version"] == "1"
    for version in ("2", "0", "-1", "latest", "1e0", "9" * 5000, "٣"):
        refused(await client.post(f"/v2/models/m/versions/{version}/infer", json=_body()), 404, "no model 'm/versions/")
        refused(await client.get(f"/v2/models/m/versions/{version}/ready"), 404)
    for path in ("", "/ready"):
        refused(await client.get(f"/v2/models/none{path}"), 404, "no model 'none'")
    refused(await client.post("/v2/models/none/infer", json=_body()), 404, "no model 'none'; this platform serves: m")
    refused(await client.get("/v2/models/m/config"), 404)


def _raw(outputs: bool) -> tuple[bytes, int]:
    """The same request with raw tensors after its JSON."""
    parts = [
        np.array([1.0, 1.0]).tobytes(),
        b"\x01\0\0\0n" * 2,
        b"\x03\0\0\0red" * 2,
        np.array([0.5, 0.5]).tobytes(),
    ]
    inputs = [
        {"name": name, "shape": [2], "datatype": datatype, "parameters": {"binary_data_size": len(part)}}
        for (name, datatype), part in zip(TYPES.items(), parts, strict=True)
    ]
    request: dict[str, Any] = {"inputs": inputs, "parameters": {"binary_data_output": outputs}}
    head = json.dumps(request).encode()
    return b"".join((head, *parts)), len(head)


@pytest.mark.parametrize("encoding", ["", "gzip", "deflate"])
async def test_raw_tensors_go_in_and_out_compressed_or_not(client: httpx.AsyncClient, encoding: str) -> None:
    expected = (await _infer(client, _body(2)))["outputs"][0]["data"]
    body, length = _raw(outputs=True)
    headers = {"inference-header-content-length": str(length)}
    if encoding:
        body = gzip.compress(body) if encoding == "gzip" else zlib.compress(body)
        headers["content-encoding"] = encoding
    reply = await client.post("/v2/models/m/infer", content=body, headers=headers)
    assert reply.status_code == 200, reply.text
    assert reply.headers["content-type"] == "application/octet-stream"
    at = int(reply.headers["inference-header-content-length"])
    [output] = json.loads(reply.content[:at])["outputs"]
    assert output["parameters"] == {"binary_data_size": 8}
    np.testing.assert_array_equal(np.frombuffer(reply.content[at:], "<f4"), np.array(expected, "f4"))


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_a_long_answer_is_compressed_where_the_client_takes_it(client: httpx.AsyncClient, encoding: str) -> None:
    reply = await client.post("/v2/models/m/infer", json=_body(500), headers={"accept-encoding": encoding})
    assert reply.headers["content-encoding"] == encoding
    assert len(reply.json()["outputs"][0]["data"]) == 500
    plain = await client.post("/v2/models/m/infer", json=_body(500), headers={"accept-encoding": "identity, gzip;q=0"})
    assert "content-encoding" not in plain.headers
    assert plain.json()["outputs"] == reply.json()["outputs"]


def _without(name: str) -> dict[str, Any]:
    return {"inputs": [one for one in _body()["inputs"] if one["name"] != name]}


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({}, 400, "inputs: Field required"),
        ([], 400, "the body"),
        (_without("x"), 400, "input x: it is missing"),
        ({"inputs": [{"name": "y", "shape": [1], "datatype": "FP32", "data": [1]}]}, 400, "input y: no feature"),
        ({"inputs": [{"name": "x", "shape": [0], "datatype": "FP32", "data": []}]}, 400, "input name: it is missing"),
        (_body(0), 400, "they have no rows"),
        (_body(10_001), 413, "10,001 are too many rows"),
        (_body(outputs=[{"name": "nothing"}]), 400, "output 'nothing' is not one of probability, prediction_id"),
        (_body(parameters={"unit": 7}), 422, "parameters.unit"),
        (_body(parameters={"unit": ""}), 422, "parameters.unit"),
        (_body(id=7), 400, "id: Input should be a valid string"),
        (_body(parameters=[]), 400, "parameters"),
    ],
)
async def test_a_bad_request_is_refused_in_one_sentence(client: httpx.AsyncClient, body: Any, status: int, says: str) -> None:
    refused(await client.post("/v2/models/m/infer", json=body), status, says)


@pytest.mark.parametrize(
    ("headers", "says"),
    [
        ({"inference-header-content-length": "-1"}, "no number of bytes"),
        ({"inference-header-content-length": "9" * 4000}, "no number of bytes"),
        ({"inference-header-content-length": "1e3"}, "no number of bytes"),
        ({"inference-header-content-length": "100000"}, "the body has"),
        ({"inference-header-content-length": "0"}, "not JSON"),
        ({"content-encoding": "gzip"}, "is not gzip"),
        ({"content-encoding": "br"}, "send gzip, deflate"),
    ],
)
async def test_bad_headers_are_refused(client: httpx.AsyncClient, headers: dict[str, str], says: str) -> None:
    refused(await client.post("/v2/models/m/infer", json=_body(), headers=headers), 400, says)


async def test_a_bomb_is_refused_before_it_unfolds(client: httpx.AsyncClient) -> None:
    bomb = gzip.compress(bytes(500_000_000))
    assert len(bomb) < 1_000_000
    refused(await client.post("/v2/models/m/infer", content=bomb, headers={"content-encoding": "gzip"}), 413, "over 2,000,000")


async def test_operators_unload_a_model_and_load_it_again(client: httpx.AsyncClient) -> None:
    refused(await client.post("/v2/repository/models/m/unload"), 401)
    refused(await client.post("/v2/repository/models/none/load", headers=TOKEN), 404, "no model 'none'")
    assert (await client.post("/v2/repository/models/m/unload", headers=TOKEN)).json() == {}
    try:
        refused(await client.post("/v2/models/m/infer", json=_body()), 404, "no model 'm'")
        refused(await client.post("/models/m/predict", json={"instances": [{"features": GOOD}]}), 404)
        [row] = (await client.post("/v2/repository/index")).json()
        assert (row["state"], row["reason"]) == ("UNAVAILABLE", "unloaded")
        assert (await client.post("/v2/repository/index", json={"ready": True})).json() == []
    finally:
        assert (await client.post("/v2/repository/models/m/load", headers=TOKEN)).json() == {}
    async with asyncio.timeout(10):
        while (await client.get("/v2/models/m/ready")).status_code != 200:  # noqa: ASYNC110 - asked as any client asks
            await asyncio.sleep(0.01)


async def test_a_report_that_fails_while_a_model_is_loaded_leaves_it_alive(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    report, failing = RedisStore.report, iter([True])

    async def fickle(store: RedisStore, said: Report, lease_s: float) -> None:
        if "m" in said.applied and next(failing, False):
            raise Unavailable("away for a moment")
        await report(store, said, lease_s)

    assert (await client.post("/v2/repository/models/m/unload", headers=TOKEN)).status_code == 200
    monkeypatch.setattr(RedisStore, "report", fickle)
    assert (await client.post("/v2/repository/models/m/load", headers=TOKEN)).status_code == 200
    assert next(failing, None) is None
    await _infer(client, _body())
