"""The flights stream: requests depend on nothing that is known only later, and each label comes once and in time."""

from dataclasses import replace
from datetime import date, timedelta
from functools import cache
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from examples.flights import stream
from examples.flights.stream import Flight, Hour

SECRETS = ["dep_time", "dep_delay", "arr_time", "arr_delay", "air_time"]


@cache
def _raw() -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    folder = stream.data_folder()
    flights = pd.read_csv(folder / "flights.csv.zip", nrows=27_004)
    return flights, pd.read_csv(folder / "weather.csv", nrows=2_500), pd.read_csv(folder / "airports.csv")


@cache
def _january() -> list[Flight]:
    return stream.flights_from(*_raw())


def _requests(flights: list[Flight]) -> list[list[tuple[object, ...]]]:
    """Everything a prediction request carries, in the order and grouping in which it is sent."""
    groups = [minute for hour in stream.hours(flights) for minute in hour.minutes]
    return [[(f.id, f.departure, f.features, f.unit) for f in group] for group in groups]


def test_requests_know_nothing_of_the_future() -> None:
    flights, weather, airports = _raw()
    shuffled = flights.copy()
    order = np.random.default_rng(0).permutation(len(flights))
    shuffled[SECRETS] = flights[SECRETS].to_numpy()[order]
    expected = _requests(_january())
    assert _requests(stream.flights_from(shuffled, weather, airports)) == expected
    # The labels themselves must be there, but nothing says that they tell anything.
    removed = flights.drop(columns=[name for name in SECRETS if name != "arr_delay"]).assign(arr_delay=np.nan)
    assert _requests(stream.flights_from(removed, weather, airports)) == expected


def test_requests_do_not_depend_on_the_order_of_rows() -> None:
    flights, weather, airports = _raw()
    shuffled = flights.sample(frac=1.0, random_state=0)
    assert stream.flights_from(shuffled, weather, airports) == _january()


def test_a_shorter_stream_is_the_beginning_of_a_longer_one() -> None:
    flights, weather, airports = _raw()
    week = stream.flights_from(flights.loc[flights.day <= 7], weather, airports)
    assert week == _january()[: len(week)]


def test_weather_comes_from_before_the_scheduled_hour() -> None:
    flights, weather, airports = _raw()
    first = _january()[0]
    hour = pd.Timestamp(first.departure).floor("h")
    later = weather.assign(temp=weather["temp"].where(pd.to_datetime(weather["time_hour"], utc=True) < hour, 999.0))
    changed = stream.flights_from(flights.head(500), later, airports)
    assert changed[0].features == first.features
    assert any(flight.features["temp"] == 999.0 for flight in changed)


def test_a_missing_tail_number_shows_nowhere_but_in_the_unit() -> None:
    """Every flight without one was cancelled: as a feature it would give the answer away."""
    flights, weather, airports = _raw()
    nameless = stream.flights_from(flights.assign(tailnum=None), weather, airports)
    assert all(flight.unit == flight.id for flight in nameless)
    named = [replace(flight, unit=flight.id) for flight in _january()]
    assert nameless == named


def test_labels_come_once_in_order_and_never_before_the_arrival() -> None:
    sent: set[str] = set()
    labelled: list[str] = []
    for hour in stream.hours(_january()):
        assert all(flight.arrival < hour.start for flight in hour.labels)
        assert all(flight.id in sent for flight in hour.labels)
        assert hour.labels == sorted(hour.labels, key=lambda flight: (flight.arrival, flight.id))
        labelled += [flight.id for flight in hour.labels]
        sent |= {flight.id for minute in hour.minutes for flight in minute}
    assert len(labelled) == len(set(labelled)) == len(_january())
    assert set(labelled) == sent


def test_a_label_comes_as_soon_as_an_hour_begins_after_the_arrival() -> None:
    played = list(stream.hours(_january()))
    for before, hour in pairwise(played):
        assert all(flight.arrival >= before.start for flight in hour.labels)


def test_minutes_group_the_departures_of_their_hour() -> None:
    played = list(stream.hours(_january()))
    for hour in played[:-1]:
        moments = [{flight.departure for flight in minute} for minute in hour.minutes]
        assert all(len(moment) == 1 for moment in moments)
        assert all(hour.start <= next(iter(moment)) < hour.start + timedelta(hours=1) for moment in moments)
    assert _is_last(played[-1])
    assert [f for hour in played for minute in hour.minutes for f in minute] == _january()


def _is_last(hour: Hour) -> bool:
    return not hour.minutes and bool(hour.labels)


def test_the_truth() -> None:
    """Against the files: UA1545 of 1 January, 05:15 to 08:19 in Houston, arrived at 08:30 there, 11 minutes late."""
    flight = _january()[0]
    assert (flight.unit, flight.features["departure"]) == ("N14228", "2013-01-01T05:15:00")
    assert [flight.features[name] for name in ("origin_day", "origin_hour", "flight")] == [
        "EWR 2013-01-01",
        "EWR 05",
        "UA 1545",
    ]
    assert (flight.departure.isoformat(), flight.arrival.isoformat()) == (
        "2013-01-01T10:15:00+00:00",
        "2013-01-01T14:30:00+00:00",
    )
    assert flight.features["duration"] == 244.0
    assert not flight.late
    flights = _raw()[0]
    late = flights.arr_delay.isna() | (flights.arr_delay > 15)
    assert sum(flight.late for flight in _january()) == int(late.sum())
    assert all(flight.arrival >= flight.departure for flight in _january())
    assert all(isinstance(value, str | float | None) for value in flight.features.values())


def test_an_absent_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "find_spec", {}.get)
    with pytest.raises(FileNotFoundError, match=r"pip install 'tidemill\[demo\]'"):
        stream.load(date(2013, 1, 2))
