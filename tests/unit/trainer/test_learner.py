"""What the learner does with a declaration: the defaults as ever, bit for bit; all else repeatable, undone and resumed."""

import json
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import numpy as np
import pytest
import torch
from pydantic import BaseModel
from safetensors.numpy import load

from store.artefact import pack_weights
from store.encoding import Encoder
from store.errors import SpecError
from store.learning import (
    SGD,
    Adagrad,
    Adam,
    ClassBalanced,
    Cosine,
    CostMatrix,
    Focal,
    Importance,
    InverseSquareRoot,
    Loss,
    Optimiser,
    Replay,
    Sampling,
    StepDecay,
    Stratified,
    Uniform,
    WarmUp,
    Weighted,
)
from store.records import Outcome, Served
from store.schema import Buckets, Row
from store.spec import Learning, ModelSpec, Objective
from trainer.errors import CheckpointError
from trainer.learner import Learner
from trainer.network import TabularNetwork

CLASSES = ("a", "b", "c")


class Shown(BaseModel):
    place: Annotated[str, Buckets(64)]
    kind: Literal["old", "new"]
    at: datetime
    price: float
    age: float | None = None


def _spec(objective: Objective = "binary", **learning: Any) -> ModelSpec:
    classes = CLASSES if objective == "multiclass" else ()
    return ModelSpec(name="m", features=Shown, objective=objective, classes=classes, learning=Learning(**learning))


def _outcomes(count: int, seed: int, objective: Objective = "binary") -> list[Outcome]:
    draw = np.random.default_rng(seed)
    found: list[Outcome] = []
    for index in range(count):
        price, old = float(draw.normal()), bool(draw.random() < 0.2)
        age = None if draw.random() < 0.3 else float(draw.gamma(2.0))
        at = 1.7e9 + 1000.0 * seed + index
        late = bool(draw.random() < 1 / (1 + np.exp(-price + 2 * old)))
        label = {"binary": int(late), "multiclass": CLASSES[int(late) + int(old)]}.get(objective, price + late)
        row: Row = [f"place {draw.integers(40)}", "old" if old else "new", at, price, age]
        found.append(Outcome(str(index), "u", row, [0.5], Served("main", 1, 1.0), label, "label", True, at, at + 5, at + 5))
    return found


def _taught(spec: ModelSpec, batches: int, start: int = 0, learner: Learner | None = None) -> Learner:
    learner = learner or Learner(spec)
    for batch in range(start, start + batches):
        # The last rows of each are fewer than a step takes, and no power of two.
        learned = learner.learn(_outcomes(150 + 11 * batch, batch, spec.objective), f"{batch}-0")
        assert learned.rejected == ""
    return learner


def _same(first: Learner, second: Learner) -> bool:
    mine, other = load(first.checkpoint()), load(second.checkpoint())
    same = mine.keys() == other.keys() and all(mine[name].tobytes() == other[name].tobytes() for name in mine)
    return first.weights() == second.weights() and same


def _reference(spec: ModelSpec, batches: int) -> dict[str, torch.Tensor]:
    """Adagrad three times over each batch by the objective's mean loss, its sums forgotten a little after each."""
    objective, features = spec.objective, spec.record.features
    torch.manual_seed(0)
    network = TabularNetwork(features.numbers, features.buckets, spec.record.outputs)
    optimiser = torch.optim.Adagrad(network.parameters(), lr=0.02, weight_decay=1e-3, fused=True)
    for batch in range(batches):
        outcomes = _outcomes(150 + 11 * batch, batch, objective)
        encoded = Encoder(features).encode([outcome.row for outcome in outcomes])
        numbers, categories = torch.from_numpy(encoded.numbers), torch.from_numpy(encoded.categories)
        for start in range(0, len(outcomes), 128):
            part = slice(start, start + 128)
            network.observe(numbers[part])
            given = [outcome.label for outcome in outcomes[part]]
            for _ in range(3):
                optimiser.zero_grad()
                logits = network(numbers[part], categories[part])
                if objective == "binary":
                    wanted = torch.tensor([float(label) for label in given])
                    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits[:, 0], wanted)
                elif objective == "multiclass":
                    classes = torch.tensor([CLASSES.index(str(label)) for label in given])
                    loss = torch.nn.functional.cross_entropy(logits, classes)
                else:
                    wanted = torch.tensor([float(label) for label in given])
                    loss = torch.nn.functional.mse_loss(logits[:, 0], wanted)
                loss.backward()
                optimiser.step()
        for parameter in network.parameters():
            optimiser.state[parameter]["sum"].mul_(0.999)
    sums = {f"adagrad.sum:network.{name}": optimiser.state[one]["sum"] for name, one in network.named_parameters()}
    return {f"network.{name}": tensor for name, tensor in network.state_dict().items()} | sums


