"""Outcomes come out of the archive as they went in."""

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from store.archive import Archive
from store.archived import placed, read
from store.records import Label, Outcome, Served
from store.schema import FeatureField, Schema

FEATURES = Schema(
    fields=(
        FeatureField(name="amount", kind="number", optional=True),
        FeatureField(name="member", kind="boolean", optional=True),
        FeatureField(name="colour", kind="category", buckets=16, optional=True),
        FeatureField(name="when", kind="timestamp", optional=True),
        FeatureField(name="position", kind="vector", length=2, optional=True),
    )
)
AT = 1_700_000_000.123456


def _outcome(label: Label) -> Outcome:
    vector = np.array([0.1, -2.0], dtype=np.float32).tobytes()
    served = Served("main", 3, 0.5, ("trial", "other"), 0.002, 7)
    return Outcome(
        "id",
        "unit",
        [1.5, True, "rød", AT, vector],
        [0.25],
        served,
        label,
        "correction",
        True,
        AT,
        AT + 60,
        AT + 61,
        "hand",
        0.9,
    )


def _through(
    folder: Path, outcomes: list[Outcome], features: Schema = FEATURES, text: bool = False
) -> list[tuple[str, Outcome]]:
    with Archive(folder, "m", FEATURES, text) as archive:
        archive.write("1-0", "9-0", [(f"{number}-0", outcome) for number, outcome in enumerate(outcomes, start=1)])
    return list(placed(read(folder, "m"), features))


def test_all_of_an_outcome_comes_back(tmp_path: Path) -> None:
    given_ = [_outcome(1.0), _outcome(0.0)._replace(row=[None] * 5)]
    assert _through(tmp_path, given_) == [("1-0", given_[0]), ("2-0", given_[1])]


def test_classes_come_back_as_text(tmp_path: Path) -> None:
    assert [outcome.label for _, outcome in _through(tmp_path, [_outcome("red")], text=True)] == ["red"]


def test_a_feature_that_was_added_since_is_missing(tmp_path: Path) -> None:
    wider = Schema(fields=(*FEATURES.fields, FeatureField(name="new", kind="number", optional=True)))
    [(_, outcome)] = _through(tmp_path, [_outcome(1.0)], wider)
    assert outcome.row == [*_outcome(1.0).row, None]


@given(st.integers(0, 4 * 10**15))
def test_a_feature_that_is_a_time_keeps_its_bits(microseconds: int) -> None:
    assert round((microseconds / 1e6) * 1e6) / 1e6 == microseconds / 1e6
