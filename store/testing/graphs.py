"""Real graphs that behave badly, for a model with 32 numbers: what a version does that passed its golden check all the same.

Each answers sigmoid(x . w), as a good one would; `x[0]` decides when it misbehaves.
"""

from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import set_external_data

from store.artefact import CATEGORIES, NUMBERS, SCORES, graph_of, pack_weights
from store.encoding import Encoded
from store.protocols import Graph

WIDTH = 32
Manner = Literal["good", "throws", "nan", "slow"]


def weights(seed: int = 0, scale: float = 0.3) -> bytes:
    return pack_weights({"w": np.random.default_rng(seed).normal(0.0, scale, (WIDTH, 1)).astype(np.float32)})


def behaving(manner: Manner, limit: float = 0.95, turns: int = 0) -> Graph:
    """Return a graph that is good, throws or gives NaN where x[0] is above `limit`, or multiplies matrices `turns` times."""
    nodes, constants = _NODES[manner](limit, turns)
    scored = [helper.make_node("MatMul", [NUMBERS, "w"], ["xw"])]
    score = helper.make_node("Sigmoid", ["extra"], [SCORES])
    external = numpy_helper.from_array(np.zeros((WIDTH, 1), dtype=np.float32), "w")
    set_external_data(external, "weights", 0, WIDTH * 4)
    external.data_location = TensorProto.EXTERNAL
    external.ClearField("raw_data")
    graph = helper.make_graph(
        [*scored, *nodes, score],
        manner,
        [
            helper.make_tensor_value_info(NUMBERS, TensorProto.FLOAT, ["rows", WIDTH]),
            helper.make_tensor_value_info(CATEGORIES, TensorProto.INT64, ["rows", 0]),
        ],
        [helper.make_tensor_value_info(SCORES, TensorProto.FLOAT, ["rows", 1])],
        [external, *(numpy_helper.from_array(value, name) for name, value in constants.items())],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    golden = np.random.default_rng(1).uniform(0.0, 0.9, (4, WIDTH)).astype(np.float32)
    return graph_of(model.SerializeToString(), Encoded(golden, np.zeros((4, 0), dtype=np.int64)))


_FIRST = {"zero": np.array([0]), "one": np.array([1]), "axis": np.array([1])}
_Parts = tuple[list[onnx.NodeProto], dict[str, np.ndarray]]


def _first() -> onnx.NodeProto:
    return helper.make_node("Slice", [NUMBERS, "zero", "one", "axis"], ["x0"])


def _good(_limit: float, _turns: int) -> _Parts:
    return [helper.make_node("Identity", ["xw"], ["extra"])], {}


def _throws(limit: float, _turns: int) -> _Parts:
    """A lookup in a table that is one entry short."""
    nodes = [
        _first(),
        helper.make_node("Greater", ["x0", "limit"], ["above"]),
        helper.make_node("Cast", ["above"], ["place"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "place"], ["found"]),
        helper.make_node("Add", ["xw", "found"], ["extra"]),
    ]
    return nodes, _FIRST | {"limit": np.array([limit], dtype=np.float32), "table": np.zeros(1, dtype=np.float32)}


def _nan(limit: float, _turns: int) -> _Parts:
    """The root of a number that is negative above the limit."""
    nodes = [
        _first(),
        helper.make_node("Sub", ["limit", "x0"], ["left"]),
        helper.make_node("Sqrt", ["left"], ["root"]),
        helper.make_node("Mul", ["root", "nothing"], ["none"]),
        helper.make_node("Add", ["xw", "none"], ["extra"]),
    ]
    constants: dict[str, Any] = {"limit": np.array([limit], dtype=np.float32), "nothing": np.zeros(1, dtype=np.float32)}
    return nodes, _FIRST | constants


def _slow(_limit: float, turns: int) -> _Parts:
    """A loop that multiplies a matrix by itself so many times."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("MatMul", ["m", "square"], ["m_next"]),
        ],
        "turn",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("m", TensorProto.FLOAT, [128, 128]),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("m_next", TensorProto.FLOAT, [128, 128]),
        ],
    )
    nodes = [
        # What is multiplied depends on the input, so that nobody does it in advance.
        helper.make_node("ReduceMean", [NUMBERS], ["mean"], keepdims=0),
        helper.make_node("Mul", ["square", "mean"], ["begin"]),
        helper.make_node("Loop", ["turns", "yes", "begin"], ["end"], body=body),
        helper.make_node("ReduceMean", ["end"], ["mean_end"], keepdims=0),
        helper.make_node("Mul", ["mean_end", "nothing"], ["none"]),
        helper.make_node("Add", ["xw", "none"], ["extra"]),
    ]
    constants = {
        "square": (np.eye(128) * 0.999).astype(np.float32),
        "turns": np.array(turns, dtype=np.int64),
        "yes": np.array(True),
        "nothing": np.zeros((), dtype=np.float32),
    }
    return nodes, constants


_NODES = {"good": _good, "throws": _throws, "nan": _nan, "slow": _slow}
