"""An exported graph answers as torch does, with whatever weights it is given."""

from typing import cast

import numpy as np
import onnx
import pytest
import torch

from store.artefact import ArtefactError, check_golden, open_session, pack_weights, unpack_golden
from store.encoding import Encoded
from store.protocols import Graph
from store.schema import FeatureField, Schema
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
