"""Will this flight arrive more than 15 minutes late? Asked at its scheduled departure from New York."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel

from store.learning import Replay
from store.schema import Buckets
from store.search import Choice, Int, LogUniform, Search
from store.shape import Shape
from store.spec import LabelPolicy, Learning, ModelSpec
from store.streaming import Aggregate

HOUR = 3600.0


class Features(BaseModel):
    """What is known at the scheduled departure; the weather is the origin's latest observation before that hour."""

    origin: Annotated[Literal["EWR", "JFK", "LGA"], Buckets(8)]
    # Such as "EWR 2013-01-01". A new bucket learns in big steps, so the model follows how the day goes at the airport.
    origin_day: Annotated[str, Buckets(2048)]
    # Such as "EWR 17": how it usually is at that hour there.
    origin_hour: Annotated[str, Buckets(128)]
    dest: Annotated[str, Buckets(256)]
    carrier: Annotated[str, Buckets(64)]
    # Such as "UA 1545", which flies at about the same time each day.
    flight: Annotated[str, Buckets(8192)]
    # The local wall clock: the day's rhythm is the airport's.
    departure: datetime
    # Miles, and scheduled minutes from gate to gate.
    distance: float
    duration: float
    # Degrees Fahrenheit, per cent, compass degrees, miles per hour, inches, millibars, miles.
    temp: float | None = None
    dewp: float | None = None
    humid: float | None = None
    wind_dir: float | None = None
    wind_speed: float | None = None
    wind_gust: float | None = None
    precip: float | None = None
    pressure: float | None = None
    visib: float | None = None


spec = ModelSpec(
    name="flight-delay",
    features=Features,
    clock="event",
    # How the day goes, as far as arrivals tell.
    streaming=(
        Aggregate(name="late_from_origin", by=("origin",), half_life_s=1 * HOUR, prior=3.0),
        Aggregate(name="late_from_origin_lately", by=("origin",), half_life_s=4 * HOUR),
        Aggregate(name="late_with_carrier", by=("carrier",), half_life_s=2 * HOUR, prior=5.0),
        Aggregate(name="late_with_carrier_from_origin", by=("origin", "carrier"), half_life_s=3 * HOUR, prior=5.0),
        Aggregate(name="late_to_dest", by=("dest",), half_life_s=4 * HOUR, prior=5.0),
        Aggregate(name="late_anywhere", half_life_s=1 * HOUR),
        Aggregate(name="late_on_route", by=("origin", "dest"), half_life_s=72 * HOUR),
        Aggregate(name="late_with_carrier_from_origin_for_days", by=("origin", "carrier"), half_life_s=24 * HOUR),
        Aggregate(name="late_to_dest_now", by=("dest",), half_life_s=1 * HOUR, prior=3.0),
        Aggregate(name="late_from_origin_now", by=("origin",), half_life_s=0.3 * HOUR, prior=3.0),
        # What is usual.
        Aggregate(name="late_from_origin_of_a_day", by=("origin",), half_life_s=24 * HOUR),
        Aggregate(name="late_from_origin_of_a_week", by=("origin",), half_life_s=168 * HOUR),
        Aggregate(name="late_with_carrier_to_dest", by=("carrier", "dest"), half_life_s=6 * HOUR, prior=3.0),
        Aggregate(name="late_with_carrier_to_dest_for_days", by=("carrier", "dest"), half_life_s=96 * HOUR, prior=5.0),
        Aggregate(name="late_with_carrier_on_route", by=("carrier", "origin", "dest"), half_life_s=240 * HOUR, prior=5.0),
        Aggregate(name="late_of_flight", by=("flight", "dest"), half_life_s=14 * 24 * HOUR, prior=5.0),
        Aggregate(name="late_of_flight_for_days", by=("flight",), half_life_s=4 * 24 * HOUR, prior=3.0),
        Aggregate(name="late_at_this_hour", by=("origin_hour",), half_life_s=7 * 24 * HOUR, prior=10.0),
        Aggregate(name="late_with_carrier_at_this_hour", by=("carrier", "origin_hour"), half_life_s=14 * 24 * HOUR, prior=10.0),
        # The unit is the aircraft. Of some flights that were cancelled the files name none: what is missing then says so.
        Aggregate(name="late_with_aircraft", by=("unit",), half_life_s=6 * HOUR),
        Aggregate(name="late_with_aircraft_now", by=("unit",), half_life_s=2 * HOUR, prior=1.0),
        Aggregate(name="late_with_aircraft_for_days", by=("unit",), half_life_s=48 * HOUR, prior=3.0),
        # How busy it is, by flights that are scheduled: per hour.
        Aggregate(name="departures_from_origin", by=("origin",), of="predictions", kind="rate", half_life_s=1 * HOUR),
        Aggregate(name="departures_from_origin_lately", by=("origin",), of="predictions", kind="rate", half_life_s=3 * HOUR),
        Aggregate(name="departures", of="predictions", kind="rate", half_life_s=1 * HOUR),
        # Where fewer arrive than are due, they are late, and their labels with them.
        Aggregate(name="arrivals_from_origin", by=("origin",), kind="rate", half_life_s=1 * HOUR),
        Aggregate(name="arrivals_from_origin_lately", by=("origin",), kind="rate", half_life_s=3 * HOUR),
        Aggregate(name="arrivals", kind="rate", half_life_s=1 * HOUR),
        Aggregate(name="arrivals_with_carrier_from_origin", by=("origin", "carrier"), kind="rate", half_life_s=1 * HOUR),
    ),
    # A narrow one does: what streams says most of it already.
    shape=Shape(hidden=(16,), dimension=8),
    slices=("origin", "carrier"),
    # What streams follows the day; with it the weights need not, and fewer, smaller steps do better. A bad day is not all there
    # is: each step learns some of what came before, too.
    learning=Learning(learning_rate=0.01, passes=1, replay=Replay(capacity=10_000, rows=64, share=0.3)),
    # Where `tidemill tune` looks for a better way.
    search=Search(
        over={
            "learning.learning_rate": LogUniform(low=0.003, high=0.1),
            "learning.passes": Int(low=1, high=2),
            "learning.memory": Choice(values=(0.99, 0.999, 1.0)),
            "learning.replay": Choice(
                values=(
                    None,
                    {"capacity": 10_000, "rows": 64, "share": 0.3},
                    {"capacity": 10_000, "rows": 64, "share": 0.6},
                    {"capacity": 10_000, "rows": 256, "share": 0.3},
                )
            ),
            "shape.hidden": Choice(values=([8], [16], [32], [32, 16])),
            "shape.dimension": Choice(values=(4, 8, 16)),
            "shape.cross": Int(low=0, high=1),
        }
    ),
    # Who ranks flights wants those first that will not be late.
    best_score="lowest",
    # The truth of a flight comes at its arrival; after two days nobody waits for it any more.
    labels=LabelPolicy(kind="on_label", window_s=2 * 86_400),
)
