"""Declared behaviour: what scores must do on real rows when a feature changes (Ribeiro et al. 2020, CheckList: invariance and
directional expectation tests). Each kind of declaration has its one measure: on which rows it was missed."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from store.gates import Direction, Invariance, Perturbation
from store.schema import FLOAT32_MAX, Row, Value
from store.spec import ModelRecord
from trainer.gates.gate import Case, Finding, Scores, enough

ROWS = 256
"""How many of the newest rows are altered."""

Declared = Perturbation | Invariance | Direction


class Behaviour:
    name = "behaviour"

    def applies(self, case: Case) -> bool:
        return bool(case.settings.behaviour) and enough(case)

    def judge(self, case: Case) -> Finding:
        rows = case.rows[-ROWS:]
        problems, back, missed = list[str](), False, dict[str, float]()
        for number, test in enumerate(case.settings.behaviour):
            share, about = _missed(case.record, test, rows, case.score)
            missed[f"{number}: {about}"] = share
            if share > case.settings.broken:
                problems.append(f"{about}: missed on {share:.1%} of {len(rows)} recent rows")
                # Where the last good state misses it as well there is nothing to go back to.
                back |= _missed(case.record, test, rows, case.score_before)[0] <= case.settings.broken
        return Finding("; ".join(problems), back, {"missed": missed})


def _missed(record: ModelRecord, test: Declared, rows: Sequence[Row], score: Scores) -> tuple[float, str]:
    """The share of rows on which a test is missed, and the test in words."""
    match test:
        case Perturbation():
            missed = perturbed(record, test, rows, score)
            about = f"'{test.feature}' off by {test.by:g} may change a score by {test.most_change:g}"
        case Invariance():
            missed = varied(record, test, rows, score)
            about = f"{', '.join(test.features)} may change a score by {test.most_change:g}"
        case Direction():
            missed = moved(record, test, rows, score)
            about = f"with {test.by:+g} of '{test.feature}' a score goes {test.score}"
    return float(missed.mean()) if len(missed) else 0.0, about


def perturbed(record: ModelRecord, test: Perturbation, rows: Sequence[Row], score: Scores) -> np.ndarray:
    """Whether each row [n] has a score that changes too much when a number is a little off, either way."""
    kept = _with_number(record, test.feature, rows)
    before = score(kept)
    changes = [np.abs(score(_added(record, test.feature, by, kept)) - before).max(axis=1) for by in (test.by, -test.by)]
    return np.maximum(*changes) > test.most_change


def varied(record: ModelRecord, test: Invariance, rows: Sequence[Row], score: Scores) -> np.ndarray:
    """Whether each row [n] has a score that changes with what must not matter."""
    before = score(rows)
    worst = np.zeros(len(rows))
    for feature in test.features:
        at = _place(record, feature)
        for value in test.values:
            changed = score(_altered(at, rows, lambda _, value=value: value))
            worst = np.maximum(worst, np.abs(changed - before).max(axis=1))
    return worst > test.most_change


def moved(record: ModelRecord, test: Direction, rows: Sequence[Row], score: Scores) -> np.ndarray:
    """Whether each row [n] has a score that goes another way than declared."""
    kept = _with_number(record, test.feature, rows)
    column = record.classes.index(test.of) if test.of else 0
    change = (score(_added(record, test.feature, test.by, kept)) - score(kept))[:, column]
    right = {
        "up": change > test.tolerance,
        "down": change < -test.tolerance,
        "not up": change <= test.tolerance,
        "not down": change >= -test.tolerance,
    }
    return ~right[test.score]


def _place(record: ModelRecord, feature: str) -> int:
    return next(at for at, one in enumerate(record.features.fields) if one.name == feature)


def _with_number(record: ModelRecord, feature: str, rows: Sequence[Row]) -> list[Row]:
    """Rows where the number is not missing."""
    at = _place(record, feature)
    return [row for row in rows if row[at] is not None]


def _added(record: ModelRecord, feature: str, by: float, rows: Sequence[Row]) -> list[Row]:
    def added(value: Any) -> float:
        return float(np.clip(float(value) + by, -FLOAT32_MAX, FLOAT32_MAX))

    return _altered(_place(record, feature), rows, added)


def _altered(at: int, rows: Sequence[Row], change: Callable[[Value], Value]) -> list[Row]:
    return [[*row[:at], change(row[at]), *row[at + 1 :]] for row in rows]
