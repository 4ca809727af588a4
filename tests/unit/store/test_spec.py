"""Model declarations: what is refused when it is written, and when weights of one fit another."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from store.errors import SpecError
from store.spec import LabelPolicy, Learning, ModelRecord, ModelSpec, Schedule, load_spec


class Features(BaseModel):
    x: float


class Others(BaseModel):
    y: float


def _record(**changes: Any) -> ModelRecord:
    declared: dict[str, Any] = {"name": "m", "features": Features}
    return ModelSpec(**(declared | changes)).record


@pytest.mark.parametrize("name", ["", "A", "-a", ".a", "a b", "a:b", "a/b", "ä", "a" * 64, "a\n"])
def test_a_name_that_would_not_fit_a_path_or_a_key_is_refused(name: str) -> None:
    with pytest.raises(SpecError, match="model name"):
        ModelSpec(name=name, features=Features)


@pytest.mark.parametrize("name", ["a", "0", "flight-delay", "a.b_c-d", "a" * 63])
def test_a_plain_name_is_taken(name: str) -> None:
    assert ModelSpec(name=name, features=Features).record.name == name


@pytest.mark.parametrize("classes", [(), ("a",), ("a", "a")])
def test_multiclass_needs_two_different_classes(classes: tuple[str, ...]) -> None:
    with pytest.raises(SpecError, match="two different classes"):
        _record(objective="multiclass", classes=classes)


def test_at_window_needs_a_default() -> None:
    with pytest.raises(SpecError, match="default"):
        _record(labels=LabelPolicy(kind="at_window"))
    assert _record(labels=LabelPolicy(kind="at_window", default=0)).labels.default == 0


@pytest.mark.parametrize(
    ("objective", "good", "bad"),
    [
        ("binary", [0, 1, 0.0, 1.0, False, True], [2, -1, 0.5, "1", None, float("nan"), [], {}]),
        ("regression", [0, -1.5, 3e38, True], [1e39, float("nan"), float("inf"), "1", None, 10**400, -(10**400)]),
        ("ranking", [0, 3], ["3", float("inf")]),
    ],
)
def test_a_label_fits_its_objective_or_is_told_why_not(objective: Any, good: list[Any], bad: list[Any]) -> None:
    record = _record(objective=objective)
    assert [label for label in good if record.label_error(label)] == []
    assert [label for label in bad if not record.label_error(label)] == []


def test_a_number_beyond_what_is_declared_is_no_label() -> None:
    record = _record(objective="regression", labels=LabelPolicy(low=-30, high=1440))
    assert [label for label in (-30, 0.5, 1440.0) if record.label_error(label)] == []
    assert record.label_error(1e19) == "label must be at most 1440"
    assert record.label_error(-31) == "label must be at least -30"
    assert record.label_error(float("nan")) == "label must be a finite number"
    assert _record(objective="ranking", labels=LabelPolicy(low=0)).label_error(3e38) is None


def test_bounds_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValidationError, match="low must be below high"):
        LabelPolicy(low=2, high=1)
    with pytest.raises(ValidationError):
        LabelPolicy(high=float("inf"))
    with pytest.raises(SpecError, match="leave them out"):
        _record(labels=LabelPolicy(high=1))
    with pytest.raises(SpecError, match="default is 2: label must be at most 1"):
        _record(objective="regression", labels=LabelPolicy(kind="at_window", default=2, high=1))


def test_a_class_label_is_one_of_the_classes() -> None:
    record = _record(objective="multiclass", classes=("a", "b"))
    assert record.label_error("a") is None
    for wrong in ("c", 0, True, None, ["a"], ""):
        assert "a, b" in (record.label_error(wrong) or "")


def test_a_default_label_must_fit_too() -> None:
    with pytest.raises(SpecError, match="default"):
        _record(labels=LabelPolicy(kind="at_window", default=7))


@pytest.mark.parametrize(
    "changes", [{"features": Others}, {"objective": "regression"}, {"name": "n"}, {"network": test_a_plain_name_is_taken}]
)
def test_the_digest_changes_when_weights_would_not_fit(changes: dict[str, Any]) -> None:
    assert _record(**changes).digest != _record().digest


@pytest.mark.parametrize(
    "changes",
    [
        {"schedule": Schedule(outcomes=5)},
        {"labels": LabelPolicy(window_s=5.0)},
        {"learning": Learning(passes=1)},
        {"clock": "event"},
    ],
)
def test_the_digest_stays_when_weights_still_fit(changes: dict[str, Any]) -> None:
    assert _record(**changes).digest == _record().digest


def test_a_record_travels_as_json() -> None:
    record = _record(objective="multiclass", classes=("a", "b"), labels=LabelPolicy(kind="at_window", default="a"))
    assert ModelRecord.model_validate_json(record.model_dump_json()) == record


@given(st.lists(st.floats(0, 1), min_size=3, max_size=3))
def test_the_answer_names_the_most_probable_class(scores: list[float]) -> None:
    output = _record(objective="multiclass", classes=("a", "b", "c")).output(scores)
    assert output["probabilities"] == dict(zip("abc", scores, strict=True))
    assert output["probabilities"][output["class"]] == max(scores)


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("examples.flights", "package.module:attribute"),
        ("no.such.module:spec", "cannot import"),
        ("examples.flights:nothing", "no ModelSpec named 'nothing'"),
        ("examples.flights:Features", "no ModelSpec named 'Features'"),
    ],
)
def test_a_spec_that_cannot_be_loaded_says_why(path: str, says: str) -> None:
    with pytest.raises(SpecError, match=says):
        load_spec(path)


def test_the_example_loads() -> None:
    assert load_spec("examples.flights:spec").name == "flight-delay"
