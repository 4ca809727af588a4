"""An exported graph answers as torch does, with whatever weights it is given."""

from collections.abc import Callable
from typing import cast

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from store.artefact import ArtefactError, check_golden, open_session, pack_weights, unpack_golden
from store.encoding import Encoded
from store.protocols import Graph
from store.schema import FeatureField, Schema
from trainer.errors import ExportError
from trainer.export import Rehearsal, Scorer, export
from trainer.network import TabularNetwork

pytestmark = pytest.mark.filterwarnings("default")

SCHEMA = Schema(
    fields=(
        FeatureField(name="number", kind="number", optional=True),
        FeatureField(name="when", kind="timestamp"),
        FeatureField(name="colour", kind="category", buckets=16),
    )
)


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    torch.manual_seed(0)
    return Scorer(TabularNetwork(SCHEMA.numbers, SCHEMA.buckets, 1), "binary").eval()


@pytest.fixture(scope="module")
def graph(scorer: Scorer) -> Graph:
    return export(scorer, SCHEMA)


def _arrays(scorer: Scorer) -> dict[str, np.ndarray]:
    return {name: tensor.detach().numpy() for name, tensor in scorer.weights().items()}


def _torch(scorer: Scorer, rows: Encoded) -> np.ndarray:
    with torch.no_grad():
        return cast(torch.Tensor, scorer(torch.from_numpy(rows.numbers), torch.from_numpy(rows.categories))).numpy()


def test_a_column_that_never_varied_does_not_divide_by_zero(scorer: Scorer, graph: Graph) -> None:
    network = cast(TabularNetwork, scorer.network)
    with torch.no_grad():
        network.standardise.variance.zero_()
        network.table.normal_()
    rows = unpack_golden(graph.golden_inputs)
    scores = open_session(graph.onnx, pack_weights(_arrays(scorer))).run(rows)
    assert np.isfinite(scores).all()
    np.testing.assert_allclose(scores, _torch(scorer, rows), atol=1e-5)


def test_every_weight_is_outside_the_graph_and_bears_its_own_name(scorer: Scorer, graph: Graph) -> None:
    model = onnx.load_from_string(graph.onnx)
    outside = {tensor.name for tensor in model.graph.initializer if tensor.external_data}
    assert outside == set(scorer.weights())
    assert {argument.name for argument in model.graph.input} == {"numbers", "categories"}


def test_a_rehearsal_answers_as_the_version_will(scorer: Scorer, graph: Graph) -> None:
    weights = _arrays(scorer)
    golden = Rehearsal(graph).scores(weights)
    session = open_session(graph.onnx, pack_weights(weights))
    check_golden(session, graph.golden_inputs, golden, 1e-5)
    with pytest.raises(ArtefactError, match="differ from the record"):
        check_golden(session, graph.golden_inputs, tuple((score[0] + 0.1,) for score in golden), 1e-4)


def test_damaged_weights_are_refused(scorer: Scorer, graph: Graph) -> None:
    weights = _arrays(scorer)
    name, *_ = weights
    for damaged in (
        pack_weights(weights)[:100],
        pack_weights({key: value for key, value in weights.items() if key != name}),
        pack_weights(weights | {name: np.zeros((3, 3), dtype=np.float32)}),
        b"",
    ):
        with pytest.raises(ArtefactError):
            open_session(graph.onnx, damaged)


def test_weights_that_are_not_finite_fail_the_golden_check(scorer: Scorer, graph: Graph) -> None:
    weights = _arrays(scorer)
    golden = Rehearsal(graph).scores(weights)
    ruined = {key: np.full_like(value, np.nan) if value.dtype == np.float32 else value for key, value in weights.items()}
    with pytest.raises(ArtefactError, match="finite"):
        check_golden(open_session(graph.onnx, pack_weights(ruined)), graph.golden_inputs, golden, 1e-4)


NUMBERS = Schema(fields=tuple(FeatureField(name=f"x{index}", kind="number") for index in range(4)))


class _Network(nn.Module):
    """A layer, and then what a case does with its input and output."""

    def __init__(self, then: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 1)
        self._then = then

    def forward(self, numbers: Tensor, categories: Tensor) -> Tensor:
        return self._then(numbers, cast(Tensor, self.layer(numbers)))


def _twice(out: Tensor) -> Tensor:
    return out * 2.0


def _thrice(out: Tensor) -> Tensor:
    return out * 3.0


def _by_sign(numbers: Tensor, out: Tensor) -> Tensor:
    return cast(Tensor, torch.cond(numbers.sum() > 0, _twice, _thrice, (out,)))


CASES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "plain": lambda _, out: out,
    "a branch on data": _by_sign,
    "the number of rows": lambda numbers, out: out + numbers.shape[0],
    "of all rows": lambda numbers, out: out + numbers.mean(),
}


@pytest.mark.parametrize("then", CASES.values(), ids=CASES)
def test_a_graph_answers_as_the_network_whatever_the_rows_are(then: Callable[[Tensor, Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    scorer = Scorer(_Network(then), "regression").eval()
    session = open_session(export(scorer, NUMBERS).onnx, pack_weights(_arrays(scorer)))
    draw = np.random.default_rng(1)
    for count in (1, 2, 8, 50):
        for sign in (-1.0, 1.0):
            numbers = (sign * draw.random((count, 4))).astype(np.float32)
            rows = Encoded(numbers, np.zeros((count, 0), dtype=np.int64))
            np.testing.assert_allclose(session.run(rows), _torch(scorer, rows), rtol=1e-5, atol=1e-5)


def test_layers_that_begin_alike_stay_apart() -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 1))
    for layer in (network[0], network[1]):
        nn.init.zeros_(cast(nn.Linear, layer).bias)
        nn.init.eye_(cast(nn.Linear, layer).weight)

    class Alike(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = network

        def forward(self, numbers: Tensor, categories: Tensor) -> Tensor:
            return cast(Tensor, self.layers(numbers))

    scorer = Scorer(Alike(), "regression").eval()
    graph = export(scorer, NUMBERS)
    with torch.no_grad():
        cast(nn.Linear, network[1]).weight.mul_(2.0)
    rows = unpack_golden(graph.golden_inputs)
    np.testing.assert_allclose(
        open_session(graph.onnx, pack_weights(_arrays(scorer))).run(rows), _torch(scorer, rows), rtol=1e-4, atol=1e-5
    )


def test_a_network_that_no_graph_can_hold_is_refused() -> None:
    def outside(_: Tensor, out: Tensor) -> Tensor:
        return torch.special.bessel_j0(out)

    with pytest.raises(ExportError, match="torch cannot export this network"):
        export(Scorer(_Network(outside), "regression"), NUMBERS)
