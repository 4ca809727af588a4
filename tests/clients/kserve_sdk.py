"""What KServe's SDK, unchanged, makes of a platform; run by an interpreter that has it. Prints what it found as JSON."""

import asyncio
import json
import sys

import httpx
import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest
from kserve.inference_client import RESTConfig


async def look(url: str) -> dict[str, object]:
    client = InferenceRESTClient(RESTConfig(protocol="v2", timeout=30, retries=0))
    rows = np.linspace(-1.0, 1.0, 64, dtype=np.float32).reshape(2, 32)
    found: dict[str, object] = {
        "live": await client.is_server_live(url),
        "ready": await client.is_server_ready(url),
        "model ready": await client.is_model_ready(url, "vector"),
        "no model ready": await client.is_model_ready(url, "none"),
    }
    for raw in (False, True):
        given = InferInput("x", [2, 32], "FP32")
        given.set_data_from_numpy(rows, binary_data=raw)
        request = InferRequest("vector", [given], request_id="mine", parameters={"unit": "u1"})
        answer = await client.infer(url, request, model_name="vector")
        found[f"raw {raw}"] = {
            "scores": answer.outputs[0].as_numpy().tolist(),
            "name": answer.outputs[0].name,
            "id": answer.id,
            "version": answer.model_version,
            "parameters": dict(answer.parameters or {}),
        }
    given = InferInput("x", [1, 3], "FP32")
    given.set_data_from_numpy(np.zeros((1, 3), dtype=np.float32), binary_data=False)
    try:
        await client.infer(url, InferRequest("vector", [given]), model_name="vector")
    except httpx.HTTPStatusError as error:
        found["error"] = [error.response.status_code, str(error)]
    await client.close()
    return found


print(json.dumps(asyncio.run(look(sys.argv[1]))))
