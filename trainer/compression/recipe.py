"""How a compressed version's tensors follow from those of the version it is made of.

The graph of a compressed version carries its recipe, so that whoever has the graph can make the tensors of the next
version in numpy, without exporting or quantising a graph again.
"""

from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
import onnx
from pydantic import BaseModel, ConfigDict

from trainer.errors import CompressionError
from trainer.quiet import quiet

_KEY = "tidemill.compression"
BLOCK = 32
"""Rows of a column that share a scale in four bits."""

FLOAT16_MAX = 65504.0

Arrays = dict[str, np.ndarray]


class Step(BaseModel):
    """One tensor of the parent and what becomes of it. `transposed`: the parent holds it [columns, rows], as torch does."""

    model_config = ConfigDict(frozen=True)

    source: str
    how: Literal["same", "int8", "int4", "float16"] = "same"
    transposed: bool = False


class Recipe(BaseModel):
    """All steps of one graph, by the method that it was made with."""

    model_config = ConfigDict(frozen=True)

    method: str
    steps: tuple[Step, ...]

    def tensors(self, weights: Mapping[str, np.ndarray]) -> Arrays:
        """Return the compressed version's tensors, by name.

        Raises:
            CompressionError: the weights are not of the network that the recipe was made for.
        """
        names = {step.source for step in self.steps}
        if names != set(weights):
            raise CompressionError(f"the weights are of another network: {', '.join(sorted(names ^ set(weights)))[:300]}")
        made: Arrays = {}
        for step in self.steps:
            tensor = weights[step.source]
            made |= _HOW[step.how](step.source, tensor.T if step.transposed else tensor)
        return made

    def write(self, model: onnx.ModelProto) -> None:
        onnx.helper.set_model_props(model, {_KEY: self.model_dump_json()})


def recipe_of(graph: bytes) -> Recipe | None:
    """Return the recipe that a graph carries; None for a graph that no method made."""
    model = onnx.load_from_string(graph)
    return next((Recipe.model_validate_json(prop.value) for prop in model.metadata_props if prop.key == _KEY), None)


def _same(name: str, tensor: np.ndarray) -> Arrays:
    return {name: tensor}


def _int8(name: str, matrix: np.ndarray) -> Arrays:
    """Quantise a matrix [rows, columns] to -64…64 with a scale for each column, as onnxruntime.quantization does.

    Seven bits: without VNNI, products of eight bits overflow the sixteen that they are added up in.
    """
    largest = np.maximum(matrix.max(axis=0, initial=0.0), -matrix.min(axis=0, initial=0.0))
    scale = (largest.astype(np.float64) / 64.0).astype(np.float32)
    scale[scale < np.finfo(np.float32).tiny] = 1.0
    quantised = np.rint(matrix / scale).astype(np.int8)
    return {f"{name}_quantized": quantised, f"{name}_scale": scale, f"{name}_zero_point": np.zeros(len(scale), np.int8)}


def _int4(name: str, matrix: np.ndarray) -> Arrays:
    """Quantise a matrix [rows, columns] to four bits, `BLOCK` rows of a column sharing scale and zero point."""
    with quiet():
        from onnxruntime.quantization.matmul_nbits_quantizer import (  # noqa: PLC0415 - sets up logging when imported
            DefaultWeightOnlyQuantConfig,
            DefaultWeightOnlyQuantizer,
        )

    quantizer = DefaultWeightOnlyQuantizer(DefaultWeightOnlyQuantConfig(block_size=BLOCK))
    packed, scales, zero_points = quantizer.qbits_block_quant(np.ascontiguousarray(matrix))
    return {f"{name}_Q4": packed, f"{name}_scales": scales, f"{name}_zero_points": zero_points}


def float16(name: str, tensor: np.ndarray) -> Arrays:
    """Round to sixteen bits; what is too large becomes the largest number there is."""
    return {f"{name}_float16": tensor.clip(-FLOAT16_MAX, FLOAT16_MAX).astype(np.float16)}


_HOW: dict[str, Callable[[str, np.ndarray], Arrays]] = {"same": _same, "int8": _int8, "int4": _int4, "float16": float16}
