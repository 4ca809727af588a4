"""What an ONNX model takes and gives, as far as a version can be made of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from onnx import ModelProto, TensorProto, ValueInfoProto, helper

from serving.errors import Refused

MOST_COLUMNS = 65_536

_FRACTIONS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16)
_WHOLE = (
    TensorProto.INT8, TensorProto.INT16, TensorProto.INT32, TensorProto.INT64,
    TensorProto.UINT8, TensorProto.UINT16, TensorProto.UINT32, TensorProto.UINT64,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Input:
    """One input of the model: [N], or [N, `width`]. `element` is its ONNX element type."""

    name: str
    element: int
    width: int
    flat: bool

    @property
    def whole(self) -> bool:
        return self.element in _WHOLE

    @property
    def boolean(self) -> bool:
        return self.element == TensorProto.BOOL

    @property
    def text(self) -> bool:
        return self.element == TensorProto.STRING

    @property
    def dtype(self) -> np.dtype[np.generic]:
        return np.dtype(helper.tensor_dtype_to_np_dtype(self.element))

    @property
    def bounds(self) -> tuple[float, float]:
        """The least and greatest whole number that survives float32, which features travel as, and this type."""
        about = whole_range(self.element)
        return max(float(about.min), -(2.0**24)), min(float(about.max), 2.0**24)


def whole_range(element: int) -> "np.iinfo[Any]":
    """Return the limits of an ONNX element type of whole numbers."""
    return np.iinfo(cast(Any, helper.tensor_dtype_to_np_dtype(element)))


def inputs_of(model: ModelProto) -> tuple[Input, ...]:
    """Return what a model is to be fed.

    Raises:
        Refused: an input is no list or table of numbers with a row for each prediction.
    """
    built_in = {tensor.name for tensor in model.graph.initializer}
    built_in |= {sparse.values.name for sparse in model.graph.sparse_initializer}
    found = tuple(_input(value) for value in model.graph.input if value.name not in built_in)
    if not found:
        raise Refused("the model has no input, so there is nothing to ask it")
    return found


def _input(value: ValueInfoProto) -> Input:
    where = f"input '{value.name[:80]}'"
    if not value.type.HasField("tensor_type"):
        raise Refused(f"{where} is no tensor: numbers of shape [N] or [N, d] are taken")
    tensor = value.type.tensor_type
    if tensor.elem_type not in (*_FRACTIONS, *_WHOLE, TensorProto.BOOL, TensorProto.STRING):
        raise Refused(f"{where} has element type {tensor.elem_type}: numbers and booleans are taken")
    if not tensor.HasField("shape"):
        raise Refused(f"{where} has no declared number of dimensions: export it with shape [N] or [N, d]")
    dims = tensor.shape.dim
    if len(dims) not in (1, 2):
        raise Refused(f"{where} has {len(dims)} dimensions: [N] and [N, d] are taken")
    if dims[0].HasField("dim_value") and dims[0].dim_value != -1:
        raise Refused(f"{where} takes exactly {dims[0].dim_value} rows: export it with a dynamic first dimension")
    if len(dims) == 1:
        return Input(value.name, tensor.elem_type, 1, flat=True)
    width = dims[1].dim_value
    if not 1 <= width <= MOST_COLUMNS:
        has = f"{width:,}" if dims[1].HasField("dim_value") else "an unknown number of"
        raise Refused(f"{where} has {has} columns: export it with a fixed number of them, 1 to {MOST_COLUMNS:,}")
    return Input(value.name, tensor.elem_type, width, flat=False)


def chosen_output(model: ModelProto, asked: str) -> str:
    """Return the output that is the answer: the one asked for, the only one, or a classifier's probabilities.

    Raises:
        Refused: there is no such output, several could be meant, or it holds no fractions.
    """
    kinds = {value.name: _kind(value) for value in model.graph.output}
    names = ", ".join(f"'{name[:80]}'" for name in list(kinds)[:20])
    if asked and asked not in kinds:
        raise Refused(f"the model has no output '{asked[:80]}': it has {names}")
    possible = [name for name, kind in kinds.items() if kind == "fractions"]
    labels = [name for name, kind in kinds.items() if kind == "labels"]
    if asked:
        name = asked
    elif len(kinds) == 1:
        [name] = kinds
    elif "maps" in kinds.values():
        name = next(name for name, kind in kinds.items() if kind == "maps")
    elif len(possible) == 1 and len(possible) + len(labels) == len(kinds):
        [name] = possible
    else:
        raise Refused(f"the model has the outputs {names}: name the one that is the answer with --output")
    if kinds[name] == "maps":
        raise Refused(
            f"output '{name[:80]}' is a list of dictionaries (ZipMap): export without it, in skl2onnx with "
            "convert_sklearn(…, options={'zipmap': False})"
        )
    if kinds[name] != "fractions":
        raise Refused(f"output '{name[:80]}' holds {kinds[name]}: an answer is made of float32, float64 or float16 numbers")
    return name


def _kind(value: ValueInfoProto) -> str:
    if not value.type.HasField("tensor_type"):
        return "maps"
    element = value.type.tensor_type.elem_type
    if element in _FRACTIONS:
        return "fractions"
    return "labels" if element in (*_WHOLE, TensorProto.STRING, TensorProto.BOOL) else "something else"


def class_labels(model: ModelProto, count: int) -> tuple[str, ...]:
    """Return the classes that a classifier's node names, in the order of its probabilities; nothing where none does."""
    found: set[tuple[str, ...]] = set()
    for node in model.graph.node:
        for attribute in node.attribute:
            labels = _labels(attribute.name, attribute.strings, attribute.ints)
            if len(labels) == count:
                found.add(labels)
    return found.pop() if len(found) == 1 else ()


def _labels(name: str, strings: Sequence[bytes], ints: Sequence[int]) -> tuple[str, ...]:
    if name == "classlabels_strings":
        return tuple(text.decode("utf-8", "replace") for text in strings)
    return tuple(str(number) for number in ints) if name in ("classlabels_ints", "classlabels_int64s") else ()
