"""Each loss against its formula worked out by hand or by scikit-learn, and what it does to probabilities."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss
from torch import Tensor

from store.learning import ClassBalanced, CostMatrix, Focal, Plain
from store.spec import Learning, ModelRecord, ModelSpec, Objective
from trainer.losses import ClassBalancedLoss, CostMatrixLoss, FocalLoss, Loss, loss_of
from trainer.testing import OneNumber

CLASSES = ("a", "b", "c")
COSTS = CostMatrix(costs=((0.0, 1.0, 2.0), (5.0, 0.0, 1.0), (1.0, 3.0, 0.0)))
BINARY_COSTS = CostMatrix(costs=((0.0, 1.0), (5.0, 0.0)))


def _record(objective: Objective, **learning: Any) -> ModelRecord:
    classes = CLASSES if objective == "multiclass" else ()
    return ModelSpec(name="m", features=OneNumber, objective=objective, classes=classes, learning=Learning(**learning)).record


def _rows(objective: Objective, rows: int = 50) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    if objective == "multiclass":
        return torch.randn(rows, 3, generator=draw), torch.randint(0, 3, (rows,), generator=draw)
    return torch.randn(rows, 1, generator=draw), torch.randint(0, 2, (rows,), generator=draw).float()


def _probabilities(logits: Tensor) -> np.ndarray:
    if logits.shape[1] == 1:
        positive = torch.sigmoid(logits[:, 0].double()).numpy()
        return np.stack([1 - positive, positive], axis=1)
    return torch.softmax(logits.double(), dim=1).numpy()


@pytest.mark.parametrize("objective", ["binary", "multiclass"])
def test_the_plain_loss_is_log_loss(objective: Objective) -> None:
    logits, labels = _rows(objective)
    loss = loss_of(_record(objective))
    assert float(loss(logits, labels).mean()) == pytest.approx(log_loss(labels.numpy(), _probabilities(logits)), rel=1e-5)
    assert float(loss.mean(logits, labels)) == pytest.approx(float(loss(logits, labels).mean()), rel=1e-6)


@pytest.mark.parametrize("objective", ["regression", "ranking"])
def test_the_plain_loss_of_numbers_is_squared_error(objective: Objective) -> None:
    loss = loss_of(_record(objective))
    assert loss(torch.tensor([[1.0], [4.0]]), torch.tensor([3.0, 4.0])).tolist() == [4.0, 0.0]


@pytest.mark.parametrize("objective", ["binary", "multiclass"])
def test_class_balanced_weights_are_those_of_effective_numbers(objective: Objective) -> None:
    logits, labels = _rows(objective)
    loss = loss_of(_record(objective, loss=ClassBalanced(beta=0.9)))
    assert isinstance(loss, ClassBalancedLoss)
    loss.observe(labels)
    loss.observe(labels[:7])
    seen = np.concatenate([labels.numpy(), labels.numpy()[:7]]).astype(int)
    effective = np.array([(1 - 0.9) / (1 - 0.9**count) for count in np.bincount(seen)])
    weights = effective / effective.sum() * len(effective)
    np.testing.assert_allclose(loss.weights(), weights, rtol=1e-6)
    shifted = _probabilities(logits) * weights
    shifted /= shifted.sum(axis=1, keepdims=True)
    picked = weights[labels.numpy().astype(int)]
    expected = log_loss(labels.numpy(), shifted, sample_weight=picked) * picked.mean()
    assert float(loss(logits, labels).mean()) == pytest.approx(expected, rel=1e-5)


def test_classes_that_were_never_seen_weigh_as_those_seen_once() -> None:
    loss = ClassBalancedLoss(ClassBalanced(), 3)
    loss.observe(torch.tensor([0, 0, 1]))
    weights = loss.weights()
    assert bool(weights.isfinite().all())
    assert weights[1] == weights[2] > weights[0]


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("objective", ["binary", "multiclass"])
def test_the_focal_loss_is_its_formula(objective: Objective, gamma: float) -> None:
    logits, labels = _rows(objective)
    own = _probabilities(logits)[np.arange(len(labels)), labels.numpy().astype(int)]
    np.testing.assert_allclose(FocalLoss(Focal(gamma=gamma))(logits, labels), -((1 - own) ** gamma) * np.log(own), rtol=1e-4)


def test_alpha_weighs_the_labels_of_a_binary_objective() -> None:
    logits, labels = _rows("binary")
    ratio = FocalLoss(Focal(alpha=0.25))(logits, labels) / FocalLoss(Focal())(logits, labels)
    np.testing.assert_allclose(ratio, torch.where(labels == 1, 0.25, 0.75), rtol=1e-6)


@pytest.mark.parametrize("loss", [FocalLoss(Focal()), FocalLoss(Focal(gamma=0.5)), ClassBalancedLoss(ClassBalanced(), 2)])
def test_a_network_that_is_very_sure_still_learns(loss: Loss) -> None:
    logits = torch.tensor([[60.0], [-60.0], [60.0], [-60.0]], requires_grad=True)
    losses = loss(logits, torch.tensor([1.0, 1.0, 0.0, 0.0]))
    losses.sum().backward()
    assert logits.grad is not None
    assert bool(losses.isfinite().all() and logits.grad.isfinite().all())
    assert logits.grad[1] < -0.1
    assert logits.grad[2] > 0.1


@pytest.mark.parametrize(("objective", "costs"), [("binary", BINARY_COSTS), ("multiclass", COSTS)])
def test_the_cost_of_a_row_is_what_a_draw_by_its_scores_would_cost(objective: Objective, costs: CostMatrix) -> None:
    logits, labels = _rows(objective)
    expected = (np.array(costs.costs)[labels.numpy().astype(int)] * _probabilities(logits)).sum(axis=1)
    np.testing.assert_allclose(CostMatrixLoss(costs)(logits, labels), expected, rtol=1e-5)


def _learned(loss: Loss, share: float, steps: int = 300) -> float:
    """The score that gradient descent on the loss gives to rows that are all alike, a share of which has label 1."""
    labels = (torch.arange(1000) < 1000 * share).float()
    logit = torch.zeros(1, requires_grad=True)
    optimiser = torch.optim.Adam([logit], lr=0.1)
    loss.observe(labels)
    for _ in range(steps):
        optimiser.zero_grad()
        loss(logit.expand(1000)[:, None], labels).mean().backward()
        optimiser.step()
    return float(torch.sigmoid(logit.detach()))


@pytest.mark.simulation
def test_what_losses_do_to_probabilities() -> None:
    plain = loss_of(_record("binary", loss=Plain()))
    balanced = ClassBalancedLoss(ClassBalanced(), 2)
    assert _learned(plain, 0.05) == pytest.approx(0.05, abs=0.003)
    assert _learned(balanced, 0.05) == pytest.approx(0.05, abs=0.003), "weights are taken out again"
    assert 0.1 < _learned(FocalLoss(Focal()), 0.05) < 0.5, "towards the middle"
    # Answering 0 costs 5 in 30 % of rows, 1 costs 1 in 70 %: the cheaper answer is 1, with certainty.
    assert _learned(CostMatrixLoss(BINARY_COSTS), 0.3) > 0.95
    assert _learned(CostMatrixLoss(BINARY_COSTS), 0.1) < 0.05


def test_what_a_loss_has_seen_is_in_its_state() -> None:
    loss, resumed = (ClassBalancedLoss(ClassBalanced(), 2) for _ in range(2))
    loss.observe(torch.tensor([1.0, 0.0, 0.0]))
    resumed.load_state_dict(loss.state_dict())
    assert resumed.counts.tolist() == [2.0, 1.0]
    assert torch.equal(resumed.weights(), loss.weights())
