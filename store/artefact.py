"""What a version is made of, and how ONNX Runtime opens it.

A graph is exported once with every weight external; a version is only its weights, as safetensors, plus what its own
session answered to the graph's golden inputs. Weights go in by `add_external_initializers`, which replaces them before the
graph is optimised (`add_initializer` would serve stale constants wherever folding touched them).
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime
from safetensors import SafetensorError
from safetensors.numpy import load, save

from store.encoding import Encoded
from store.errors import StoreError, first_line
from store.placement import Provider
from store.protocols import Graph, Version

NUMBERS, CATEGORIES, SCORES = "numbers", "categories", "scores"

PROVIDERS: dict[Provider, str] = {"cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}
"""What ONNX Runtime calls them."""

# Answers are compared with those of the machine that made the version: the shorter mantissa would show.
_PROVIDER_OPTIONS: dict[str, dict[str, Any]] = {"CUDAExecutionProvider": {"use_tf32": "0"}}


SMALL_BYTES = 2**20
"""Weights of a model whose run is mostly overhead: there, looking for ways to fuse its nodes costs more than it saves.

Not where weights are bytes: nodes that are not fused would make float32 of them again in every run."""


_DIGEST = 32
"""How many characters of a digest are compared: as many as the shortest on record."""


class ArtefactError(StoreError):
    """A version's artefact is damaged, incomplete, or does not answer as its record says."""


@dataclass(frozen=True, slots=True)
class Session:
    """An open version. Keeps the weights alive: ONNX Runtime aliases their memory and nobody may write to it."""

    runtime: onnxruntime.InferenceSession
    inputs: frozenset[str]
    outputs: list[str]
    kept_alive: tuple[object, ...]

    def run(self, encoded: Encoded) -> np.ndarray:
        """Return scores, float32 [rows, outputs]."""
        feeds = {NUMBERS: encoded.numbers, CATEGORIES: encoded.categories}
        if len(self.inputs) < len(feeds):
            feeds = {name: feeds[name] for name in self.inputs}
        return self.runtime.run(self.outputs, feeds)[0]  # pyright: ignore[reportReturnType]


def open_session(graph: bytes, weights: bytes, providers: Sequence[Provider] = ("cpu",), threads: int = 1) -> Session:
    """Open a graph with a version's weights.

    Args:
        providers: execution providers in order; those that are not here are passed over, and the CPU is always the last.
        threads: that one run may use.

    Raises:
        ArtefactError: the weights cannot be read, or do not fit the graph.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4
    try:
        tensors = load(weights)
        if len(weights) < SMALL_BYTES and not any(tensor.itemsize == 1 for tensor in tensors.values()):
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        values = [onnxruntime.OrtValue.ortvalue_from_numpy(np.array(tensor)) for tensor in tensors.values()]
        options.add_external_initializers(list(tensors), values)
        runtime = onnxruntime.InferenceSession(graph, options, providers=_present(providers))
    except (SafetensorError, RuntimeError, ValueError, TypeError) as error:
        raise ArtefactError(f"the weights do not open: {first_line(error, 300)}") from error
    except Exception as error:  # onnxruntime's own errors derive from Exception alone
        if type(error).__module__.startswith("onnxruntime"):
            raise ArtefactError(f"the graph does not open: {first_line(error, 300)}") from error
        raise
    names = frozenset(argument.name for argument in runtime.get_inputs())
    return Session(runtime, names, [argument.name for argument in runtime.get_outputs()], (values, weights))


def _present(providers: Sequence[Provider]) -> list[tuple[str, dict[str, Any]]]:
    there = onnxruntime.get_available_providers()
    wanted = [PROVIDERS[one] for one in (*providers, "cpu")]
    return [(name, _PROVIDER_OPTIONS.get(name, {})) for name in dict.fromkeys(wanted) if name in there]


def check_golden(session: Session, golden_inputs: bytes, golden: tuple[tuple[float, ...], ...], tolerance: float) -> None:
    """Compare a session's answers with those on its version's record; this also warms it up.

    Raises:
        ArtefactError: they differ by more than the tolerance, or are not finite.
    """
    answers = session.run(unpack_golden(golden_inputs))
    expected = np.asarray(golden, dtype=np.float32)
    if answers.shape != expected.shape or not np.isfinite(answers).all():
        raise ArtefactError(f"golden outputs have shape {answers.shape}, on record {expected.shape}, all must be finite")
    difference = float(np.abs(answers - expected).max(initial=0.0))
    if difference > tolerance:
        raise ArtefactError(f"golden outputs differ from the record by {difference:.2g}, more than {tolerance:.2g}")


def check_digests(version: Version, graph: Graph, weights: bytes) -> None:
    """Compare stored bytes with the digests on their version's record.

    Raises:
        ArtefactError: they are others than those that were published.
    """
    if digest_of(weights)[:_DIGEST] != version.weights[:_DIGEST]:
        raise ArtefactError(f"the stored weights of version {version.number} are not those that were published")
    if digest_of(graph.onnx, graph.golden_inputs)[:_DIGEST] != version.graph[:_DIGEST]:
        raise ArtefactError(f"the stored graph of version {version.number} is not the one that was published")


def pack_golden(inputs: Encoded) -> bytes:
    return save({NUMBERS: inputs.numbers, CATEGORIES: inputs.categories})


def unpack_golden(packed: bytes) -> Encoded:
    tensors = load(packed)
    return Encoded(tensors[NUMBERS], tensors[CATEGORIES])


def pack_weights(tensors: Mapping[str, np.ndarray], metadata: dict[str, str] | None = None) -> bytes:
    return save({name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}, metadata)


def digest_of(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def graph_of(onnx: bytes, golden: Encoded) -> Graph:
    packed = pack_golden(golden)
    return Graph(digest_of(onnx, packed)[:_DIGEST], onnx, packed)
