"""The reservoir keeps a fair sample of all that came, undoes what it took in, and goes on after a restart."""

from typing import Any

import numpy as np
import pytest
import torch

import examples.vector
from store.errors import SpecError
from store.learning import Replay
from store.spec import Learning, ModelRecord, ModelSpec
from trainer.replay import MOST_BYTES, Reservoir
from trainer.rows import Rows
from trainer.testing import OneNumber

CPU = torch.device("cpu")


def _record() -> ModelRecord:
    return ModelSpec(name="m", features=OneNumber, learning=Learning()).record


def _reservoir(**settings: Any) -> Reservoir:
    return Reservoir(Replay(**settings), _record())


def _rows(first: int, count: int, strata: np.ndarray | None = None, by: str = "label") -> Rows:
    """Rows that say by their number which of the stream they are."""
    numbers = torch.arange(first, first + count, dtype=torch.float32)
    found = {} if strata is None else {by: strata}
    labels = torch.zeros(count) if strata is None else torch.from_numpy(strata).float()
    return Rows(numbers[:, None], torch.zeros(count, 0, dtype=torch.int64), labels, None, None, found)


def _held(reservoir: Reservoir) -> np.ndarray:
    return reservoir.tensors()["numbers"][:, 0].numpy().copy()


def _filled(reservoir: Reservoir, total: int, seed: int, batch: int = 17, rare: int = 0) -> Reservoir:
    draw = np.random.default_rng([seed, 1])
    for first in range(0, total, batch):
        count = min(batch, total - first)
        strata = (np.arange(first, first + count) % rare == 0).astype(np.int64) if rare else None
        reservoir.offer(_rows(first, count, strata), draw)
    return reservoir


def test_all_is_kept_while_there_is_room() -> None:
    reservoir = _filled(_reservoir(capacity=50), 40, 0)
    assert sorted(_held(reservoir)) == list(range(40))
    assert len(reservoir) == 40


@pytest.mark.simulation
def test_every_outcome_is_kept_with_the_same_chance() -> None:
    total, capacity, runs = 100, 20, 2000
    kept = np.zeros(total)
    for seed in range(runs):
        held = _held(_filled(_reservoir(capacity=capacity), total, seed)).astype(int)
        assert len(set(held)) == capacity, "none twice"
        kept[held] += 1
    expected = runs * capacity / total
    # The counts of one run sum to the capacity, so this is a little below chi-square with 99 degrees: 148.2 is its 99.9 %.
    assert (np.square(kept - expected) / (expected * (1 - capacity / total))).sum() < 148.2


@pytest.mark.simulation
def test_strata_get_the_same_room() -> None:
    kept = np.zeros(1000)
    for seed in range(200):
        held = _held(_filled(_reservoir(capacity=40, kind="stratified"), 1000, seed, rare=20)).astype(int)
        assert len(set(held)) == 40
        rare = held % 20 == 0
        assert 15 <= rare.sum() <= 25, "50 of 1,000 are rare, and get half of the room"
        kept[held] += 1
    common = kept[np.arange(1000) % 20 != 0]
    early, late = common[: len(common) // 2].mean(), common[len(common) // 2 :].mean()
    assert early == pytest.approx(late, rel=0.1)


def test_a_stratum_that_is_alone_has_all_the_room() -> None:
    reservoir = _reservoir(capacity=30, kind="stratified")
    draw = np.random.default_rng(0)
    reservoir.offer(_rows(0, 100, np.zeros(100, np.int64)), draw)
    assert len(reservoir) == 30
    reservoir.offer(_rows(100, 100, np.full(100, 3)), draw)
    assert np.bincount(reservoir.tensors()["strata"].numpy(), minlength=4).tolist() == [15, 0, 0, 15]


def test_by_label_rows_count_by_what_they_stand_for() -> None:
    reservoir = _filled(_reservoir(capacity=40, rows=4000, kind="stratified"), 1000, 0, rare=20)
    rows = reservoir.drawn(np.random.default_rng(0), CPU)
    assert rows.weights is not None
    assert float(rows.weights.mean()) == pytest.approx(1.0, abs=0.05)
    share = float((rows.weights * (rows.labels == 1)).sum() / rows.weights.sum())
    assert share == pytest.approx(0.05, abs=0.01), "as in the stream, though half of the rows are of the rare label"


def test_by_a_feature_rows_count_alike() -> None:
    reservoir = _reservoir(capacity=10, kind="stratified", by="x")
    reservoir.offer(_rows(0, 30, np.arange(30) % 3, by="x"), np.random.default_rng(0))
    assert reservoir.drawn(np.random.default_rng(0), CPU).weights is None


@pytest.mark.parametrize("kind", ["reservoir", "stratified"])
@pytest.mark.parametrize("before", [0, 15, 25, 400])
def test_what_was_taken_in_can_be_undone_bit_for_bit(kind: str, before: int) -> None:
    reservoir = _filled(_reservoir(capacity=20, kind=kind), before, 0, rare=7)
    tensors = {name: tensor.clone() for name, tensor in reservoir.tensors().items()}
    for _ in range(2):
        reservoir.begin()
        reservoir.offer(_rows(before, 50, np.arange(50) % 5), np.random.default_rng(9))
        assert len(reservoir) == 20
        reservoir.undo()
        reservoir.undo()  # once is enough, and twice does no harm
        after = reservoir.tensors()
        assert all(torch.equal(tensor, after[name]) for name, tensor in tensors.items())


@pytest.mark.parametrize("kind", ["reservoir", "stratified"])
def test_one_that_was_restored_goes_on_like_the_first(kind: str) -> None:
    first = _filled(_reservoir(capacity=20, kind=kind), 90, 0, rare=7)
    second = _reservoir(capacity=20, kind=kind)
    second.restore({name: tensor.clone() for name, tensor in first.tensors().items()})
    for one in (first, second):
        one.offer(_rows(90, 60, np.arange(60) % 5), np.random.default_rng(4))
    assert all(torch.equal(tensor, second.tensors()[name]) for name, tensor in first.tensors().items())
    drawn = [one.drawn(np.random.default_rng(3), CPU).numbers for one in (first, second)]
    assert torch.equal(drawn[0], drawn[1])


def test_a_replay_that_would_be_slow_to_write_is_refused() -> None:
    most = MOST_BYTES // (4 * 32 + 10)
    Reservoir(Replay(capacity=most), examples.vector.spec.record)
    with pytest.raises(SpecError, match=f"at most {most:,}"):
        Reservoir(Replay(capacity=most + 1), examples.vector.spec.record)
