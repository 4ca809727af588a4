"""Small ONNX models, as tests need them."""

from collections.abc import Callable, Sequence

import numpy as np
from onnx import FunctionProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

WEIGHTS = np.array([[0.5], [-1.0], [0.25]], dtype=np.float32)


def value(name: str, shape: Sequence[int | str | None] | None, element: int = TensorProto.FLOAT) -> ValueInfoProto:
    """Declare an input or output."""
    return helper.make_tensor_value_info(name, element, shape)


def model(
    nodes: Sequence[NodeProto],
    inputs: Sequence[ValueInfoProto],
    outputs: Sequence[ValueInfoProto],
    constants: dict[str, np.ndarray] | None = None,
    functions: Sequence[FunctionProto] = (),
) -> ModelProto:
    weights = [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()]
    graph = helper.make_graph(list(nodes), "g", list(inputs), list(outputs), weights)
    domains = {"": 18, "ai.onnx.ml": 3} | {function.domain: 1 for function in functions}
    opsets = [helper.make_opsetid(domain, version) for domain, version in domains.items()]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10, producer_name="by hand", functions=list(functions))


def logistic(change: Callable[[ModelProto], None] | None = None) -> bytes:
    """Return a model of three numbers `x`, sigmoid(x . WEIGHTS), after a change to it."""
    dot = helper.make_node("MatMul", ["x", "w"], ["xw"], name="dot")
    link = helper.make_node("Sigmoid", ["xw"], ["p"], name="link")
    made = model([dot, link], [value("x", ["N", 3])], [value("p", ["N", 1])], {"w": WEIGHTS})
    if change is not None:
        change(made)
    return made.SerializeToString()
