"""Between the platform's artefacts (a graph, its weights beside it) and the whole models that quantisers take."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import set_external_data

from store.artefact import graph_of, unpack_golden
from store.protocols import Graph
from trainer.compression.recipe import Recipe, Step
from trainer.errors import CompressionError, NotApplicable


@dataclass(frozen=True, slots=True)
class Whole:
    """A model with its weights in it; `weights` names those that the artefact keeps outside."""

    model: onnx.ModelProto
    weights: tuple[str, ...]

    def steps(self, how: str, chosen: Iterable[str], transposed: Iterable[str] = ()) -> tuple[Step, ...]:
        """Return a step for every weight: `how` for those that are chosen, the others stay as they are."""
        names, turned = set(chosen), set(transposed)
        made = (
            {"source": name, "how": how if name in names else "same", "transposed": name in turned} for name in self.weights
        )
        return tuple(Step.model_validate(step) for step in made)


@dataclass(frozen=True, slots=True)
class Lowered:
    """A model whose matrix products are all MatMul, which is what quantisers know best.

    `matrices` maps the name of a product's node to its weight, a matrix [rows, columns] now; those in `transposed` are
    [columns, rows] in the version's weights.
    """

    whole: Whole
    matrices: dict[str, str]
    transposed: frozenset[str]


def whole(graph: Graph, weights: Mapping[str, np.ndarray]) -> Whole:
    """Put a version's weights into its graph."""
    model = onnx.load_from_string(graph.onnx)
    outside = [tensor for tensor in model.graph.initializer if tensor.external_data]
    for tensor in outside:
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(weights[tensor.name]), tensor.name))
    return Whole(model, tuple(tensor.name for tensor in outside))


def apart(model: onnx.ModelProto, recipe: Recipe, weights: Mapping[str, np.ndarray], golden_inputs: bytes) -> Graph:
    """Return the artefact's graph of a compressed model: what the recipe makes is outside, the recipe itself inside.

    Raises:
        CompressionError: the model does not have the tensors that the recipe makes.
    """
    found = {tensor.name: tensor for tensor in model.graph.initializer}
    offset = 0
    for name, tensor in recipe.tensors(weights).items():
        proto = numpy_helper.from_array(np.ascontiguousarray(tensor), name)
        if name not in found or (found[name].data_type, found[name].dims) != (proto.data_type, proto.dims):
            raise CompressionError(f"{recipe.method}: the quantised graph has no tensor '{name}' of shape {tensor.shape}")
        size = len(proto.raw_data)
        set_external_data(proto, location="weights", offset=offset, length=size)
        proto.ClearField("raw_data")
        found[name].CopyFrom(proto)
        offset += size
    model.graph.ClearField("value_info")
    recipe.write(model)
    return graph_of(model.SerializeToString(), unpack_golden(golden_inputs))


def lowered(full: Whole, least_columns: int) -> Lowered:
    """Turn Gemm into MatMul and Add, and find the products worth quantising.

    Raises:
        NotApplicable: there is none with a weight matrix of at least `least_columns` columns.
    """
    model = full.model
    uses = Counter(_used(model.graph))
    turned = frozenset(node.input[1] for node in model.graph.node if node.op_type == "Gemm" and _turns(node))
    if shared := [name for name in turned if uses[name] > 1]:
        raise NotApplicable(f"weight '{shared[0]}' feeds several nodes of the graph")
    _replace_gemm(model, turned)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer if tensor.name in full.weights}
    matrices: dict[str, str] = {}
    for number, node in enumerate(model.graph.node):
        node.name = node.name or f"node_{number}"
        weight = tensors.get(node.input[1]) if node.op_type == "MatMul" else None
        if weight is not None and _is_matrix(weight, least_columns) and uses[weight.name] == 1:
            matrices[node.name] = weight.name
    if not matrices:
        raise NotApplicable(f"the graph has no MatMul with a weight matrix of at least {least_columns} columns")
    return Lowered(full, matrices, turned & tensors.keys())


def _used(graph: onnx.GraphProto) -> Iterator[str]:
    """Every name that a node takes, in subgraphs too, which see the weights around them."""
    for node in graph.node:
        yield from node.input
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _used(inner)


def _replace_gemm(model: onnx.ModelProto, turned: frozenset[str]) -> None:
    """Put MatMul and Add in place of each Gemm that is no more than these; weights that it turned are turned once, here."""
    for tensor in model.graph.initializer:
        if tensor.name in turned:
            matrix = np.ascontiguousarray(numpy_helper.to_array(tensor).T)
            tensor.CopyFrom(numpy_helper.from_array(matrix, tensor.name))
    known = {tensor.name for tensor in model.graph.initializer}
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if node.op_type != "Gemm" or not _is_plain(node) or (_turns(node) and node.input[1] not in known):
            nodes.append(node)
            continue
        [made] = node.output
        added = len(node.input) > 2 and node.input[2]
        product = f"{made}_product" if added else made
        nodes.append(helper.make_node("MatMul", node.input[:2], [product], name=f"{node.name or made}_MatMul"))
        if added:
            nodes.append(helper.make_node("Add", [product, node.input[2]], [made], name=f"{node.name or made}_Add"))
    model.graph.ClearField("node")
    model.graph.node.extend(nodes)


def _turns(node: onnx.NodeProto) -> bool:
    """Whether a Gemm will be replaced by a MatMul of its transposed weight."""
    return _is_plain(node) and _given(node).get("transB", 0) == 1


def _is_plain(node: onnx.NodeProto) -> bool:
    given = _given(node)
    return (given.get("alpha", 1.0), given.get("beta", 1.0), given.get("transA", 0)) == (1.0, 1.0, 0)


def _given(node: onnx.NodeProto) -> dict[str, Any]:
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def _is_matrix(tensor: TensorProto, least_columns: int) -> bool:
    return tensor.data_type == TensorProto.FLOAT and len(tensor.dims) == 2 and tensor.dims[1] >= least_columns
