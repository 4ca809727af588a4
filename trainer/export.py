"""Export a network once per architecture: a graph whose weights are all external and named as in the state dict."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import torch
from onnx import helper
from onnx.external_data_helper import set_external_data
from onnxscript.optimizer import fold_constants, remove_unused_nodes
from torch import Tensor, nn

from store.artefact import CATEGORIES, NUMBERS, SCORES, graph_of, unpack_golden
from store.encoding import Encoded
from store.protocols import Graph
from store.schema import Schema
from trainer.errors import ExportError
from trainer.quiet import quiet

GOLDEN_ROWS = 8


class Scorer(nn.Module):
    """A network with its objective's link: what the exported graph computes, scores float32 [rows, outputs]."""

    def __init__(self, network: nn.Module, objective: str) -> None:
        super().__init__()
        self.network = network
        self.objective = objective

    def forward(self, numbers: Tensor, categories: Tensor) -> Tensor:
        logits = self.network(numbers, categories)
        if self.objective == "binary":
            return torch.sigmoid(logits)
        return torch.softmax(logits, dim=1) if self.objective == "multiclass" else logits

    def weights(self) -> dict[str, Tensor]:
        """The tensors that a version ships: all but those that only training needs."""
        unused: frozenset[str] = getattr(self.network, "training_only", frozenset())
        return {name: tensor for name, tensor in self.state_dict().items() if name.removeprefix("network.") not in unused}


class Rehearsal:
    """A graph whose weights are fed and not built in: what a version will answer, without opening a session for each.

    Opening one costs as much as learning a small batch; replicas, which answer many requests with it, do open one.
    """

    def __init__(self, graph: Graph) -> None:
        self.digest = graph.digest
        model = onnx.load_from_string(graph.onnx)
        shapes = [
            helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            for tensor in model.graph.initializer
            if tensor.external_data
        ]
        _replace(model.graph.initializer, [tensor for tensor in model.graph.initializer if not tensor.external_data])
        model.graph.input.extend(shapes)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        self._session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
        golden = unpack_golden(graph.golden_inputs)
        inputs = {NUMBERS: golden.numbers, CATEGORIES: golden.categories}
        named = {argument.name for argument in self._session.get_inputs()}
        self._inputs = {name: value for name, value in inputs.items() if name in named}

    def scores(self, weights: Mapping[str, np.ndarray]) -> tuple[tuple[float, ...], ...]:
        """Answer the graph's golden inputs with these weights."""
        [scores] = self._session.run(None, {**self._inputs, **weights})
        return tuple(tuple(row) for row in np.asarray(scores).tolist())


def golden_inputs(schema: Schema, seed: int = 0) -> Encoded:
    """Rows with ordinary, large and missing values, the same for every version of a graph."""
    draw = np.random.default_rng(seed)
    numbers = draw.normal(size=(GOLDEN_ROWS, schema.numbers)).astype(np.float32)
    if schema.numbers:
        numbers[draw.random(numbers.shape) < 0.1] = np.nan
        numbers[-1] *= 1000.0
        if not any(field.optional for field in schema.fields):
            numbers = np.nan_to_num(numbers)
    columns = [draw.integers(0, buckets, GOLDEN_ROWS) for buckets in schema.buckets]
    categories = np.stack(columns, axis=1) if columns else np.zeros((GOLDEN_ROWS, 0))
    return Encoded(numbers, categories.astype(np.int64))


def export(scorer: Scorer, schema: Schema) -> Graph:
    """Return the graph of a network.

    Raises:
        ExportError: torch cannot export it, or a weight does not appear under its own name.
    """
    golden = golden_inputs(schema)
    tensors = (torch.from_numpy(golden.numbers), torch.from_numpy(golden.categories))
    rows = torch.export.Dim("rows")
    try:
        with quiet(), torch.no_grad():
            program = torch.onnx.export(
                scorer.eval(), tensors, dynamo=True, optimize=False, verbose=False,
                input_names=[NUMBERS, CATEGORIES], output_names=[SCORES], dynamic_shapes=({0: rows}, {0: rows}),
            )  # fmt: skip
    except Exception as error:
        raise ExportError(f"torch cannot export this network: {str(error).splitlines()[0][:500]}") from error
    if program is None:
        raise ExportError("torch exported nothing")
    return graph_of(_external(program.model_proto, list(scorer.weights())).SerializeToString(), golden)


def _external(model: onnx.ModelProto, weights: Sequence[str]) -> onnx.ModelProto:
    """Make the named initializers external, fold every other constant, drop what only readers of the graph need.

    While constants are folded the weights stand as inputs, so that nothing is folded into them. Only folding: rewrite
    rules take a small epsilon for zero.
    """
    found = {tensor.name: tensor for tensor in model.graph.initializer}
    if missing := set(weights) - found.keys():
        raise ExportError(f"not in the exported graph under their own names: {', '.join(sorted(missing))}")
    offset = 0
    for name in weights:
        size = len(found[name].raw_data)
        set_external_data(found[name], location="weights", offset=offset, length=size)
        found[name].ClearField("raw_data")
        offset += size
    shapes = [helper.make_tensor_value_info(name, found[name].data_type, list(found[name].dims)) for name in weights]
    others = [tensor for name, tensor in found.items() if name not in weights]
    _replace(model.graph.initializer, others)
    model.graph.input.extend(shapes)
    folded = ir.from_proto(model)
    fold_constants(folded)
    remove_unused_nodes(folded)
    model = ir.to_proto(folded)
    _replace(model.graph.input, [value for value in model.graph.input if value.name not in weights])
    model.graph.initializer.extend(found[name] for name in weights)
    for node in model.graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    model.graph.ClearField("value_info")
    model.graph.ClearField("metadata_props")
    return model


def _replace(field: Any, values: Sequence[Any]) -> None:
    """Set a repeated protobuf field, which cannot be assigned."""
    del field[:]
    field.extend(values)
