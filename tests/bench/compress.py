"""Compressed versions of a wide network: size and latency beside float32's, and what a child costs its trainer."""

from statistics import median
from time import perf_counter

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from store.artefact import open_session, pack_weights
from store.encoding import Encoded
from store.protocols import Graph
from store.schema import FeatureField, Schema
from trainer.compression import METHODS, Method, compress, requantise
from trainer.compression.recipe import Recipe, recipe_of
from trainer.compression.speed import BATCHES, latencies
from trainer.errors import NotApplicable
from trainer.export import Scorer, export
from trainer.network import TabularNetwork

WIDTH = 1024
CHILDREN = 30
console = Console(width=130)


class Wide(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 1)
        )  # fmt: skip

    def forward(self, numbers: Tensor, categories: Tensor) -> Tensor:
        return self.layers(numbers)


def compress_figures() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    wide = Schema(fields=(FeatureField(name="x", kind="vector", length=WIDTH),))
    columns = tuple(FeatureField(name=f"c{number}", kind="category", buckets=1024) for number in range(8))
    table = Schema(fields=(*(FeatureField(name=f"n{number}", kind="number") for number in range(8)), *columns))
    _figures(f"wide network, {WIDTH}-{WIDTH}-1", Wide(), wide)
    _figures("network for tables, 8 numbers and 8 categories", TabularNetwork(table.numbers, table.buckets, 1), table)


def _figures(name: str, network: nn.Module, schema: Schema) -> None:
    scorer = Scorer(network, "binary").eval()
    graph = export(scorer, schema)
    weights = pack_weights({key: tensor.detach().numpy() for key, tensor in scorer.weights().items()})
    draw = np.random.default_rng(0)
    codes = [draw.integers(0, buckets, 512) for buckets in schema.buckets]
    categories = np.stack(codes, axis=1) if codes else np.zeros((512, 0), np.int64)
    rows = Encoded(draw.normal(size=(512, schema.numbers)).astype(np.float32), categories)
    sessions = {"float32": open_session(graph.onnx, weights)}
    sizes, child_ms = {"float32": len(weights)}, {"float32": ""}
    for method in METHODS.values():
        try:
            compressed = compress(method, graph, weights, rows)
        except NotApplicable as why:
            console.print(f"{name}: {method.name}: {why}")
            continue
        recipe = recipe_of(compressed.onnx)
        assert recipe is not None
        made = requantise(method, compressed, recipe, weights)
        sessions[method.name], sizes[method.name] = made.session, len(made.weights)
        child_ms[method.name] = f"{_child_ms(method, compressed, recipe, weights):.1f} ms"
    measured = latencies(sessions, rows)
    shown = Table("", "size", *(f"{batch} rows" for batch in BATCHES), "a child costs", title=name, title_justify="left")
    for key, seconds in measured.items():
        cells = [
            f"{seconds[batch] * 1000:.3f} ms ({measured['float32'][batch] / seconds[batch]:.2f} times)" for batch in BATCHES
        ]
        shown.add_row(key, f"{sizes[key] / 1024:,.0f} KiB", *cells, child_ms[key])
    console.print(shown)
    console.print("times: the speed as a multiple of float32's in this run, each run in turn; below 1 it is slower")


def _child_ms(method: Method, graph: Graph, recipe: Recipe, weights: bytes) -> float:
    """What a version's child takes its trainer after the first: requantise, open, answer the golden inputs."""
    times: list[float] = []
    for _ in range(CHILDREN):
        started = perf_counter()
        requantise(method, graph, recipe, weights)
        times.append(perf_counter() - started)
    return median(times) * 1000
