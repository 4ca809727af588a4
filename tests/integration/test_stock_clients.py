"""Clients of the Open Inference Protocol as others ship them, unchanged, against a running platform."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from deploy.testing import TestPlatform, as_described, open_inference, platform_in, until

ROOT = Path(__file__).parents[2]
KSERVE = ROOT / ".venv-kserve/bin/python"
PUBLISHED = Path(__file__).parent / "descriptions/open_inference.json"
SEEDED = ("--seed", "1", "--phases", "examples,coverage,fuzzing")
# The labels of one test must not change the answers of another, so this model is taught by hand alone.
VECTOR = """
from dataclasses import replace

from examples.vector import spec as example
from store.spec import Schedule

spec = replace(example, schedule=Schedule(outcomes=None, seconds=None))
"""
ROWS = np.linspace(-1.0, 1.0, 64, dtype=np.float32).reshape(2, 32)
SHOP = """
from datetime import datetime
from typing import Literal

from pydantic import BaseModel

from store.spec import ModelSpec


class Features(BaseModel):
    country: str
    device: Literal["phone", "desktop"]
    price: float
    seen: bool
    shown_at: datetime
    age: float | None = None


spec = ModelSpec(name="shop", features=Features, objective="multiclass", classes=("buy", "look", "leave"))
"""


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestPlatform]:
    folder = tmp_path_factory.mktemp("stock")
    (folder / "shop.py").write_text(SHOP)
    (folder / "untaught.py").write_text(VECTOR)
    with platform_in(folder) as place:
        place.start("untaught:spec", "shop:spec")
        yield place


@pytest.fixture
def client(platform: TestPlatform) -> Iterator[Any]:
    with triton.InferenceServerClient(f"127.0.0.1:{platform.port}") as client:
        yield client


def _input(name: str, values: np.ndarray, datatype: str, raw: bool) -> Any:
    given = triton.InferInput(name, list(values.shape), datatype)
    given.set_data_from_numpy(values, binary_data=raw)
    return given


def _expected(platform: TestPlatform) -> np.ndarray:
    with platform.client() as client:
        made = client.predict("vector", [{"features": {"x": row}} for row in ROWS.astype(float).tolist()])
    return np.array([one["output"]["probability"] for one in made], dtype=np.float32)


def test_triton_lists_and_checks(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("vector")
    assert not client.is_model_ready("none")
    assert client.get_server_metadata()["name"] == "tidemill"
    [version] = client.get_model_metadata("vector")["versions"]
    assert client.is_model_ready("vector", version)
    assert client.get_model_metadata("vector", version)["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 32]}]
    names = {(row["name"], row["state"]) for row in client.get_model_repository_index()}
    assert names == {("vector", "READY"), ("shop", "READY")}


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_triton_infers(platform: TestPlatform, client: Any, raw: bool, compression: str | None) -> None:
    for outputs in (None, [triton.InferRequestedOutput("probability", binary_data=raw)]):
        answer = client.infer(
            "vector", [_input("x", ROWS, "FP32", raw)], outputs=outputs, request_id="mine", parameters={"unit": "u1"},
            request_compression_algorithm=compression, response_compression_algorithm=compression,
        )  # fmt: skip
        np.testing.assert_allclose(answer.as_numpy("probability"), _expected(platform), rtol=1e-6)
        response = answer.get_response()
        assert (response["id"], response["model_name"]) == ("mine", "vector")
        with platform.client() as operator:
            told = operator.feedback([{"id": response["parameters"]["prediction_id"], "label": 1}])
        assert told["accepted"] == 1


def test_triton_infers_asynchronously_many_at_a_time(platform: TestPlatform) -> None:
    with triton.InferenceServerClient(f"127.0.0.1:{platform.port}", concurrency=8) as client:
        calls = [client.async_infer("vector", [_input("x", ROWS, "FP32", True)]) for _ in range(40)]
        answers: list[Any] = [call.get_result().as_numpy("probability") for call in calls]
    np.testing.assert_allclose(answers, [_expected(platform)] * 40, rtol=1e-6)


@pytest.mark.parametrize("raw", [False, True])
def test_triton_sends_texts_booleans_and_times_and_reads_classes(client: Any, raw: bool) -> None:
    inputs = [
        _input("country", np.array(["VN", "größe"], dtype=object), "BYTES", raw),
        _input("device", np.array(["phone", "desktop"], dtype=object), "BYTES", raw),
        _input("price", np.array([9.5, 1.0]), "FP64", raw),
        _input("seen", np.array([True, False]), "BOOL", raw),
        _input("shown_at", np.array(["2026-01-01T12:00:00", "2026-01-02T09:30:00"], dtype=object), "BYTES", raw),
    ]
    answer = client.infer("shop", inputs)
    probabilities = answer.as_numpy("probabilities")
    assert probabilities.shape == (2, 3)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, rtol=1e-5)
    classes = [text.decode() for text in answer.as_numpy("class")]
    assert classes == [("buy", "look", "leave")[best] for best in probabilities.argmax(axis=1)]


def test_triton_reads_errors(client: Any) -> None:
    with pytest.raises(InferenceServerException, match=r"input x: its shape is \[1, 3\], expected \[1, 32\]") as found:
        client.infer("vector", [_input("x", np.zeros((1, 3), np.float32), "FP32", True)])
    assert found.value.status() == "400"
    with pytest.raises(InferenceServerException, match="no model 'none'") as found:
        client.infer("none", [_input("x", ROWS, "FP32", True)])
    assert found.value.status() == "404"
    with pytest.raises(InferenceServerException, match="no route"):
        client.get_inference_statistics("vector")


def test_triton_unloads_and_loads_with_the_operators_token(platform: TestPlatform, client: Any) -> None:
    with pytest.raises(InferenceServerException, match="token"):
        client.unload_model("shop")
    headers = {"authorization": f"Bearer {platform.home.token()}"}
    client.unload_model("shop", headers=headers)
    assert not client.is_model_ready("shop")
    assert client.is_model_ready("vector")
    client.load_model("shop", headers=headers)
    until(lambda: client.is_model_ready("shop"), "the model is ready again")


def test_the_platform_does_as_its_own_description_says(platform: TestPlatform) -> None:
    done = as_described(platform.url, f"{platform.url}/openapi.json", "--max-examples", "20", *SEEDED)
    assert done.returncode == 0, done.stdout[-5000:]
    assert "13 selected / 13 total" in done.stdout


def test_the_platform_does_as_the_published_description_says(platform: TestPlatform, tmp_path: Path) -> None:
    tensor = {"name": "x", "shape": [2, 32], "datatype": "FP32", "data": ROWS.tolist()}
    described = tmp_path / "described.json"
    described.write_text(json.dumps(open_inference(PUBLISHED, ["vector", "shop"], {"id": "mine", "inputs": [tensor]})))
    done = as_described(platform.url, described, "--max-examples", "20", *SEEDED)
    assert done.returncode == 0, done.stdout[-5000:]
    assert "9 selected / 9 total" in done.stdout


@pytest.mark.skipif(not KSERVE.exists(), reason="KServe's SDK is not installed: make test does it")
def test_the_kserve_sdk_checks_infers_and_reads_errors(platform: TestPlatform) -> None:
    done = subprocess.run(
        [KSERVE, ROOT / "tests/clients/kserve_sdk.py", platform.url], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert [found[name] for name in ("live", "ready", "model ready", "no model ready")] == [True, True, True, False]
    for raw in ("raw False", "raw True"):
        one = found[raw]
        np.testing.assert_allclose(one["scores"], _expected(platform), rtol=1e-6)
        assert (one["name"], one["id"], one["parameters"]["variant"]) == ("probability", "mine", "main")
        assert one["parameters"]["prediction_id"].startswith("vector:")
    status, text = found["error"]
    assert status == 400
    assert "its shape is [1, 3], expected [1, 32]" in text
