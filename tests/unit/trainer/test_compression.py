"""A compressed version answers as its parent does, within a stated bound, and its tensors follow from its parent's in numpy."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from safetensors.numpy import load
from torch import Tensor, nn

from store.artefact import check_golden, open_session, pack_weights
from store.encoding import Encoded
from store.protocols import Graph
from store.schema import FeatureField, Schema
from trainer.compression import METHODS, Compressed, compress, requantise
from trainer.compression.layout import whole
from trainer.compression.recipe import recipe_of
from trainer.compression.speed import BATCHES, latencies
from trainer.errors import CompressionError, NotApplicable
from trainer.export import Scorer, export
from trainer.network import TabularNetwork

pytestmark = pytest.mark.filterwarnings("default")

ROWS = 300
TABLE = Schema(
    fields=(
        FeatureField(name="number", kind="number", optional=True),
        FeatureField(name="when", kind="timestamp"),
        FeatureField(name="colour", kind="category", buckets=16),
    )
)
WIDE = Schema(fields=(FeatureField(name="x", kind="vector", length=1024),))
BOUNDS = {"dynamic_int8": 0.02, "static_int8": 0.02, "fp16": 0.001, "int4": 0.05}
"""How far a probability may be from that of the version in float32."""
CASES = [(network, method) for network in ("table", "wide") for method in METHODS if (network, method) != ("table", "int4")]


class Parent:
    """A network as its trainer exports it, with rows to ask it."""

    def __init__(self, network: nn.Module, schema: Schema) -> None:
        scorer = Scorer(network, "binary").eval()
        self.graph: Graph = export(scorer, schema)
        self.tensors = {name: tensor.detach().numpy().copy() for name, tensor in scorer.weights().items()}
        draw = np.random.default_rng(1)
        columns = [draw.integers(0, buckets, ROWS) for buckets in schema.buckets]
        categories = np.stack(columns, axis=1) if columns else np.zeros((ROWS, 0), np.int64)
        self.rows = Encoded(draw.normal(size=(ROWS, schema.numbers)).astype(np.float32), categories)

    @property
    def weights(self) -> bytes:
        return pack_weights(self.tensors)

    def later(self) -> dict[str, np.ndarray]:
        """The tensors of a version that has learned more."""
        draw = np.random.default_rng(2)
        return {
            name: (tensor + draw.normal(size=tensor.shape) * 0.01).astype(np.float32) if tensor.dtype == np.float32 else tensor
            for name, tensor in self.tensors.items()
        }

    def compressed(self, method: str) -> Compressed:
        graph = compress(METHODS[method], self.graph, self.weights, self.rows)
        recipe = recipe_of(graph.onnx)
        assert recipe is not None
        return requantise(METHODS[method], graph, recipe, self.weights)


def _table() -> Parent:
    network = TabularNetwork(TABLE.numbers, TABLE.buckets, 1)
    nn.init.normal_(network.table, std=0.3)
    nn.init.normal_(network.wide.weight, std=0.3)
    return Parent(network, TABLE)


class _Perceptron(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 1)
        )  # fmt: skip

    def forward(self, numbers: Tensor, categories: Tensor) -> Tensor:
        return self.layers(numbers)


@pytest.fixture(scope="module")
def parent_of() -> Callable[[str], Parent]:
    torch.manual_seed(0)
    made = {"table": _table(), "wide": Parent(_Perceptron(), WIDE)}
    return made.__getitem__


@pytest.mark.parametrize(("network", "method"), CASES)
def test_a_compressed_version_answers_as_its_parent_within_the_bound(
    parent_of: Callable[[str], Parent], network: str, method: str
) -> None:
    parent = parent_of(network)
    expected = open_session(parent.graph.onnx, parent.weights).run(parent.rows)
    made = parent.compressed(method)
    np.testing.assert_allclose(made.session.run(parent.rows), expected, atol=BOUNDS[method])
    if network == "wide":
        assert len(made.weights) < len(parent.weights) * (0.51 if method == "fp16" else 0.26)


@pytest.mark.parametrize(("network", "method"), CASES)
def test_a_compressed_version_is_an_artefact_like_any(parent_of: Callable[[str], Parent], network: str, method: str) -> None:
    parent = parent_of(network)
    made = parent.compressed(method)
    model = onnx.load_from_string(made.graph.onnx)
    assert {tensor.name for tensor in model.graph.initializer if tensor.external_data} == set(load(made.weights))
    assert {argument.name for argument in model.graph.input} == {"numbers", "categories"}
    assert made.graph.golden_inputs == parent.graph.golden_inputs
    check_golden(open_session(made.graph.onnx, made.weights), made.graph.golden_inputs, made.golden, made.tolerance)


@pytest.mark.parametrize(("network", "method"), CASES)
def test_requantised_weights_are_those_of_quantising_afresh(
    parent_of: Callable[[str], Parent], network: str, method: str
) -> None:
    parent = parent_of(network)
    later = parent.later()
    name = next(name for name, tensor in later.items() if name.endswith(".weight") and len(tensor) > 1)
    later[name][0] = 0.0  # a column that has no scale
    fresh, _ = METHODS[method].build(whole(parent.graph, later), parent.rows)
    expected = {tensor.name: numpy_helper.to_array(tensor) for tensor in fresh.graph.initializer}
    recipe = recipe_of(compress(METHODS[method], parent.graph, parent.weights, parent.rows).onnx)
    assert recipe is not None
    made = recipe.tensors(later)
    assert {step.how for step in recipe.steps} > {"same"}
    for tensor, values in made.items():
        assert values.dtype == expected[tensor].dtype
        np.testing.assert_array_equal(values, expected[tensor], err_msg=tensor)


def test_activation_scales_stay_those_of_the_calibration(parent_of: Callable[[str], Parent]) -> None:
    made = parent_of("table").compressed("static_int8")
    inside = {tensor.name for tensor in onnx.load_from_string(made.graph.onnx).graph.initializer if not tensor.external_data}
    assert any("relu" in name.lower() and name.endswith("_scale") for name in inside)
    assert not any("relu" in name.lower() for name in load(made.weights))


def _no_matrix(schema: Schema, **_: Any) -> nn.Module:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(schema.numbers))

        def forward(self, numbers: Tensor, categories: Tensor) -> Tensor:
            return (numbers * self.scale).sum(dim=1, keepdim=True)

    return Sum()


def test_what_does_not_apply_says_why(parent_of: Callable[[str], Parent]) -> None:
    table = parent_of("table")
    with pytest.raises(NotApplicable, match="no MatMul with a weight matrix of at least 256 columns"):
        compress(METHODS["int4"], table.graph, table.weights, table.rows)
    with pytest.raises(NotApplicable, match="at least 100 logged predictions, and there are 0"):
        compress(METHODS["static_int8"], table.graph, table.weights)
    with pytest.raises(NotApplicable, match="and there are 3"):
        compress(METHODS["static_int8"], table.graph, table.weights, table.rows.take([0, 1, 2]))
    bare = Parent(_no_matrix(WIDE), WIDE)
    for method in METHODS.values():
        with pytest.raises(NotApplicable, match=r"no MatMul|no weight matrix"):
            compress(method, bare.graph, bare.weights, bare.rows)


def test_a_weight_that_feeds_several_nodes_is_not_transposed_under_them(parent_of: Callable[[str], Parent]) -> None:
    table = parent_of("table")
    model = onnx.load_from_string(table.graph.onnx)
    gemm = next(node for node in model.graph.node if node.op_type == "Gemm")
    model.graph.node.append(onnx.helper.make_node("Identity", [gemm.input[1]], ["again"]))
    tied = Graph("", model.SerializeToString(), table.graph.golden_inputs)
    with pytest.raises(NotApplicable, match="feeds several nodes"):
        compress(METHODS["dynamic_int8"], tied, table.weights, table.rows)


def test_a_weight_that_a_branch_uses_too_is_left_as_it_is(parent_of: Callable[[str], Parent]) -> None:
    """Else the branch would keep this version's weight, and later versions would answer with it."""
    table = parent_of("table")
    model = onnx.load_from_string(table.graph.onnx)
    gemm = next(node for node in model.graph.node if node.op_type == "Gemm")
    inside = onnx.helper.make_node("Identity", [gemm.input[1]], ["seen"])
    seen = onnx.helper.make_tensor_value_info("seen", onnx.TensorProto.FLOAT, None)
    branch = onnx.helper.make_graph([inside], "branch", [], [seen])
    go = onnx.helper.make_node("Constant", [], ["go"], value=numpy_helper.from_array(np.array(True)))
    model.graph.node.extend([go, onnx.helper.make_node("If", ["go"], ["again"], then_branch=branch, else_branch=branch)])
    tied = Graph("", model.SerializeToString(), table.graph.golden_inputs)
    with pytest.raises(NotApplicable, match="feeds several nodes"):
        compress(METHODS["dynamic_int8"], tied, table.weights, table.rows)


