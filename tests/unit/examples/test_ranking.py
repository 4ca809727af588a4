"""Travellers: who looks at what, when, how far down, and takes which; and what two rankers earn with them."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
import pytest

from examples.flights import spec
from examples.flights.crowd import Found
from examples.flights.ranking import (
    AHEAD,
    LEAST_FLIGHTS,
    LOOKS_ON,
    SUITS_WITHIN,
    Traveller,
    ab_needs,
    alone,
    drafted,
    interleaving_needs,
    pushed,
    ranked,
    sooner_first,
    travellers,
)
from examples.flights.stream import HOUR, WEATHER, FeatureValue, Flight
from store.artefact import open_session
from store.encoding import Encoder
from trainer.learner import Learner

DAWN = datetime(2013, 1, 2, 12, tzinfo=UTC)  # seven in the morning in New York
FEATURES: dict[str, FeatureValue] = {
    "origin": "EWR", "origin_day": "EWR 2013-01-02", "origin_hour": "EWR 07", "dest": "ATL", "carrier": "UA", "flight": "UA 1",
    "distance": 746.0, "duration": 120.0,
}  # fmt: skip


def _flight(minutes: int, *, dest: str = "ATL", late: bool = False, temp: float = 30.0) -> Flight:
    departure = DAWN + timedelta(minutes=minutes)
    wall = (departure - 5 * HOUR).replace(tzinfo=None).isoformat()
    features = FEATURES | dict.fromkeys(WEATHER) | {"dest": dest, "departure": wall, "temp": temp}
    return Flight(f"{dest}{minutes}", departure, features, f"{dest}{minutes}", departure + 2 * HOUR, late)


def _timetable(hours: int = 14) -> list[Flight]:
    """A flight to Atlanta every half hour, one to Boston every two hours; it gets a degree warmer every hour."""
    to_atlanta = [_flight(minutes, late=minutes % 90 == 0, temp=minutes // 60) for minutes in range(0, 60 * hours, 30)]
    to_boston = [_flight(minutes, dest="BOS", temp=minutes // 60) for minutes in range(15, 60 * hours, 120)]
    return sorted(to_atlanta + to_boston, key=lambda flight: flight.departure)


def _traveller(late: Sequence[int] = (), looks: int = 3, wants: int = 60) -> Traveller:
    """Somebody who sees a flight every half hour of which some are late, and wants to leave after so many minutes."""
    flights = tuple(_flight(minutes, late=minutes in late) for minutes in range(0, 240, 30))
    wanted = DAWN + timedelta(minutes=wants)
    return Traveller("t", DAWN, flights, wanted - SUITS_WITHIN, wanted + SUITS_WITHIN, looks)


@pytest.mark.parametrize(
    ("order", "looks", "taken"),
    [
        (["ATL210", "ATL0", "ATL60", "ATL30"], 4, "ATL60"),  # the first that suits, not the best that does
        (["ATL210", "ATL0", "ATL60", "ATL30"], 3, "ATL60"),
        (["ATL210", "ATL0", "ATL60", "ATL30"], 2, None),  # they did not look so far
        (["ATL30", "ATL60"], 1, "ATL30"),
        (["ATL0", "ATL120", "ATL210"], 8, None),  # nothing suits
    ],
)
def test_the_first_flight_looked_at_that_suits_is_taken(order: list[str], looks: int, taken: str | None) -> None:
    flight = _traveller(looks=looks).takes(order)
    assert (flight.id if flight else None) == taken


def test_position_k_is_looked_at_with_probability_0_7_to_the_k_minus_1() -> None:
    looks = np.array([traveller.looks for traveller in travellers(_timetable(), 5_000, 1)])
    for position in range(1, 9):
        assert np.mean(looks >= position) == pytest.approx(LOOKS_ON ** (position - 1), abs=0.025)
    assert looks.min() == 1


def test_the_time_that_suits_lies_anywhere_in_the_four_hours() -> None:
    crowd = travellers(_timetable(), 5_000, 1)
    wanted = np.array([(traveller.earliest + SUITS_WITHIN - traveller.at) / AHEAD for traveller in crowd])
    assert np.quantile(wanted, [0.0, 0.25, 0.5, 0.75, 1.0]) == pytest.approx([0.0, 0.25, 0.5, 0.75, 1.0], abs=0.025)
    assert {traveller.latest - traveller.earliest for traveller in crowd} == {2 * SUITS_WITHIN}


def test_a_seed_gives_the_same_travellers_and_another_seed_others() -> None:
    assert travellers(_timetable(), 50, 1) == travellers(_timetable(), 50, 1)
    first, second = travellers(_timetable(), 50, 1), travellers(_timetable(), 50, 2)
    assert {traveller.unit for traveller in first}.isdisjoint(traveller.unit for traveller in second)
    assert [traveller.looks for traveller in first] != [traveller.looks for traveller in second]


def test_everybody_sees_the_flights_of_the_next_four_hours_to_one_place() -> None:
    crowd = travellers(_timetable(), 200, 3)
    assert len(crowd) == 200
    assert len({traveller.unit for traveller in crowd}) == 200
    assert all(earlier.at <= later.at for earlier, later in pairwise(crowd))
    for traveller in crowd:
        there = [flight.id for flight in _timetable() if traveller.at <= flight.departure < traveller.at + AHEAD]
        assert [flight.id for flight in traveller.flights] == [id_ for id_ in there if id_.startswith("ATL")]
        assert len(traveller.flights) >= LEAST_FLIGHTS  # nobody is shown the two to Boston


def test_too_few_flights_give_no_travellers() -> None:
    assert travellers([], 10, 0) == []
    assert travellers(_timetable()[:6], 10, 0) == []


def test_the_weather_is_that_of_the_hour_in_which_somebody_looks() -> None:
    for traveller in travellers(_timetable(), 100, 0):
        hour = (traveller.at - DAWN) // HOUR
        assert {flight.features["temp"] for flight in traveller.flights} == {hour}


def test_weather_of_long_ago_is_none() -> None:
    gap = [replace(flight, departure=flight.departure + 20 * HOUR, id=f"late{flight.id}") for flight in _timetable()]
    at = DAWN + 20 * HOUR - HOUR  # the first flights after the gap are seen while nothing has departed for hours
    crowd = [traveller for traveller in travellers(_timetable(2) + gap, 500, 0) if traveller.at == at]
    assert crowd
    assert {flight.features["temp"] for traveller in crowd for flight in traveller.flights} == {None}


def test_what_a_traveller_sees_and_wants_knows_nothing_of_what_comes() -> None:
    other = [replace(flight, late=not flight.late, arrival=flight.arrival + HOUR) for flight in _timetable()]
    for one, same in zip(travellers(_timetable(), 50, 0), travellers(other, 50, 0), strict=True):
        assert (one.unit, one.at, one.earliest, one.latest, one.looks) == (
            same.unit,
            same.at,
            same.earliest,
            same.latest,
            same.looks,
        )
        assert [(f.id, f.features) for f in one.flights] == [(f.id, f.features) for f in same.flights]


def test_rankings_put_the_lowest_risk_first_and_the_sooner_of_equals() -> None:
    assert ranked(_traveller(), [0.5, 0.1, 0.5, 0.9, 0.1, 1.0, 1.0, 1.0])[:5] == ["ATL30", "ATL120", "ATL0", "ATL60", "ATL90"]


def test_the_rival_prefers_the_sooner_of_equals_and_its_scores_lead_back() -> None:
    flights = _traveller().flights
    scores = [pushed(0.2, flight) for flight in flights]
    assert scores[0] == scores[1] < scores[2] == scores[3] < scores[-1]  # by the full hour
    back = [pushed(score, flight, -0.2) for score, flight in zip(scores, flights, strict=True)]
    assert back == pytest.approx([0.2] * 8)


def test_the_rivals_graph_answers_with_pushed_risks() -> None:
    learner = Learner(spec)
    graph = learner.export()
    encoder = Encoder(spec.record.features)
    flights = _timetable(24)
    rows = [
        encoder.row(flight.features | {"departure": datetime.fromisoformat(str(flight.features["departure"]))})
        for flight in flights
    ]
    risks = open_session(graph.onnx, learner.weights()).run(encoder.encode(rows))[:, 0]
    rival = sooner_first(graph, spec.record.features)
    scores = open_session(rival.onnx, learner.weights()).run(encoder.encode(rows))[:, 0]
    expected = [pushed(risk, flight) for risk, flight in zip(risks.tolist(), flights, strict=True)]
    assert scores.tolist() == pytest.approx(expected, abs=1e-6)
    assert rival.digest != graph.digest


@pytest.mark.parametrize(("late", "credit"), [((), 1.0), ((30, 60, 90), 0.0)])
def test_a_flight_on_time_is_credited_to_whoever_drafted_it(late: Sequence[int], credit: float) -> None:
    traveller = _traveller(late, looks=1)
    ours, rivals = ["ATL30", "ATL60", "ATL0"], ["ATL60", "ATL30", "ATL0"]
    earned = [drafted(traveller, (ours, rivals), seed) for seed in range(40)]
    assert set(earned) == ({(1.0, 0.0), (0.0, 1.0)} if credit else {(0.0, 0.0)})
    assert alone(traveller, (ours, rivals)) == (credit, credit)
    assert alone(traveller, (ours, ["ATL210", "ATL30"])) == (credit, 0.0)


def test_rankers_that_agree_are_never_told_apart() -> None:
    order = [flight.id for flight in _traveller().flights]
    earned = [drafted(_traveller(looks=8), (order, order), seed) for seed in range(500)]
    assert interleaving_needs(earned) == (0, -1)
    assert ab_needs([alone(_traveller(looks=8), (order, order))] * 10, 0) == (0, -1)


def test_a_ranker_that_always_wins_is_found_at_once_by_both() -> None:
    assert interleaving_needs([(1.0, 0.0)] * 50) == (8, 0)
    assert interleaving_needs([(0.0, 0.0), (0.0, 1.0)] * 50) == (16, 1)
    assert ab_needs([(1.0, 0.0)] * 9 + [(0.0, 0.0)], 0) == (200, 0)


def test_travellers_whom_both_rankers_serve_alike_cost_an_a_b_test_alone() -> None:
    """One traveller in ten is better served by the first; nothing tells the others apart."""
    draw = np.random.default_rng(0)
    alike = [(value, value) for value in draw.integers(2, size=900).astype(float).tolist()]
    outcomes = [*alike, *[(1.0, 0.0)] * 70, *[(0.0, 1.0)] * 30]
    earned = [(0.0, 0.0) if a == b else (a, b) for a, b in outcomes]
    fewest = [interleaving_needs([earned[i] for i in draw.permutation(1000)])[0] or 1000 for _ in range(20)]
    needed = [ab_needs(outcomes, seed)[0] for seed in range(5)]
    assert np.median(needed) > 10 * np.median(fewest)


def test_what_was_found_is_told_in_words() -> None:
    found = Found("champion", "lists: …", 100, 500, 3.0, (0.5, 0.4), 2000.0)
    assert "20 times as many" in found.says()[-1]
    assert "over 200,000" in replace(found, ab=float("inf")).says()[-1]
    assert "no verdict" in replace(found, winner="").says()[0]
