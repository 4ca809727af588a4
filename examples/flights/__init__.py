"""Will this flight arrive more than 15 minutes late? Asked at its scheduled departure from New York."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel

from store.schema import Buckets
from store.spec import LabelPolicy, ModelSpec


class Features(BaseModel):
    """What is known at the scheduled departure; the weather is the origin's latest observation before that hour."""

    origin: Annotated[Literal["EWR", "JFK", "LGA"], Buckets(8)]
    # Such as "EWR 2013-01-01". A new bucket learns in big steps, so the model follows how the day goes at the airport.
    origin_day: Annotated[str, Buckets(2048)]
    dest: Annotated[str, Buckets(256)]
    carrier: Annotated[str, Buckets(64)]
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
    slices=("origin", "carrier"),
    # Who ranks flights wants those first that will not be late.
    best_score="lowest",
    # The truth of a flight comes at its arrival; after two days nobody waits for it any more.
    labels=LabelPolicy(kind="on_label", window_s=2 * 86_400),
)
