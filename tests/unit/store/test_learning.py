"""Settings of learning that make no sense are refused in words that say what would."""

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from store.errors import SpecError
from store.learning import (
    SGD,
    Adam,
    ClassBalanced,
    Cosine,
    CostMatrix,
    Focal,
    Importance,
    Replay,
    StepDecay,
    Stratified,
    Uniform,
    WarmUp,
    Weighted,
)
from store.spec import Learning, ModelRecord, ModelSpec


class Features(BaseModel):
    country: str
    price: float


def _spec(learning: Learning, **changes: Any) -> ModelSpec:
    return ModelSpec(name="m", features=Features, learning=learning, **changes)


MULTICLASS: dict[str, Any] = {"objective": "multiclass", "classes": ("a", "b", "c")}
REGRESSION: dict[str, Any] = {"objective": "regression"}
RANKING: dict[str, Any] = {"objective": "ranking"}


@pytest.mark.parametrize(
    ("learning", "model", "says"),
    [
        ({"loss": Focal()}, REGRESSION, "focal is for binary and multiclass objectives, not for regression: use plain"),
        ({"loss": ClassBalanced()}, RANKING, "not for ranking"),
        ({"loss": CostMatrix(costs=((0, 1), (1, 0)))}, REGRESSION, "use plain"),
        ({"loss": Focal(alpha=0.3)}, MULTICLASS, "alpha is for two classes"),
        ({"loss": CostMatrix(costs=((0, 1), (1, 0)))}, MULTICLASS, "3 classes need 3 rows of 3"),
        ({"loss": CostMatrix(costs=((0, 1, 2), (1, 0)))}, {}, "2 rows of 3, 2; 2 classes need 2 rows of 2"),
        ({"loss": CostMatrix(costs=())}, {}, "2 classes need 2 rows"),
        ({"loss": CostMatrix(costs=((1, 0), (0, 1)))}, {}, "the right answer, on the diagonal"),
        ({"loss": CostMatrix(costs=((0, 0), (1, 0)))}, {}, "the right answer, on the diagonal"),
        ({"sampling": Weighted()}, {}, "labels=.*half_life_s"),
        ({"sampling": Weighted(labels={"c": 2})}, {}, "no label 'c' among 0, 1"),
        ({"sampling": Weighted(labels={"1": 2})}, REGRESSION, "none, for regression"),
        ({"sampling": Stratified()}, REGRESSION, "name one of country, price"),
        ({"sampling": Stratified(by="counrty")}, {}, "use 'label' or one of country, price"),
        ({"replay": Replay(kind="stratified")}, RANKING, "strata by label need classes"),
        ({"replay": Replay(kind="stratified", by="shop")}, {}, "strata by 'shop'"),
        ({"optimiser": Adam(), "memory": 0.9}, {}, "memory is of adagrad's sums"),
        ({"optimiser": SGD(momentum=0.0, nesterov=True)}, {}, "nesterov needs a momentum"),
    ],
)
def test_what_does_not_fit_the_model_is_refused(learning: dict[str, Any], model: dict[str, Any], says: str) -> None:
    with pytest.raises(SpecError, match=f"model 'm': learning: .*{says}"):
        _spec(Learning(**learning), **model)


@pytest.mark.parametrize(
    ("learning", "model"),
    [
        ({"sampling": Stratified(by="country")}, REGRESSION),
        ({"replay": Replay()}, REGRESSION),
        ({"replay": Replay(kind="stratified", by="country")}, RANKING),
        ({"sampling": Weighted(), "half_life_s": 60.0}, REGRESSION),
        ({"loss": Focal(alpha=0.3), "sampling": Importance()}, {}),
    ],
)
def test_what_fits_is_taken_and_travels_as_json(learning: dict[str, Any], model: dict[str, Any]) -> None:
    record = _spec(Learning(**learning), **model).record
    assert ModelRecord.model_validate_json(record.model_dump_json()) == record


@pytest.mark.parametrize(
    "settings",
    [
        {"learning_rate": 0.0}, {"learning_rate": float("nan")}, {"learning_rate": float("inf")}, {"passes": 0}, {"rows": 0},
        {"memory": 0.0}, {"memory": 1.1}, {"weight_decay": -1.0}, {"half_life_s": 0.0}, {"half_life_s": float("inf")},
        {"device": "tpu"}, {"lerning_rate": 0.1}, {"loss": {"kind": "hinge"}}, {"optimiser": {"kind": "adam", "beta1": 1.0}},
        {"sampling": {"kind": "uniform", "share": 0.0}}, {"replay": {"capacity": 0}}, {"replay": {"share": 1.0}},
        {"loss": {"kind": "cost_matrix", "costs": [[0, float("nan")], [1, 0]]}},
        {"sampling": {"kind": "importance", "floor": 0}},
    ],
)  # fmt: skip
def test_numbers_out_of_range_and_unknown_names_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Learning(**settings)


def test_a_record_that_was_kept_before_has_the_defaults() -> None:
    known = {"learning_rate": 0.02, "passes": 3, "rows": 1024, "memory": 0.999, "weight_decay": 1e-3, "seed": 0}
    assert Learning.model_validate(known) == Learning()


def test_the_example_of_the_readme_is_a_declaration() -> None:
    readme = (Path(__file__).parents[3] / "README.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    model = next(block for block in blocks if "class Features" in block)
    learning = next(block for block in blocks if "learning = Learning(" in block)
    made: dict[str, Any] = {"__name__": "my_model"}
    exec(model + learning, made)
    assert made["spec"].record.learning.replay == Replay(kind="stratified")


def test_no_setting_of_learning_changes_whether_weights_fit() -> None:
    changed = Learning(
        learning_rate=0.1, passes=1, rows=8, weight_decay=0.0, seed=3, optimiser=Adam(), rate=Cosine(steps=5), loss=Focal(),
        sampling=Uniform(), half_life_s=5.0, replay=Replay(), frozen=("table",), device="cpu",
    )  # fmt: skip
    assert set(changed.model_dump()) - {name for name, value in changed if value != getattr(Learning(), name)} == {"memory"}
    digests = {_spec(learning).record.digest for learning in (Learning(), changed, Learning(rate=WarmUp(steps=9)))}
    assert digests == {_spec(Learning(rate=StepDecay(every=3), memory=1.0)).record.digest}
