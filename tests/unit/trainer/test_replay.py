"""The reservoir keeps a fair sample of all that came, undoes what it took in, and goes on after a restart."""

from typing import Any

import numpy as np
import pytest
import torch

import examples.vector
from store.errors import SpecError
from store.learning import Replay
from store.spec import Learning, ModelRecord, ModelSpec
from trainer.replay import MOST_BYTES, Offer, Reservoir
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


def _offer(rows: Rows, corrected: Rows | None = None) -> Offer:
    """Rows whose keys are their numbers; the label of those that are corrected was 0."""
    others = rows.at([]) if corrected is None else corrected
    return Offer(rows, _keys(rows), others, _keys(others), np.zeros(len(others), np.int64))


def _keys(rows: Rows) -> np.ndarray:
    return rows.numbers[:, 0].numpy().astype(np.int64)


def _again(count: int) -> Rows:
    """Every fifth of the first rows of a stream, with other labels than they had."""
    rows = _rows(0, count, np.full(count, 1))
    return rows.at(range(0, count, 5))


def _held(reservoir: Reservoir) -> np.ndarray:
    return reservoir.tensors()["numbers"][:, 0].numpy().copy()


def _filled(reservoir: Reservoir, total: int, seed: int, batch: int = 17, rare: int = 0) -> Reservoir:
    draw = np.random.default_rng([seed, 1])
    for first in range(0, total, batch):
        count = min(batch, total - first)
        strata = (np.arange(first, first + count) % rare == 0).astype(np.int64) if rare else None
        reservoir.offer(_offer(_rows(first, count, strata)), draw)
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
    reservoir.offer(_offer(_rows(0, 100, np.zeros(100, np.int64))), draw)
    assert len(reservoir) == 30
    reservoir.offer(_offer(_rows(100, 100, np.full(100, 3))), draw)
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
    reservoir.offer(_offer(_rows(0, 30, np.arange(30) % 3, by="x")), np.random.default_rng(0))
    assert reservoir.drawn(np.random.default_rng(0), CPU).weights is None


@pytest.mark.parametrize("kind", ["reservoir", "stratified"])
@pytest.mark.parametrize("before", [0, 15, 25, 400])
def test_what_was_taken_in_can_be_undone_bit_for_bit(kind: str, before: int) -> None:
    reservoir = _filled(_reservoir(capacity=20, kind=kind), before, 0, rare=7)
    tensors = {name: tensor.clone() for name, tensor in reservoir.tensors().items()}
    for _ in range(2):
        reservoir.begin()
        reservoir.offer(_offer(_rows(before, 50, np.arange(50) % 5), _again(before)), np.random.default_rng(9))
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
        one.offer(_offer(_rows(90, 60, np.arange(60) % 5), _again(90)), np.random.default_rng(4))
    assert all(torch.equal(tensor, second.tensors()[name]) for name, tensor in first.tensors().items())
    drawn = [one.drawn(np.random.default_rng(3), CPU).numbers for one in (first, second)]
    assert torch.equal(drawn[0], drawn[1])


def test_a_replay_that_would_be_slow_to_write_is_refused() -> None:
    most = MOST_BYTES // (4 * 32 + 18)
    Reservoir(Replay(capacity=most), examples.vector.spec.record)
    with pytest.raises(SpecError, match=f"at most {most:,}"):
        Reservoir(Replay(capacity=most + 1), examples.vector.spec.record)


@pytest.mark.parametrize("kind", ["reservoir", "stratified"])
def test_a_label_that_is_corrected_is_no_longer_replayed(kind: str) -> None:
    reservoir = _reservoir(capacity=30, rows=3000, kind=kind)
    draw = np.random.default_rng(0)
    reservoir.offer(_offer(_rows(0, 200, np.zeros(200, np.int64))), draw)
    kept = _held(reservoir)
    wrong, twice = (_rows(first, 100, np.full(100, label)) for first, label in ((0, 1), (0, 2)))
    reservoir.offer(_offer(_rows(200, 1, np.zeros(1, np.int64)), wrong), draw)
    reservoir.offer(_offer(_rows(201, 1, np.zeros(1, np.int64)), twice.at([0, 1, 2])), draw)
    rows = reservoir.drawn(draw, CPU)
    label_of = dict(zip(rows.numbers[:, 0].tolist(), rows.labels.tolist(), strict=True))
    assert {number: label for number, label in label_of.items() if 3 <= number < 100} == {
        number: 1.0 for number in kept.tolist() if 3 <= number < 100 and number in label_of
    }
    assert {label for number, label in label_of.items() if number < 3} <= {2.0}
    assert {label for number, label in label_of.items() if number >= 100} == {0.0}


def test_a_stratum_stands_for_the_rows_whose_label_it_is_now() -> None:
    reservoir = _filled(_reservoir(capacity=20, kind="stratified"), 100, 0, rare=10)
    before = reservoir.tensors()["counts"].numpy().copy()
    assert before[:2].tolist() == [90, 10]
    reservoir.offer(_offer(_rows(100, 0, np.zeros(0, np.int64)), _rows(1, 5, np.full(5, 1))), np.random.default_rng(1))
    assert reservoir.tensors()["counts"].numpy()[:2].tolist() == [85, 15]
    reservoir.undo()
    assert np.array_equal(reservoir.tensors()["counts"].numpy(), before)


def test_what_an_older_checkpoint_kept_is_taken_up_without_its_keys() -> None:
    first, second = _filled(_reservoir(capacity=20), 50, 0), _reservoir(capacity=20)
    tensors = first.tensors()
    del tensors["keys"]
    second.restore(tensors)
    assert np.array_equal(_held(first), _held(second))
    second.offer(_offer(_rows(50, 5), _again(50).at(range(1, 10))), np.random.default_rng(0))
    assert not second.tensors()["labels"].any()
