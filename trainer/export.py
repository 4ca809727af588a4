"""Export a network once per architecture: a graph whose weights are all external and named as in the state dict."""

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator

import numpy as np
import onnx
import torch
from onnx.external_data_helper import set_external_data
from torch import Tensor, nn

from store.artefact import CATEGORIES, NUMBERS, SCORES, graph_of
from store.protocols import Graph
from store.schema import Encoded, Schema
from trainer.errors import ExportError

GOLDEN_ROWS = 8
PARITY = 1e-4


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
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                scorer.eval(), tensors, dynamo=True, optimize=False, verbose=False,
                input_names=[NUMBERS, CATEGORIES], output_names=[SCORES], dynamic_shapes=({0: rows}, {0: rows}),
            )  # fmt: skip
    except Exception as error:
        raise ExportError(f"torch cannot export this network: {str(error).splitlines()[0][:500]}") from error
    if program is None:
        raise ExportError("torch exported nothing")
    model: onnx.ModelProto = program.model_proto
    found = {tensor.name: tensor for tensor in model.graph.initializer}
    missing = scorer.weights().keys() - found.keys()
    if missing:
        raise ExportError(f"not in the exported graph under their own names: {', '.join(sorted(missing))}")
    offset = 0
    for name in scorer.weights():
        tensor = found[name]
        size = len(tensor.raw_data)
        set_external_data(tensor, location="weights", offset=offset, length=size)
        tensor.ClearField("raw_data")
        offset += size
    return graph_of(model.SerializeToString(), golden)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter prints its progress and warns of what is not ours."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
