"""Build a version's graph around a model: encoded features in, scores out, the weights outside, as every version has it."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, compose, helper, inliner, numpy_helper
from onnx.external_data_helper import set_external_data

from serving.foreign.checks import DOMAINS
from serving.foreign.matching import Feed
from serving.foreign.signature import whole_range
from store.artefact import CATEGORIES, NUMBERS, SCORES, pack_weights
from store.schema import Schema

_PREFIX = "model/"
"""Stands before every name of the model's own, so that none is one of ours."""
_OWN_OPSET = 13
_LEAST_IR = 8
_LEAST_BYTES = 1024
"""Smaller tensors stay in the graph: shapes and axes are among them, which ONNX Runtime wants to see there."""
_Step = tuple[str, list[str], dict[str, Any]]
"""An operator, its inputs beside the value that it is done to, and its attributes."""
_PASSING = frozenset({"Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze", "Flatten"})


def inlined(model: ModelProto) -> ModelProto:
    """Return the model without local functions, and with its weights among its weights alone, no longer among its inputs."""
    if model.functions:
        model = inliner.inline_local_functions(model)
    built_in = {tensor.name for tensor in model.graph.initializer}
    asked = [value for value in model.graph.input if value.name not in built_in]
    del model.graph.input[:]
    model.graph.input.extend(asked)
    opsets = {
        ("" if one.domain == "ai.onnx" else one.domain): one.version for one in model.opset_import if one.domain in DOMAINS
    }
    opsets.setdefault("", _OWN_OPSET)
    del model.opset_import[:]
    model.opset_import.extend(helper.make_opsetid(domain, version) for domain, version in opsets.items())
    model.ir_version = max(model.ir_version, _LEAST_IR)
    del model.metadata_props[:]
    return model


def ends_in_sigmoid(graph: GraphProto, output: str) -> bool:
    """Whether an output is a sigmoid, but for changes of its shape or type."""
    makers: dict[str, NodeProto] = {name: node for node in graph.node for name in node.output}
    for _ in graph.node:
        node = makers.get(output)
        if node is None or node.op_type not in _PASSING:
            return node is not None and node.op_type == "Sigmoid"
        output = node.input[0]
    return False


def wrapped(
    model: ModelProto, schema: Schema, feeds: Sequence[Feed], output: str, columns: Sequence[int], of: int
) -> tuple[bytes, bytes]:
    """Return the graph and the weights of a version; the model given becomes a part of it.

    Args:
        columns: which of the output's columns are the scores, in order; `of`: how many it has.
    """
    # onnx itself looks into subgraphs before it has seen the weights, and they may use these.
    renamed = {tensor.name: f"{_PREFIX}{tensor.name}" for tensor in model.graph.initializer}
    graph = compose.add_prefix_graph(model.graph, _PREFIX, inplace=True, name_map=renamed)
    constants: dict[str, np.ndarray] = {}
    before = [node for number, feed in enumerate(feeds) for node in _feeding(feed, f"feed{number}", constants)]
    after = _answering(f"{_PREFIX}{output}", columns, of, constants)
    inner = list(graph.node)
    del graph.node[:], graph.input[:], graph.output[:], graph.value_info[:]
    graph.node.extend([*before, *inner, *after])
    graph.input.append(helper.make_tensor_value_info(NUMBERS, TensorProto.FLOAT, ["rows", schema.numbers]))
    graph.input.append(helper.make_tensor_value_info(CATEGORIES, TensorProto.INT64, ["rows", len(schema.buckets)]))
    graph.output.append(helper.make_tensor_value_info(SCORES, TensorProto.FLOAT, ["rows", len(columns)]))
    weights = _outside(graph)
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    for text in ("producer_name", "producer_version", "domain", "doc_string"):
        model.ClearField(text)
    return model.SerializeToString(deterministic=True), weights


def _feeding(feed: Feed, name: str, constants: dict[str, np.ndarray]) -> list[NodeProto]:
    """Return the nodes from the encoded numbers to one input."""
    one = feed.input
    constants[f"{name}.columns"] = np.array(feed.columns, dtype=np.int64)
    steps: list[_Step] = [("Gather", [f"{name}.columns"], {"axis": 1})]
    if one.whole:
        # What a whole number cannot hold would be cast to anything.
        constants[f"{name}.least"], constants[f"{name}.most"] = _limits(one.element)
        steps += [("Max", [f"{name}.least"], {}), ("Min", [f"{name}.most"], {})]
    if one.element != TensorProto.FLOAT:
        steps.append(("Cast", [], {"to": one.element}))
    constants[f"{name}.shape"] = np.array([-1] if one.flat else [-1, one.width], dtype=np.int64)
    steps.append(("Reshape", [f"{name}.shape"], {}))
    return _chain(NUMBERS, steps, name, f"{_PREFIX}{one.name}")


def _answering(output: str, columns: Sequence[int], of: int, constants: dict[str, np.ndarray]) -> list[NodeProto]:
    """Return the nodes from the model's output to the scores."""
    constants["answer.shape"] = np.array([-1, of], dtype=np.int64)
    constants["answer.columns"] = np.array(columns, dtype=np.int64)
    steps: list[_Step] = [
        ("Reshape", ["answer.shape"], {}),
        ("Gather", ["answer.columns"], {"axis": 1}),
        ("Cast", [], {"to": TensorProto.FLOAT}),
    ]
    return _chain(output, steps, "answer", SCORES)


def _chain(value: str, steps: Sequence[_Step], name: str, last: str) -> list[NodeProto]:
    nodes: list[NodeProto] = []
    for number, (operator, others, attributes) in enumerate(steps):
        made = last if number == len(steps) - 1 else f"{name}.{number}"
        nodes.append(helper.make_node(operator, [value, *others], [made], **attributes))
        value = made
    return nodes


def _limits(element: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the least and greatest float32 that are whole numbers of this type."""
    about = whole_range(element)
    most = np.float32(about.max)
    if int(most) > about.max:
        most = np.nextafter(most, np.float32(0))
    return np.array(about.min, dtype=np.float32), np.array(most, dtype=np.float32)


def _outside(graph: GraphProto) -> bytes:
    """Take the weights out of a graph; return them packed."""
    taken = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in graph.initializer
        if tensor.data_type in (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16)
    }
    taken = {name: value for name, value in taken.items() if value.nbytes >= _LEAST_BYTES}
    offsets = dict(zip(taken, accumulate((value.nbytes for value in taken.values()), initial=0), strict=False))
    for tensor in graph.initializer:
        if tensor.name in taken:
            for field in ("raw_data", "float_data", "double_data", "int32_data"):
                tensor.ClearField(field)
            # Without bytes set_external_data has nothing to hold on to; what ONNX Runtime is given replaces these.
            tensor.raw_data = b""
            set_external_data(tensor, "weights", offsets[tensor.name], taken[tensor.name].nbytes)
            tensor.ClearField("raw_data")
    return pack_weights(taken)
