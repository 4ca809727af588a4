"""Learning and serving on CUDA give what the CPU gives; skipped where there is none."""

import numpy as np
import onnxruntime
import pytest
import torch

from examples.vector import spec
from store.artefact import check_golden, open_session
from store.encoding import Encoder
from store.records import Outcome, Served
from trainer.learner import Learner

pytestmark = pytest.mark.gpu

learns = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
serves = pytest.mark.skipif(
    "CUDAExecutionProvider" not in onnxruntime.get_available_providers(), reason="ONNX Runtime has no CUDA provider here"
)


def _outcomes(count: int, seed: int = 0) -> list[Outcome]:
    draw = np.random.default_rng(seed)
    rows = draw.normal(size=(count, 32)).round(3)
    served = Served("main", 1, 1.0)
    return [
        Outcome(
            str(index), "u", [row.astype(np.float32).tobytes()], [0.5], served, int(row[0] > 0), "label", True, 0.0, 1.0, 1.0
        )
        for index, row in enumerate(rows)
    ]


def _taught(device: str, batches: int = 5) -> Learner:
    learner = Learner(spec, device)
    for batch in range(batches):
        assert learner.learn(_outcomes(256, batch), f"batch {batch}").rejected == ""
    return learner


def test_a_learner_on_the_cpu_is_what_no_gpu_gives() -> None:
    assert Learner(spec, "cpu").device.type == "cpu"
    if not torch.cuda.is_available():
        assert Learner(spec).device.type == "cpu"


@learns
def test_learning_on_cuda_agrees_with_the_cpu_and_goes_on_there() -> None:
    cuda, cpu = _taught("cuda"), _taught("cpu")
    graph = cpu.export()
    assert cuda.export().digest == graph.digest
    np.testing.assert_allclose(cuda.golden(graph), cpu.golden(graph), atol=1e-3)
    resumed = Learner(spec, "cpu")
    resumed.restore(cuda.weights(), cuda.checkpoint())
    np.testing.assert_allclose(resumed.golden(graph), cuda.golden(graph), atol=1e-6)
    assert resumed.learn(_outcomes(256, 9), "batch 9").rejected == ""


@serves
def test_a_version_answers_on_cuda_as_on_the_cpu() -> None:
    learner = _taught("cpu")
    graph = learner.export()
    there = open_session(graph.onnx, learner.weights(), ("cuda", "cpu"))
    here = open_session(graph.onnx, learner.weights())
    assert there.runtime.get_providers()[0] == "CUDAExecutionProvider"
    check_golden(there, graph.golden_inputs, learner.golden(graph), 1e-4)
    rows = Encoder(learner.record.features).encode([outcome.row for outcome in _outcomes(512)])
    np.testing.assert_allclose(there.run(rows), here.run(rows), atol=1e-4)


def test_a_provider_that_is_not_here_is_passed_over() -> None:
    learner = _taught("cpu", 1)
    graph = learner.export()
    session = open_session(graph.onnx, learner.weights(), ("cuda", "cpu"))
    assert session.runtime.get_providers()[-1] == "CPUExecutionProvider"
    check_golden(session, graph.golden_inputs, learner.golden(graph), 1e-4)
