"""The demo's books add up."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from deploy.quality import Books, quality
from examples.flights.stream import Flight

START = datetime(2013, 1, 1, tzinfo=UTC)


def _flight(number: int, hours: float, late: bool) -> Flight:
    departure = START + timedelta(hours=hours)
    return Flight(f"f{number}", departure, {}, "N1", departure + timedelta(hours=2), late)


def _books(count: int = 400) -> tuple[Books, np.ndarray, np.ndarray]:
    draw = np.random.default_rng(3)
    late, scores = draw.random(count) < 0.3, draw.random(count)
    books = Books()
    books.predicted([_flight(n, n, bool(late[n])) for n in range(count)], scores.tolist())
    return books, late, scores


def test_weeks_cover_every_flight_once() -> None:
    books, late, scores = _books()
    weeks = books.weeks()
    assert sum(week.live.rows for week in weeks) == len(books) == 400
    assert weeks[0].live.auc == pytest.approx(roc_auc_score(late[:168], scores[:168]))
    assert all(week.frozen.rows == 0 for week in weeks)


def test_the_frozen_model_is_judged_on_what_it_scored() -> None:
    books, _, scores = _books()
    for number in range(200, 400):
        books.shadowed(f"f{number}", float(1.0 - scores[number]))
    live, frozen = books.since(START + timedelta(hours=200))
    assert (live.rows, frozen.rows, books.unshadowed) == (200, 200, 0)
    assert frozen.auc == pytest.approx(1.0 - live.auc)


def test_recent_quality_leaves_out_flights_whose_truth_had_not_come() -> None:
    books, _, _ = _books()
    live, _ = books.recent(START + timedelta(hours=100), weeks=1)
    assert live.rows == 76


def test_quality_of_one_class_is_not_defined() -> None:
    assert np.isnan(quality(np.array([True, True]), np.array([0.1, 0.9])).auc)
