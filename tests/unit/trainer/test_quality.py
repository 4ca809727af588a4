"""What a version is worth, by objective: small cases whose figures are known."""

import numpy as np
import pytest

from store.artefact import Session
from store.encoding import Encoded
from store.spec import ModelRecord, ModelSpec, Objective
from trainer.compression.quality import LOSS, answers, likeness, quality
from trainer.testing import OneNumber


def _record(objective: Objective, *classes: str) -> ModelRecord:
    return ModelSpec(name="m", features=OneNumber, objective=objective, classes=classes).record


def _column(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)[:, None]


def test_probabilities_are_judged_by_order_loss_and_calibration() -> None:
    labels = [0, 0, 1, 1] * 25
    figures = quality(_record("binary"), labels, _column(*[0.25, 0.25, 0.25, 1.0] * 25))
    assert figures["auc"] == pytest.approx(0.75)
    assert figures["log_loss"] == pytest.approx((2 * -np.log(0.75) - np.log(0.25)) / 4)
    # Of the rows at 0.25 a third is true; those at 1.0 all are.
    assert figures["calibration_error"] == pytest.approx(0.75 * (1 / 3 - 0.25))


def test_what_is_not_defined_is_left_out() -> None:
    figures = quality(_record("binary"), [1, 1], _column(0.5, 0.9))
    assert "auc" not in figures
    assert figures["log_loss"] > 0.0
    assert "agreement" not in likeness(_record("regression"), _column(1.0, 1.0), _column(1.0, 2.0))
    assert "r2" not in quality(_record("regression"), [1.0], _column(1.0))


def test_classes_are_judged_by_the_likeliest_and_by_all() -> None:
    record = _record("multiclass", "a", "b", "c")
    scores = np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8], [0.8, 0.1, 0.1]], dtype=np.float32)
    figures = quality(record, ["a", "b", "c", "b"], scores)
    assert figures["log_loss"] == pytest.approx((3 * -np.log(0.8) - np.log(0.1)) / 4, rel=1e-5)
    assert figures["calibration_error"] == pytest.approx(0.05, abs=1e-6)
    assert 0.5 < figures["auc"] < 1.0
    assert "auc" not in quality(record, ["a", "b", "a", "b"], scores)
    assert quality(_record("multiclass", "a", "b"), ["a", "b"], scores[:2, :2])["auc"] == 1.0
    assert likeness(record, scores, scores[[0, 1, 2, 1]]) == {"agreement": 0.75, "max_difference": pytest.approx(0.7)}


@pytest.mark.parametrize("objective", ["regression", "ranking"])
def test_numbers_are_judged_by_their_errors_and_their_order(objective: Objective) -> None:
    record = _record(objective)
    figures = quality(record, [1.0, 2.0, 4.0], _column(1.0, 3.0, 4.0))
    assert figures[LOSS[objective]] == pytest.approx(1 / 3)
    assert figures["absolute_error"] == pytest.approx(1 / 3)
    assert figures["r2"] == pytest.approx(1 - 1 / (14 / 3))
    assert likeness(record, _column(1.0, 2.0, 3.0), _column(1.0, 2.5, 3.0)) == {"agreement": 1.0, "max_difference": 0.5}


def test_rows_are_answered_in_requests_as_people_send_them() -> None:
    seen: list[int] = []

    class Runtime:
        def run(self, _: list[str], feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
            seen.append(len(feeds["numbers"]))
            return [feeds["numbers"]]

    session = Session(Runtime(), frozenset({"numbers"}), ["scores"], ())  # pyright: ignore[reportArgumentType]
    rows = Encoded(np.arange(70, dtype=np.float32)[:, None], np.zeros((70, 0), np.int64))
    np.testing.assert_array_equal(answers(session, rows), rows.numbers)
    assert seen == [32, 32, 6]
