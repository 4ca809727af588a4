"""The tabular network: statistics merge exactly, every shape of input works, and its export is the same network."""

import numpy as np
import pytest
import torch

from store.artefact import open_session, pack_weights
from store.encoding import Encoded
from store.schema import FeatureField, Schema
from store.shape import Shape
from trainer.export import Scorer, export
from trainer.network import CLIP, Cross, Standardise, TabularNetwork

NUMBERS, BUCKETS = 3, (16, 8, 32)


def _inputs(rows: int, numbers: int, buckets: tuple[int, ...], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Random network inputs with a fifth of the numbers missing."""
    generator = np.random.default_rng(seed)
    values = generator.normal(50.0, 7.0, (rows, numbers)).astype(np.float32)
    values[generator.random((rows, numbers)) < 0.2] = np.nan
    columns = [generator.integers(0, count, rows) for count in buckets]
    categories = np.stack(columns, axis=1) if columns else np.zeros((rows, 0))
    return torch.from_numpy(values), torch.from_numpy(categories.astype(np.int64))


def _trained(numbers: int, buckets: tuple[int, ...], outputs: int) -> TabularNetwork:
    """A network whose every parameter has moved, so nothing is equal by being zero."""
    torch.manual_seed(0)
    network = TabularNetwork(numbers, buckets, outputs)
    optimiser = torch.optim.Adagrad(network.parameters(), lr=0.1)
    x, categories = _inputs(64, numbers, buckets)
    network.observe(x)
    for _ in range(3):
        optimiser.zero_grad()
        torch.nn.functional.softplus(network(x, categories)).sum().backward()
        optimiser.step()
    return network


def test_statistics_of_pieces_are_those_of_the_whole() -> None:
    x, _ = _inputs(1000, NUMBERS, ())
    standardise = Standardise(NUMBERS)
    for piece in torch.split(x, [1, 1, 7, 391, 600]):
        standardise.observe(piece)
    whole = x.double().numpy()
    np.testing.assert_allclose(standardise.mean, np.nanmean(whole, axis=0), rtol=1e-5)
    np.testing.assert_allclose(standardise.variance, np.nanvar(whole, axis=0), rtol=1e-4)
    np.testing.assert_array_equal(standardise.count, (~np.isnan(whole)).sum(axis=0))


def test_a_column_that_is_never_filled_in_stays_harmless() -> None:
    standardise = Standardise(2)
    x = torch.tensor([[1.0, torch.nan], [3.0, torch.nan]])
    standardise.observe(x)
    standardise.observe(x)
    np.testing.assert_allclose(standardise(x), [[-1, 0, 0, 1], [1, 0, 0, 1]], atol=1e-6)
    # The first value of a column, ever, must not explode either.
    assert standardise(torch.tensor([[2.0, 1e9]]))[0, 1] == CLIP


def test_an_empty_batch_changes_nothing() -> None:
    standardise = Standardise(2)
    standardise.observe(torch.tensor([[1.0, 2.0], [3.0, 5.0]]))
    before = {name: value.clone() for name, value in standardise.state_dict().items()}
    standardise.observe(torch.empty(0, 2))
    assert all(torch.equal(value, before[name]) for name, value in standardise.state_dict().items())


@pytest.mark.parametrize(("numbers", "buckets"), [(NUMBERS, BUCKETS), (0, BUCKETS), (NUMBERS, ()), (1, (4,))])
def test_any_mix_of_columns_learns(numbers: int, buckets: tuple[int, ...]) -> None:
    network = _trained(numbers, buckets, 2)
    logits = network(*_inputs(5, numbers, buckets))
    assert logits.shape == (5, 2)
    assert bool(logits.isfinite().all())
    assert network(*_inputs(0, numbers, buckets)).shape == (0, 2)


@pytest.mark.parametrize("shape", [Shape(cross=2), Shape(hidden=()), Shape(hidden=(5, 4, 3), dimension=2, cross=1)])
@pytest.mark.filterwarnings("default")
def test_a_network_of_any_shape_is_exported_as_it_is(shape: Shape) -> None:
    torch.manual_seed(0)
    network = TabularNetwork(NUMBERS, BUCKETS, 2, shape=shape).eval()
    with torch.no_grad():
        network.wide.weight.normal_()
    fields = [FeatureField(name=f"number {index}", kind="number", optional=True) for index in range(NUMBERS)]
    fields += [FeatureField(name=f"kind {index}", kind="category", buckets=count) for index, count in enumerate(BUCKETS)]
    scorer = Scorer(network, "regression")
    weights = {name: tensor.detach().numpy() for name, tensor in scorer.weights().items()}
    session = open_session(export(scorer, Schema(fields=tuple(fields))).onnx, pack_weights(weights))
    for rows in (1, 9):
        numbers, categories = _inputs(rows, NUMBERS, BUCKETS, seed=rows)
        expected = network(numbers, categories).detach().numpy()
        np.testing.assert_allclose(session.run(Encoded(numbers.numpy(), categories.numpy())), expected, rtol=1e-5, atol=1e-5)


def test_a_cross_layer_multiplies_with_the_features() -> None:
    layer = Cross(2)
    with torch.no_grad():
        layer.linear.weight.copy_(torch.tensor([[0.0, 1.0], [2.0, 0.0]]))
        layer.linear.bias.copy_(torch.tensor([0.5, 0.0]))
        crossed = layer(torch.tensor([[2.0, 3.0]]), torch.tensor([[5.0, 7.0]]))
    assert crossed.tolist() == [[2.0 * 7.5 + 5.0, 3.0 * 10.0 + 7.0]]


def test_a_network_without_columns_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        TabularNetwork(0, (), 1)


def test_fields_do_not_share_rows() -> None:
    network = _trained(0, (4, 4), 1)
    categories = torch.tensor([[1, 1]])
    before = network(torch.empty(1, 0), categories)
    with torch.no_grad():
        network.table[1] += 1.0
        network.table[5] -= 1.0
    after = network(torch.empty(1, 0), categories)
    other = network(torch.empty(1, 0), torch.tensor([[2, 2]]))
    assert not torch.equal(before, after)
    with torch.no_grad():
        network.table[[0, 1, 3, 4, 5, 7]] = 0.0
    assert torch.equal(other, network(torch.empty(1, 0), torch.tensor([[2, 2]])))


@pytest.mark.parametrize(("numbers", "buckets"), [(NUMBERS, BUCKETS), (0, BUCKETS), (NUMBERS, ())])
@pytest.mark.filterwarnings("default")
def test_the_exported_graph_is_the_same_network(numbers: int, buckets: tuple[int, ...]) -> None:
    network = _trained(numbers, buckets, 2).eval()
    fields = [FeatureField(name=f"number {index}", kind="number", optional=True) for index in range(numbers)]
    fields += [FeatureField(name=f"kind {index}", kind="category", buckets=count) for index, count in enumerate(buckets)]
    scorer = Scorer(network, "regression")
    graph = export(scorer, Schema(fields=tuple(fields)))
    weights = {name: tensor.detach().numpy() for name, tensor in scorer.weights().items()}
    session = open_session(graph.onnx, pack_weights(weights))
    for count in (1, 50):
        x, categories = _inputs(count, numbers, buckets, seed=count)
        logits = session.run(Encoded(x.numpy(), categories.numpy()))
        np.testing.assert_allclose(logits, network(x, categories).detach(), atol=1e-5)


def test_only_the_counts_stay_out_of_the_graph() -> None:
    assert TabularNetwork(NUMBERS, BUCKETS, 1).training_only == {"standardise.count"}
    assert TabularNetwork(0, BUCKETS, 1).training_only == frozenset()
