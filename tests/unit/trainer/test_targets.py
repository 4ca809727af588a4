"""What outcomes teach: sure labels themselves, doubtful ones what they are worth, and corrections what was wrong."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from store.records import Label, Outcome, OutcomeKind, Served, Vote
from store.spec import LabelPolicy, ModelRecord, ModelSpec, Objective
from trainer.targets import Teaching, progressive
from trainer.testing import OneNumber

SERVED = Served("main", 1, 1.0)
CORRECTED = LabelPolicy(kind="corrected", default=0)
ACCURACIES = {"hand": 0.95, "rule": 0.75, "crowd": 0.6}


def _model(labels: LabelPolicy, objective: Objective = "binary", classes: tuple[str, ...] = ()) -> ModelRecord:
    return ModelSpec(name="m", features=OneNumber, labels=labels, objective=objective, classes=classes).record


def _outcome(
    votes: Sequence[Vote], learned: Sequence[Vote] = (), kind: OutcomeKind = "label", final: bool = True, x: float = 0.0
) -> Outcome:
    last = votes[-1]
    many = tuple(votes) if len(votes) > 1 else ()
    return Outcome(
        "p", "u", [x], [0.5], SERVED, last.label, kind, final, 0.0, 0.0, 0.0, last.source, last.confidence, None, many,
        tuple(learned),
    )  # fmt: skip


def _weights(teaching: Teaching, outcomes: Sequence[Outcome], p: Sequence[float] | np.ndarray) -> np.ndarray:
    """Weights [rows, classes]."""
    probabilities = np.array(p)
    if probabilities.ndim == 1:
        probabilities = np.stack([1.0 - probabilities, probabilities], axis=1)
    return np.stack([term.weights for term in teaching.terms(outcomes, probabilities)], axis=1)


def test_a_sure_label_is_taught_as_it_is() -> None:
    teaching = Teaching(_model(LabelPolicy()))
    outcomes = [_outcome([Vote(1)]), _outcome([Vote(0)])]
    assert teaching.plain(outcomes)
    assert _weights(teaching, outcomes, [0.3, 0.3]).tolist() == [[0.0, 1.0], [1.0, 0.0]]


def test_a_correction_takes_the_old_label_back() -> None:
    teaching = Teaching(_model(LabelPolicy()))
    corrected = _outcome([Vote(1)], [Vote(0)], "correction")
    assert not teaching.plain([corrected])
    assert _weights(teaching, [corrected], [0.3]).tolist() == [[-1.0, 1.0]]
    assert teaching.news([corrected, _outcome([Vote(1, "x")], [Vote(1, "y")])]) == [0]
    assert progressive(LabelPolicy(), [corrected, _outcome([Vote(1)])]) == [1]


def test_doubtful_votes_weigh_as_their_likelihood_does() -> None:
    teaching = Teaching(_model(LabelPolicy(sources=ACCURACIES)))
    votes = [Vote(1, "hand"), Vote(0, "rule"), Vote(1, "crowd", 0.8)]
    found = _weights(teaching, [_outcome(votes)], [0.3])[0]
    crowd = 0.6 * 0.8 + 0.4 * 0.2
    one, zero = 0.3 * 0.95 * 0.25 * crowd, 0.7 * 0.05 * 0.75 * (1 - crowd)
    assert found == pytest.approx([zero / (one + zero), one / (one + zero)])


def test_the_gradient_is_that_of_the_votes_marginal_likelihood() -> None:
    classes = ("a", "b", "c")
    teaching = Teaching(_model(LabelPolicy(sources={"x": 0.8, "y": 0.6}), "multiclass", classes))
    before, now = (Vote("a", "x"),), (Vote("a", "x"), Vote("c", "y"))
    logits = torch.tensor([[0.2, -0.4, 0.1]], dtype=torch.float64, requires_grad=True)
    [weights] = _weights(teaching, [_outcome(now, before)], torch.softmax(logits, 1).detach().numpy())

    def likelihood(votes: Sequence[Vote]) -> torch.Tensor:
        accuracy = {"x": 0.8, "y": 0.6}
        each = [
            torch.tensor([accuracy[v.source] if name == v.label else (1 - accuracy[v.source]) / 2 for name in classes])
            for v in votes
        ]
        return torch.log((torch.softmax(logits, 1)[0] * torch.stack(each).prod(0)).sum())

    [wanted] = torch.autograd.grad(-(likelihood(now) - likelihood(before)), logits)
    loss = -(torch.from_numpy(weights) * torch.log_softmax(logits, 1)[0]).sum()
    [found] = torch.autograd.grad(loss, logits)
    assert found.numpy() == pytest.approx(wanted.numpy(), abs=1e-6)


def test_corrected_weighs_defaults_and_labels_so_that_the_expected_gradient_is_the_true_one() -> None:
    teaching = Teaching(_model(CORRECTED))
    default = _outcome([Vote(0)], kind="default", final=False)
    label = _outcome([Vote(1)], [Vote(0)])
    for truth in (0.05, 0.3, 0.9):
        weights = _weights(teaching, [default, label], [truth, truth])
        # The gradient of the log odds, where everybody is taught the default, and a share `truth` the label too.
        gradient = weights[0] @ [truth, truth - 1.0] + truth * (weights[1] @ [truth, truth - 1.0])
        assert gradient == pytest.approx(0.0, abs=1e-12)
    assert progressive(CORRECTED, [default, label]) == [1]
    settled = _outcome([Vote(0)], [Vote(0)], "default")
    assert teaching.news([settled]) == []
    assert progressive(CORRECTED, [settled]) == [0]


def test_a_regression_takes_the_old_value_back_and_weighs_by_accuracy() -> None:
    teaching = Teaching(_model(LabelPolicy(sources={"x": 0.5}), "regression"))
    now, before = teaching.terms([_outcome([Vote(3.0)], [Vote(1.0, "x")]), _outcome([Vote(2.0, "x", 0.5)])], np.zeros((2, 0)))
    assert (now.labels.tolist(), now.weights.tolist()) == ([3.0, 2.0], [1.0, 0.25])
    assert (before.labels.tolist(), before.weights.tolist()) == ([1.0, 0.0], [-0.5, 0.0])


def test_what_is_impossible_or_without_confidence_breaks_nothing() -> None:
    teaching = Teaching(_model(LabelPolicy(sources={"x": 1e-9, "*": 0.5})))
    rows = [_outcome([Vote(1, "x")]), _outcome([Vote(1, "q", 0.0)]), _outcome([Vote(0, "a"), Vote(1, "b")])]
    for p in ([0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [0.5, 0.5, 0.5]):
        weights = _weights(teaching, rows, p)
        assert np.isfinite(weights).all()
        assert weights.sum(axis=1) == pytest.approx(1.0)


class _Shares:
    """One probability for each of some groups, learned by gradient descent."""

    def __init__(self, groups: int) -> None:
        self.odds = np.zeros(groups)

    @property
    def p(self) -> np.ndarray:
        return 1.0 / (1.0 + np.exp(-self.odds))

    def learn(self, groups: np.ndarray, weights: np.ndarray) -> None:
        p = self.p[groups]
        gradient = np.zeros_like(self.odds)
        np.add.at(gradient, groups, weights[:, 1] * (p - 1.0) + weights[:, 0] * p)
        self.odds -= 0.04 * gradient / np.sqrt(np.maximum(1, np.bincount(groups, minlength=len(self.odds))))

    def excess(self, truth: np.ndarray) -> float:
        """Log loss above the least possible one."""
        p = self.p
        return float(-np.mean(truth * np.log(p / truth) + (1 - truth) * np.log((1 - p) / (1 - truth))))


def _said(draw: np.random.Generator, truth: int, source: str, accuracy: float) -> Vote:
    return Vote(truth if draw.random() < accuracy else 1 - truth, source)


@pytest.mark.simulation
@pytest.mark.parametrize("seed", range(2))
def test_doubtful_sources_teach_more_than_their_majority_does(seed: int) -> None:
    draw = np.random.default_rng(seed)
    truth = draw.beta(1, 3, 40)
    teaching, aware, majority = Teaching(_model(LabelPolicy(sources=ACCURACIES))), _Shares(40), _Shares(40)
    for _ in range(250):
        groups = draw.integers(0, 40, 128)
        outcomes: list[Outcome] = []
        for label in (draw.random(128) < truth[groups]).astype(int):
            voters = [name for name in ACCURACIES if draw.random() < 0.6] or ["hand"]
            outcomes.append(_outcome([_said(draw, label, name, ACCURACIES[name]) for name in voters]))
        aware.learn(groups, _weights(teaching, outcomes, aware.p[groups]))
        ones = np.array([_share_of_ones(one.said) for one in outcomes])
        most = np.where(ones == 0.5, draw.random(128) < 0.5, ones > 0.5)
        majority.learn(groups, np.stack([1.0 - most, most], axis=1))
    assert aware.excess(truth) < 0.7 * majority.excess(truth)
    assert teaching.trust.accuracies() == pytest.approx(ACCURACIES, abs=0.05)


def _share_of_ones(votes: Sequence[Vote]) -> float:
    return sum(float(vote.label) for vote in votes) / len(votes)


@pytest.mark.simulation
def test_a_source_that_begins_to_lie_is_no_longer_listened_to() -> None:
    draw = np.random.default_rng(0)
    truth = draw.beta(1, 3, 40)
    teaching, shares = Teaching(_model(LabelPolicy(sources=ACCURACIES))), _Shares(40)
    before = 0.0
    for step in range(500):
        lies = step >= 400
        groups = draw.integers(0, 40, 128)
        labels = (draw.random(128) < truth[groups]).astype(int)
        names = draw.choice(list(ACCURACIES), 128, p=[0.25, 0.5, 0.25])
        right = ACCURACIES | ({"rule": 0.02} if lies else {})
        outcomes = [
            _outcome([_said(draw, label, name, right[name])]) for label, name in zip(labels, names.tolist(), strict=True)
        ]
        shares.learn(groups, _weights(teaching, outcomes, shares.p[groups]))
        if step == 399:
            before = shares.excess(truth)
            assert teaching.trust.accuracies()["rule"] == pytest.approx(0.75, abs=0.05)
            teaching = Teaching(teaching._record, teaching.trust.packed())  # pyright: ignore[reportPrivateUsage]
    assert teaching.trust.accuracies()["rule"] == 0.5
    assert shares.excess(truth) < before + 0.02


@pytest.mark.simulation
def test_a_changed_world_is_held_against_no_source() -> None:
    draw = np.random.default_rng(0)
    policy = LabelPolicy(sources=ACCURACIES)
    teaching = Teaching(_model(policy))
    for _ in range(100):  # a model that knows nothing of the labels any more
        outcomes = [_outcome([_said(draw, 1, name, ACCURACIES[name])]) for name in draw.choice(list(ACCURACIES), 64).tolist()]
        teaching.terms(outcomes, np.tile([0.95, 0.05], (64, 1)))
    assert max(found / policy.accuracy(name) for name, found in teaching.trust.accuracies().items()) == pytest.approx(1.0)


@pytest.mark.simulation
@pytest.mark.parametrize("seed", range(2))
def test_corrected_is_as_good_as_labels_at_once(seed: int) -> None:
    """Labels come after 60 batches on average, some after 300; whoever takes silence for an answer is wrong by far."""
    draw = np.random.default_rng(seed)
    truth = draw.beta(1, 6, 40)
    teaching = Teaching(_model(CORRECTED))
    corrected, naive, oracle = _Shares(40), _Shares(40), _Shares(40)
    coming: dict[int, list[int]] = {}
    for step in range(1200):
        groups = draw.integers(0, 40, 128)
        labels = draw.random(128) < truth[groups]
        for group in groups[labels].tolist():
            coming.setdefault(step + 1 + int(draw.exponential(60)), []).append(group)
        late = coming.pop(step, [])
        outcomes = [_outcome([Vote(0)], kind="default", final=False)] * 128 + [_outcome([Vote(1)], [Vote(0)])] * len(late)
        told = np.concatenate([groups, np.array(late, dtype=int)])
        corrected.learn(told, _weights(teaching, outcomes, corrected.p[told]))
        naive.learn(told, np.array([_onehot(one.label) for one in outcomes]))
        oracle.learn(groups, np.stack([1.0 - labels, labels], axis=1))
    least = float(-np.mean(truth * np.log(truth) + (1 - truth) * np.log(1 - truth)))
    assert least + corrected.excess(truth) < 1.02 * (least + oracle.excess(truth))
    assert naive.excess(truth) > 3 * corrected.excess(truth)
    assert naive.p.mean() < 0.93 * truth.mean()
    assert corrected.p.mean() == pytest.approx(float(truth.mean()), rel=0.05)


def _onehot(label: Label) -> list[float]:
    return [1.0 - float(label), float(label)]