def test_a_compressed_version_is_not_compressed_again(parent_of: Callable[[str], Parent]) -> None:
    made = parent_of("table").compressed("fp16")
    with pytest.raises(CompressionError, match="compressed already, by fp16"):
        compress(METHODS["dynamic_int8"], made.graph, made.weights)


def test_weights_of_another_network_are_refused(parent_of: Callable[[str], Parent]) -> None:
    graph = parent_of("table").compressed("fp16").graph
    recipe = recipe_of(graph.onnx)
    assert recipe is not None
    with pytest.raises(CompressionError, match="another network: network\\.deep"):
        requantise(METHODS["fp16"], graph, recipe, parent_of("wide").weights)


def test_what_sixteen_bits_do_not_hold_becomes_the_largest_number_they_do(parent_of: Callable[[str], Parent]) -> None:
    table = parent_of("table")
    recipe = recipe_of(table.compressed("fp16").graph.onnx)
    assert recipe is not None
    huge = recipe.tensors(table.tensors | {"network.table": np.full_like(table.tensors["network.table"], -1e9)})
    assert huge["network.table_float16"].max() == -65504.0


def test_latency_is_measured_for_each_number_of_rows(parent_of: Callable[[str], Parent]) -> None:
    table = parent_of("table")
    sessions = {"parent": open_session(table.graph.onnx, table.weights), "fp16": table.compressed("fp16").session}
    measured = latencies(sessions, table.rows.take([0, 1, 2]))
    assert {name: tuple(seconds) for name, seconds in measured.items()} == {"parent": BATCHES, "fp16": BATCHES}
    assert all(second > 0.0 for seconds in measured.values() for second in seconds.values())
