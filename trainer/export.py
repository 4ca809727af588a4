"""Export a network once per architecture: a graph whose weights are all external and named as in the state dict.

Torch has two exporters. The older one traces a run; the newer one understands the program, and took fifty times as long where
it was used once, for what it imports. So a trace is tried, and looked at closely.
"""

import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import helper
from onnx.external_data_helper import set_external_data
from torch import Tensor, nn

from store.artefact import CATEGORIES, NUMBERS, SCORES, graph_of, unpack_golden
from store.encoding import Encoded
from store.errors import first_line
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
        return self.link(self.network(numbers, categories))

    def link(self, logits: Tensor) -> Tensor:
        """Return the scores that logits stand for."""
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
        self._session = onnxruntime.InferenceSession(model.SerializeToString(), _options(), ["CPUExecutionProvider"])
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
    golden, weights = golden_inputs(schema), list(scorer.weights())
    with torch.no_grad():
        model = _traced(scorer.eval(), golden, weights) or _understood(scorer, golden, weights)
    return graph_of(model.SerializeToString(), golden)


def _traced(scorer: Scorer, golden: Encoded, weights: Sequence[str]) -> onnx.ModelProto | None:
    """A trace of the network, None where it would not do: it holds no branch or loop that depends on data."""
    written = io.BytesIO()
    try:
        with quiet(), warnings.catch_warnings():
            warnings.simplefilter("error", torch.jit.TracerWarning)  # pyright: ignore[reportPrivateImportUsage]
            file: Any = written  # of this exporter's own, and not in its signature
            torch.onnx.export(
                scorer, _tensors(golden), file, dynamo=False, do_constant_folding=False,
                input_names=[NUMBERS, CATEGORIES], output_names=[SCORES],
                dynamic_axes={name: {0: "rows"} for name in (NUMBERS, CATEGORIES, SCORES)},
            )  # fmt: skip
            model = onnx.load_from_string(written.getvalue())
            _add_unused_inputs(model, golden)
            few = Encoded(golden.numbers[:3], golden.categories[:3])
            same = np.allclose(_answers(model, few), scorer(*_tensors(few)).numpy(), rtol=1e-3, atol=1e-4, equal_nan=True)
        return _external(model, weights) if same else None
    except Exception:  # of many kinds, none documented: what stops a trace is for the other exporter to say
        return None


def _add_unused_inputs(model: onnx.ModelProto, golden: Encoded) -> None:
    """Name both inputs, though a network may look at one only."""
    named = {given.name for given in model.graph.input}
    for name, array in ((NUMBERS, golden.numbers), (CATEGORIES, golden.categories)):
        if name not in named:
            kind = helper.np_dtype_to_tensor_dtype(array.dtype)
            model.graph.input.append(helper.make_tensor_value_info(name, kind, ["rows", array.shape[1]]))


def _understood(scorer: Scorer, golden: Encoded, weights: Sequence[str]) -> onnx.ModelProto:
    """The network as the newer exporter understands it."""
    import onnx_ir as ir  # noqa: PLC0415 - these are slow to import, and seldom needed
    from onnxscript.optimizer import fold_constants, remove_unused_nodes  # noqa: PLC0415

    rows = torch.export.Dim("rows")
    try:
        with quiet():
            program = torch.onnx.export(
                scorer, _tensors(golden), dynamo=True, optimize=False, verbose=False,
                input_names=[NUMBERS, CATEGORIES], output_names=[SCORES], dynamic_shapes=({0: rows}, {0: rows}),
            )  # fmt: skip
    except Exception as error:
        raise ExportError(f"torch cannot export this network: {first_line(error, 500)}") from error
    if program is None:
        raise ExportError("torch exported nothing")

    def folded(model: onnx.ModelProto) -> onnx.ModelProto:
        # Only folding: rewrite rules take a small epsilon for zero.
        graph = ir.from_proto(model)
        fold_constants(graph)
        remove_unused_nodes(graph)
        return ir.to_proto(graph)

    return _external(program.model_proto, weights, folded)


def _tensors(rows: Encoded) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(rows.numbers), torch.from_numpy(rows.categories)


def _answers(model: onnx.ModelProto, rows: Encoded) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), _options(), ["CPUExecutionProvider"])
    named = {argument.name for argument in session.get_inputs()}
    inputs = {NUMBERS: rows.numbers, CATEGORIES: rows.categories}
    [scores] = session.run(None, {name: value for name, value in inputs.items() if name in named})
    return np.asarray(scores)


def _options() -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return options


def _external(
    model: onnx.ModelProto,
    weights: Sequence[str],
    folded: Callable[[onnx.ModelProto], onnx.ModelProto] = lambda model: model,
) -> onnx.ModelProto:
    """Make the named initializers external, and drop what only readers of the graph need.

    Args:
        folded: folds constants; meanwhile the weights stand as inputs, so that nothing is folded into them.
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
    model = folded(model)
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