@pytest.mark.parametrize("objective", ["binary", "multiclass", "regression", "ranking"])
def test_who_asks_for_nothing_gets_plain_adagrad_bit_for_bit(objective: Objective) -> None:
    learner = _taught(_spec(objective, rows=128), 4)
    mine = load(learner.weights()) | load(learner.checkpoint())
    for name, tensor in _reference(_spec(objective), 4).items():
        np.testing.assert_array_equal(mine[name], tensor.detach().numpy(), name)
    extra = {name for name in load(learner.checkpoint()) if not name.startswith(("adagrad.", "network."))}
    assert not extra, "and what it does not ask for is not kept"


EVERYTHING: list[dict[str, Any]] = [
    {
        "optimiser": Adam(decoupled=True), "rate": Cosine(steps=40, warm_up=5), "loss": ClassBalanced(),
        "sampling": Importance(share=0.5), "half_life_s": 60.0, "replay": Replay(capacity=100, rows=30, kind="stratified"),
        "frozen": ("deep.0.*",),
    },
    {
        "optimiser": SGD(nesterov=True), "rate": WarmUp(steps=30), "loss": Focal(), "sampling": Stratified(by="kind"),
        "replay": Replay(capacity=100, rows=30),
    },
    {
        "optimiser": Adam(), "rate": InverseSquareRoot(), "loss": CostMatrix(costs=((0.0, 1.0), (5.0, 0.0))),
        "sampling": Weighted(labels={"1": 3.0}), "half_life_s": 60.0,
        "replay": Replay(capacity=100, rows=30, kind="stratified", by="kind"),
    },
    {"rate": StepDecay(every=7), "sampling": Uniform(), "replay": Replay(capacity=1000, rows=30)},
    {"optimiser": SGD(momentum=0.0), "half_life_s": 1e-3},
]  # fmt: skip


@pytest.mark.parametrize("learning", EVERYTHING)
def test_a_learner_that_was_killed_ends_with_the_same_bits(learning: dict[str, Any]) -> None:
    spec = _spec(rows=128, **learning)
    whole, first = _taught(spec, 6), _taught(spec, 3)
    resumed = Learner(spec)
    resumed.restore(first.weights(), first.checkpoint())
    assert resumed.descent.afresh == ""
    assert _same(first, resumed)
    assert _same(_taught(spec, 3, 3, resumed), whole)
    assert resumed.descent.steps == whole.descent.steps > 0


@pytest.mark.parametrize("learning", [{}, *EVERYTHING])
@pytest.mark.parametrize("batches", [0, 3])
def test_a_batch_is_undone_bit_for_bit(learning: dict[str, Any], batches: int) -> None:
    spec = _spec(rows=128, **learning)
    learner, plain = _taught(spec, batches), _taught(spec, batches)
    for other in (8, 9):
        _taught(spec, 1, other, learner)
        learner.undo()
    for one in (learner, plain):
        one.prepare()
    assert _same(learner, plain)
    assert _same(_taught(spec, 2, batches, learner), _taught(spec, 2, batches, plain))


