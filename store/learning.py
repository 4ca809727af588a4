"""How a model learns, as its declaration says it: plain data, the trainer does it.

None of it changes the weights' shapes, so all of it may change while the model goes on: what is learned stays, and only the
state that no longer fits (an optimiser's, a replay's) starts afresh.
"""

from collections.abc import Collection, Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

LABEL = "label"
"""What strata are made by where no feature is named."""


class _Setting(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Adagrad(_Setting):
    """Adagrad (Duchi, Hazan and Singer 2011): rare categories take big steps, frequent ones small steps. The default."""

    kind: Literal["adagrad"] = "adagrad"


class Adam(_Setting):
    """Adam (Kingma and Ba 2015); `decoupled`: AdamW (Loshchilov and Hutter 2019), whose weight decay is no part of the
    gradient. Each step moves the whole table of categories, those that the batch has not seen too."""

    kind: Literal["adam"] = "adam"
    beta1: float = Field(default=0.9, ge=0.0, lt=1.0)
    beta2: float = Field(default=0.999, ge=0.0, lt=1.0)
    decoupled: bool = False


class SGD(_Setting):
    """Gradient descent with momentum (Sutskever and others 2013); `momentum=0` without."""

    kind: Literal["sgd"] = "sgd"
    momentum: float = Field(default=0.9, ge=0.0, lt=1.0)
    nesterov: bool = False


class Constant(_Setting):
    """The learning rate as it is."""

    kind: Literal["constant"] = "constant"


class WarmUp(_Setting):
    """From nothing to the learning rate in `steps` steps, in a line; then constant."""

    kind: Literal["warm_up"] = "warm_up"
    steps: int = Field(ge=1)


class Cosine(_Setting):
    """After `warm_up` steps, half a cosine down to `floor` times the learning rate in `steps` steps (Loshchilov and Hutter
    2017); then constant. With a floor of 0 learning ends there."""

    kind: Literal["cosine"] = "cosine"
    steps: int = Field(ge=1)
    warm_up: int = Field(default=0, ge=0)
    floor: float = Field(default=0.1, ge=0.0, le=1.0)


class InverseSquareRoot(_Setting):
    """After `warm_up` steps, down with the square root of the steps taken (Vaswani and others 2017)."""

    kind: Literal["inverse_square_root"] = "inverse_square_root"
    warm_up: int = Field(default=100, ge=1)


class StepDecay(_Setting):
    """Times `factor` every `every` steps, never below `floor` times the learning rate."""

    kind: Literal["step"] = "step"
    every: int = Field(ge=1)
    factor: float = Field(default=0.5, gt=0.0, lt=1.0)
    floor: float = Field(default=0.01, ge=0.0, le=1.0)


class Plain(_Setting):
    """The objective's proper loss: log loss, cross-entropy, squared error. The default."""

    kind: Literal["plain"] = "plain"


class ClassBalanced(_Setting):
    """Rare labels weigh more, by the effective number of rows that each label had so far (Cui and others 2019). Probabilities
    stay unbiased."""

    kind: Literal["class_balanced"] = "class_balanced"
    beta: float = Field(default=0.999, ge=0.0, lt=1.0)


class Focal(_Setting):
    """Rows that are easy weigh less (Lin and others 2017). Probabilities are drawn towards the middle: rank by them.

    `alpha` weighs label 1 of a binary objective, 1 - alpha label 0; None: both the same.
    """

    kind: Literal["focal"] = "focal"
    gamma: float = Field(default=2.0, ge=0.0, le=10.0)
    alpha: float | None = Field(default=None, gt=0.0, lt=1.0)


class CostMatrix(_Setting):
    """The cost expected of answering at random by the scores: `costs[true][answered]`, in the order of the classes (binary:
    0, 1). Scores are drawn to the cheapest answer and are no probabilities."""

    kind: Literal["cost_matrix"] = "cost_matrix"
    costs: tuple[tuple[Annotated[FiniteFloat, Field(ge=0.0)], ...], ...]


class _Sampling(_Setting):
    share: float = Field(default=0.5, gt=0.0, le=1.0)
    """Of a step's rows, at least one."""


class Uniform(_Sampling):
    """All rows alike, none twice."""

    kind: Literal["uniform"] = "uniform"


class Stratified(_Sampling):
    """As many of each stratum, by label or by the values of a feature; at least one of each."""

    kind: Literal["stratified"] = "stratified"
    by: str = LABEL


class Weighted(_Sampling):
    """In proportion to what rows weigh by their age, times `labels`: such as {"1": 10.0}, other labels 1."""

    kind: Literal["weighted"] = "weighted"
    labels: dict[str, Annotated[FiniteFloat, Field(gt=0.0)]] = {}


class Importance(_Sampling):
    """In proportion to how much a row would move the last layer (Katharopoulos and Fleuret 2018), mixed with `floor` of even
    chances, so that no row weighs more than 1/floor. Costs a run of the network over all rows."""

    kind: Literal["importance"] = "importance"
    floor: float = Field(default=0.1, gt=0.0, le=1.0)


class Replay(_Setting):
    """Old outcomes learned again beside new ones, against forgetting, with the labels that hold by now.

    Args:
        capacity: how many are kept; they are written with every version, so keep them few.
        rows: how many a step takes, drawn anew for each.
        share: of a step's loss, whatever the number of rows.
        kind: reservoir keeps each outcome ever seen with the same chance, stratified as many of each stratum.
        by: what strata are made by: the label, or the name of a feature.
    """

    kind: Literal["reservoir", "stratified"] = "reservoir"
    capacity: int = Field(default=2048, ge=1, le=1_000_000)
    rows: int = Field(default=256, ge=1, le=100_000)
    share: float = Field(default=0.5, gt=0.0, lt=1.0)
    by: str = LABEL


Optimiser = Annotated[Adagrad | Adam | SGD, Field(discriminator="kind")]
Rate = Annotated[Constant | WarmUp | Cosine | InverseSquareRoot | StepDecay, Field(discriminator="kind")]
Loss = Annotated[Plain | ClassBalanced | Focal | CostMatrix, Field(discriminator="kind")]
Sampling = Annotated[Uniform | Stratified | Weighted | Importance, Field(discriminator="kind")]

MEMORY = 0.999


class Learning(_Setting):
    """How the learner takes a micro-batch: `passes` times over it, in steps of at most `rows` rows.

    Args:
        memory: multiplies Adagrad's sums after each batch: below 1 old gradients are forgotten, and the learner stays able to
            follow a world that changes. Other optimisers forget by themselves.
        weight_decay: draws weights towards zero, all of them with each step.
        rate: what becomes of the learning rate with the steps that were taken; constant.
        sampling: which rows a step takes, None: all. Whichever it is, weights keep the gradient unbiased: it saves time, and
            takes nothing from the probabilities.
        half_life_s: by how much older than the batch's newest outcome, by the model's clock, one weighs half; None: all alike.
        replay: None: nothing is kept.
        frozen: patterns of the names of parameters that stay as they are, such as 'table' or 'deep.*'; feature statistics
            follow the stream in any case.
        device: auto takes a GPU where Ray has given the trainer one.
    """

    learning_rate: FiniteFloat = Field(default=0.02, gt=0.0)
    passes: int = Field(default=3, ge=1)
    rows: int = Field(default=1024, ge=1)
    memory: float = Field(default=MEMORY, gt=0.0, le=1.0)
    weight_decay: FiniteFloat = Field(default=1e-3, ge=0.0)
    seed: int = 0
    optimiser: Optimiser = Adagrad()
    rate: Rate = Constant()
    loss: Loss = Plain()
    sampling: Sampling | None = None
    half_life_s: FiniteFloat | None = Field(default=None, gt=0.0)
    replay: Replay | None = None
    frozen: tuple[str, ...] = ()
    device: Literal["auto", "cpu", "cuda"] = "auto"

    def problem(self, objective: str, classes: Sequence[str], features: Collection[str]) -> str:
        """Say what makes no sense for a model, or nothing. `classes` are the labels' names, in order, none for numbers."""
        if self.memory != MEMORY and self.optimiser.kind != "adagrad":
            return f"memory is of adagrad's sums, and the optimiser is {self.optimiser.kind}: leave it out"
        if self.optimiser.kind == "sgd" and self.optimiser.nesterov and not self.optimiser.momentum:
            return "nesterov needs a momentum above 0, such as 0.9"
        return (
            self._problem_of_loss(objective, classes)
            or self._problem_of_sampling(objective, classes)
            or self._problem_of_strata(classes, features)
        )

    def _problem_of_loss(self, objective: str, classes: Sequence[str]) -> str:
        if self.loss.kind != "plain" and not classes:
            return f"the loss {self.loss.kind} is for binary and multiclass objectives, not for {objective}: use plain"
        match self.loss:
            case Focal(alpha=alpha) if alpha is not None and len(classes) != 2:
                return "alpha is for two classes: leave it out"
            case CostMatrix(costs=costs):
                size = len(classes)
                if len(costs) != size or any(len(row) != size for row in costs):
                    shape = f"{len(costs)} rows of {', '.join(str(len(row)) for row in costs)}"
                    return f"the cost matrix has {shape}; {size} classes need {size} rows of {size}, true class by answer"
                if any(row[true] >= max(row) for true, row in enumerate(costs)):
                    return "in each row of the cost matrix the right answer, on the diagonal, must cost less than the worst"
            case _:
                pass
        return ""

    def _problem_of_sampling(self, objective: str, classes: Sequence[str]) -> str:
        if not isinstance(self.sampling, Weighted):
            return ""
        if not self.sampling.labels and self.half_life_s is None:
            return "weighted sampling needs weights: by labels={...}, or by age with half_life_s"
        if unknown := [label for label in self.sampling.labels if label not in classes]:
            names = ", ".join(classes) or f"none, for {objective}"
            return f"weighted sampling: there is no label '{unknown[0]}' among {names}"
        return ""

    def _problem_of_strata(self, classes: Sequence[str], features: Collection[str]) -> str:
        for by in self.strata:
            if by == LABEL and not classes:
                return f"strata by label need classes: name one of {', '.join(features)}"
            if by != LABEL and by not in features:
                return f"strata by '{by}': there is no such feature; use '{LABEL}' or one of {', '.join(features)}"
        return ""

    @property
    def strata(self) -> frozenset[str]:
        """What strata are needed by."""
        asked = {self.sampling.by} if isinstance(self.sampling, Stratified) else set[str]()
        if self.replay is not None and self.replay.kind == "stratified":
            asked.add(self.replay.by)
        return frozenset(asked)
