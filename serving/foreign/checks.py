"""What may be in an ONNX file: looked at everywhere, in subgraphs and local functions too, before anything is opened."""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto, numpy_helper

from serving.errors import Refused

T = TypeVar("T")

DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml"})
MOST_ELEMENTS = 100_000_000
MOST_DIMENSIONS = 64
OLDEST_OPSET = 9
"""Of ai.onnx: the wrapping takes its operators as they are from there on."""

_CARRIED: dict[int, tuple[int, str]] = {
    TensorProto.FLOAT: (4, "float_data"), TensorProto.DOUBLE: (8, "double_data"), TensorProto.FLOAT16: (2, "int32_data"),
    TensorProto.BFLOAT16: (2, "int32_data"), TensorProto.INT8: (1, "int32_data"), TensorProto.INT16: (2, "int32_data"),
    TensorProto.INT32: (4, "int32_data"), TensorProto.INT64: (8, "int64_data"), TensorProto.UINT8: (1, "int32_data"),
    TensorProto.UINT16: (2, "int32_data"), TensorProto.UINT32: (4, "uint64_data"), TensorProto.UINT64: (8, "uint64_data"),
    TensorProto.BOOL: (1, "int32_data"), TensorProto.STRING: (0, "string_data"),
}  # fmt: skip
"""Of each element type that is taken: its bytes in `raw_data`, and the field that carries it otherwise."""
_FRACTIONS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)


def checked(content: bytes) -> ModelProto:
    """Return the model that a file holds; whether it is made as ONNX wants it is for `validate` to say.

    Raises:
        Refused: it holds none, or something that no version may have.
    """
    if content[:1] == b"\x80":
        raise Refused(
            "this is a pickle, and a pickle runs code when it is opened: convert the model to ONNX yourself and send that"
        )
    try:
        model = onnx.load_from_string(content)
    except DecodeError:
        raise Refused("this is no ONNX file, or only a part of one: its bytes cannot be read as one") from None
    if not model.HasField("graph") or not model.ir_version or not model.graph.node:
        raise Refused("this is no ONNX file, or only a part of one: there is no graph in it")
    if model.training_info:
        raise Refused("the file holds training_info, which serving has no use for: export the model for inference")
    _check_functions(model.functions)
    local = {(function.domain, function.name) for function in model.functions}
    for body in (model.graph, *model.functions):
        _check_body(body, local)
    opset = next((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), OLDEST_OPSET)
    newest = onnx.defs.onnx_opset_version()
    if not OLDEST_OPSET <= opset <= newest:
        raise Refused(f"the model has opset {opset} of ai.onnx: export it with {OLDEST_OPSET} to {newest}")
    return model


def validate(model: ModelProto) -> None:
    """Raises Refused where a model is not made as ONNX models are."""
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError) as error:
        raise Refused(f"this is no valid ONNX model: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]


def _check_functions(functions: Sequence[FunctionProto]) -> None:
    for function in functions:
        if function.domain in DOMAINS or function.domain.startswith("com.microsoft"):
            raise Refused(
                f"the local function '{function.name[:80]}' stands in for an operator of domain '{function.domain[:80]}'"
            )


def _check_body(body: GraphProto | FunctionProto, local: set[tuple[str, str]]) -> None:
    """Check a graph or a local function, and every graph inside of it."""
    if isinstance(body, GraphProto):
        for tensor in body.initializer:
            _check_tensor(tensor, f"the weights '{tensor.name[:80]}'")
        for sparse in body.sparse_initializer:
            _check_sparse(sparse, f"the weights '{sparse.values.name[:80]}'")
    else:
        _check_attributes(body.attribute_proto, f"a default of the function '{body.name[:80]}'", local)
    for node in body.node:
        _check_node(node, local)


def _check_node(node: NodeProto, local: set[tuple[str, str]]) -> None:
    where = f"the node '{node.name[:80]}' ({node.op_type[:80]})"
    if node.domain not in DOMAINS and (node.domain, node.op_type) not in local:
        raise Refused(f"{where} is of operator domain '{node.domain[:80]}': only those of ai.onnx and ai.onnx.ml are run")
    _check_attributes(node.attribute, where, local)


def _check_attributes(attributes: Iterable[AttributeProto], where: str, local: set[tuple[str, str]]) -> None:
    for attribute in attributes:
        inside = f"'{attribute.name[:80]}' of {where}"
        for tensor in _own(attribute, "t", attribute.tensors):
            _check_tensor(tensor, inside)
        for sparse in _own(attribute, "sparse_tensor", attribute.sparse_tensors):
            _check_sparse(sparse, inside)
        for graph in _own(attribute, "g", attribute.graphs):
            _check_body(graph, local)
        # Infinity is left alone here: it is a threshold in trees that send missing values one way.
        if math.isnan(attribute.f) or np.isnan(np.fromiter(attribute.floats, np.float32)).any():
            raise Refused(f"{inside} holds NaN: the model did not train well, or the file is damaged")


def _own(attribute: AttributeProto, one: str, many: Sequence[T]) -> Iterator[T]:
    if attribute.HasField(one):
        yield getattr(attribute, one)
    yield from many


def _check_sparse(sparse: SparseTensorProto, where: str) -> None:
    if _elements(sparse.dims, where) > MOST_ELEMENTS:
        raise Refused(f"{where} has {_elements(sparse.dims, where):,} elements: {MOST_ELEMENTS:,} are the most")
    _check_tensor(sparse.values, where)
    _check_tensor(sparse.indices, where)


def _check_tensor(tensor: TensorProto, where: str) -> None:
    if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
        location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
        raise Refused(f"{where} is said to lie in another file, '{location[:80]}': save the model with its weights inside")
    elements = _elements(tensor.dims, where)
    if elements > MOST_ELEMENTS:
        raise Refused(f"{where} has {elements:,} elements: {MOST_ELEMENTS:,} are the most")
    if tensor.data_type not in _CARRIED:
        raise Refused(f"{where} has element type {tensor.data_type}: numbers, booleans and text are taken")
    size, typed = _CARRIED[tensor.data_type]
    carried = len(tensor.raw_data) / size if size and tensor.raw_data else len(getattr(tensor, typed))
    if carried != elements:
        raise Refused(f"{where} is said to have {elements:,} elements and carries {carried:,g}: the file is damaged")
    if tensor.data_type in _FRACTIONS:
        _check_numbers(numpy_helper.to_array(tensor).astype(np.float64), where)


def _check_numbers(values: np.ndarray, where: str) -> None:
    # A single infinity is how a mask is written; among weights it is one that ran away.
    wrong = np.isnan(values) if values.size <= 1 else ~np.isfinite(values)
    if wrong.any():
        raise Refused(f"{where} holds NaN or infinity: the model did not train well, or the file is damaged")


def _elements(dims: Sequence[int], where: str) -> int:
    if len(dims) > MOST_DIMENSIONS:
        raise Refused(f"{where} has {len(dims):,} dimensions: {MOST_DIMENSIONS} are the most")
    if any(size < 0 for size in dims):
        raise Refused(f"{where} has a negative size: the file is damaged")
    return math.prod(dims)