@pytest.mark.parametrize("learning", [{}, *EVERYTHING])
def test_a_batch_that_ruins_the_weights_leaves_nothing_behind(learning: dict[str, Any]) -> None:
    spec = _spec(rows=128, **learning)
    learner, plain = _taught(spec, 2), _taught(spec, 2)
    state = learner.descent.replay
    with torch.no_grad():
        parameter = next(iter(learner.scorer.parameters()))
        kept = parameter.clone()
        parameter.fill_(torch.nan)
    assert "not finite" in learner.learn(_outcomes(100, 7), "7-0").rejected
    with torch.no_grad():
        parameter.copy_(kept)
    assert learner.descent.replay is state
    assert _same(learner, plain)


@pytest.mark.parametrize("optimiser", [Adagrad(), Adam(), SGD()])
def test_one_label_beyond_all_others_does_not_end_learning_for_good(optimiser: Optimiser) -> None:
    spec = _spec("regression", optimiser=optimiser)
    learner, plain = _taught(spec, 2), _taught(spec, 2)
    outcomes = _outcomes(100, 7, "regression")
    assert "not finite" in learner.learn([outcomes[0]._replace(label=1e25), *outcomes[1:]], "7-0").rejected
    assert _same(learner, plain)


@pytest.mark.parametrize("text", ["out of memory", ""])
def test_an_error_in_the_middle_does_not_undo_the_batch_before(text: str) -> None:
    spec = _spec(replay=Replay(capacity=400))
    learner, plain = _taught(spec, 2), _taught(spec, 2)
    with pytest.MonkeyPatch.context() as patch:

        def fail(*_: object) -> None:
            raise RuntimeError(text)

        patch.setattr(learner.descent, "_step", fail)
        assert (text or "RuntimeError") in learner.learn(_outcomes(100, 7), "7-0").rejected
    assert _same(learner, plain)


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ({}, {"optimiser": Adam()}, "the state of the optimiser: adam instead of adagrad"),
        ({"optimiser": Adam()}, {"optimiser": SGD()}, "the state of the optimiser: sgd instead of adam"),
        ({}, {"loss": ClassBalanced()}, "what the loss class_balanced has seen"),
        ({"replay": Replay(capacity=50)}, {"replay": Replay(capacity=60)}, "the replay"),
        ({"replay": Replay(kind="stratified")}, {"replay": Replay(kind="stratified", by="kind")}, "the replay"),
        ({"frozen": ("table",)}, {}, "the optimiser's state for table"),
        ({}, {"learning_rate": 0.1, "rate": WarmUp(steps=9), "half_life_s": 5.0, "passes": 1, "sampling": Uniform()}, ""),
        ({"optimiser": Adam()}, {"optimiser": Adam(beta1=0.5, decoupled=True)}, ""),
        ({"replay": Replay()}, {}, ""),
        ({}, {"replay": Replay()}, ""),
        ({}, {"frozen": ("table",)}, ""),
        ({"loss": ClassBalanced()}, {}, ""),
    ],
)
def test_a_declaration_may_change_and_what_was_learned_stays(
    before: dict[str, Any], after: dict[str, Any], says: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert _spec(**before).record.digest == _spec(**after).record.digest
    first, second = _taught(_spec(**before), 2), Learner(_spec(**after))
    second.restore(first.weights(), first.checkpoint())
    assert second.weights() == first.weights()
    assert second.descent.steps == first.descent.steps
    assert second.descent.afresh == says
    assert says in caplog.text
    assert bool(caplog.records) == bool(says)
    learned = second.learn(_outcomes(50, 5), "5-0")
    assert learned.lineage == ({"afresh": says} if says else {})
    assert second.learn(_outcomes(50, 6), "6-0").lineage == {}, "said once"


def test_what_starts_afresh_is_said_of_the_version_that_is_published_in_the_end() -> None:
    first, second = _taught(_spec(), 2), Learner(_spec(optimiser=Adam()))
    second.restore(first.weights(), first.checkpoint())
    assert second.learn(_outcomes(50, 5), "5-0").lineage
    second.undo()
    assert second.learn(_outcomes(50, 6), "6-0").lineage


def test_a_checkpoint_without_a_word_of_steps_is_of_plain_adagrad() -> None:
    learner = _taught(_spec(), 2)
    older = pack_weights(load(learner.checkpoint()), {"recent": json.dumps([0.5, 10.0])})
    resumed = Learner(_spec())
    resumed.restore(learner.weights(), older)
    assert _same(resumed, learner) or resumed.descent.steps == 0
    assert resumed.weights() == learner.weights()
    assert _taught(_spec(), 2, 2, resumed).weights() == _taught(_spec(), 2, 2, learner).weights()


@pytest.mark.parametrize("optimiser", [Adagrad(), Adam(), SGD()])
def test_frozen_parameters_stay_and_statistics_follow(optimiser: Optimiser) -> None:
    spec = _spec(frozen=("table", "deep.[02].*"), optimiser=optimiser)
    before, after = load(Learner(spec).weights()), load(_taught(spec, 2).weights())
    moved = {name.removeprefix("network.") for name in before if not np.array_equal(before[name], after[name])}
    assert moved == {"wide.weight", "deep.4.weight", "deep.4.bias", "standardise.mean", "standardise.variance"}


@pytest.mark.parametrize(
    ("frozen", "says"), [(("tabel",), r"matches 'tabel'; there are table, wide\.weight"), (("*",), "nothing is left to learn")]
)
def test_patterns_that_make_no_sense_are_refused_at_the_start(frozen: tuple[str, ...], says: str) -> None:
    with pytest.raises(SpecError, match=says):
        Learner(_spec(frozen=frozen))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_asked_for_in_vain() -> None:
    with pytest.raises(SpecError, match="'auto'"):
        Learner(_spec(device="cuda"))
    assert Learner(_spec(device="cpu")).device.type == "cpu"


def test_a_damaged_replay_is_a_damaged_checkpoint() -> None:
    spec = _spec(replay=Replay(capacity=50))
    learner = _taught(spec, 1)
    with pytest.raises(CheckpointError):
        Learner(spec).restore(learner.weights(), learner.checkpoint().replace(b"replay.labels", b"replay.babels"))


LOSSES: list[Loss] = [ClassBalanced(), Focal(), CostMatrix(costs=((0.0, 1.0, 1.0), (1.0, 0.0, 1.0), (9.0, 1.0, 0.0)))]
WAYS: list[Sampling] = [Uniform(), Stratified(), Weighted(labels={"c": 9.0}), Importance()]


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.kind)
@pytest.mark.parametrize("sampling", WAYS, ids=lambda way: way.kind)
def test_all_goes_with_all(loss: Loss, sampling: Sampling) -> None:
    spec = _spec("multiclass", loss=loss, sampling=sampling, replay=Replay(rows=20, kind="stratified"), half_life_s=100.0)
    learner = Learner(spec)
    for number, count in enumerate((1, 2, 300)):
        assert learner.learn(_outcomes(count, number, "multiclass"), f"{number}-0").rejected == ""


def test_what_is_reported_is_the_proper_loss() -> None:
    outcomes = _outcomes(200, 0)
    reported = {learning["loss"].kind: Learner(_spec(**learning)).learn(outcomes, "0-0").loss for learning in EVERYTHING[:3]}
    assert set(reported.values()) == {Learner(_spec()).learn(outcomes, "0-0").loss}


def test_an_older_outcome_weighs_half_for_each_half_life() -> None:
    learner = Learner(_spec(half_life_s=10.0))
    outcomes = _outcomes(21, 0)
    weights = learner._rows(outcomes).weights  # pyright: ignore[reportPrivateUsage]
    assert weights is not None
    assert float(weights.mean()) == pytest.approx(1.0)
    assert float(weights[20] / weights[10]) == pytest.approx(2.0)
    assert float(weights[20] / weights[0]) == pytest.approx(4.0)
    assert datetime.fromtimestamp(outcomes[0].predicted_at, UTC).year == 2023
