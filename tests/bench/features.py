"""What the streaming features and the settings of the flights example gain: the year once more for each, without a platform.

Learner and streaming features are those of the platform, in the order of the replay over HTTP: an hour's labels, learning, then
the hour's predictions; of that hour's departures they know nothing, as there, where all of them are asked for at once. Only the
random order within a batch is drawn otherwise, so the last digit may differ.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter
from pydantic_core import to_json
from rich.console import Console
from rich.live import Live
from rich.table import Table

from deploy.quality import Books, Quality, quality
from deploy.show import FREEZE_AT
from examples.flights import spec
from examples.flights.stream import Flight, Hour, hours, load
from store.encoding import Encoder
from store.learning import Learning
from store.records import Outcome, Predictions, Served
from store.schema import Row
from store.shape import DEFAULT_SHAPE
from store.spec import ModelSpec
from store.streams import Streams
from trainer.learner import Learner

console = Console(width=120)
_NICENESS = 10


GROUPS = {
    "how it goes at the origin": ("late_from_origin", "late_from_origin_lately", "late_from_origin_now", "late_anywhere"),
    "with the carrier": ("late_with_carrier", "late_with_carrier_from_origin", "late_with_carrier_from_origin_for_days"),
    "to the destination": ("late_to_dest", "late_to_dest_now", "late_on_route", "late_with_carrier_to_dest"),
    "what is usual there": (
        "late_from_origin_of_a_day", "late_from_origin_of_a_week", "late_with_carrier_to_dest_for_days",
        "late_with_carrier_on_route", "late_at_this_hour", "late_with_carrier_at_this_hour",
    ),
    "of the flight": ("late_of_flight", "late_of_flight_for_days"),
    "of the aircraft": ("late_with_aircraft", "late_with_aircraft_now", "late_with_aircraft_for_days"),
    "how many depart": ("departures_from_origin", "departures_from_origin_lately", "departures"),
    "how many arrive": (
        "arrivals_from_origin", "arrivals_from_origin_lately", "arrivals", "arrivals_with_carrier_from_origin",
    ),
}  # fmt: skip
"""The streaming features, by what they tell."""
DEFAULT = Learning()
SETTINGS = {
    "replay": {"replay": DEFAULT.replay},
    "passes": {"passes": DEFAULT.passes},
    "learning_rate": {"learning_rate": DEFAULT.learning_rate},
}


@dataclass(frozen=True, slots=True)
class Replayed:
    """Quality of all flights, of those from 1 March on, and of those with a tail number."""

    all: Quality
    from_march: Quality
    with_tail: Quality


def feature_figures(until: str = "2013-12-31") -> None:
    """Replay with one more group at a time, and with one setting less; print the quality of each."""
    os.nice(_NICENESS)
    torch.set_num_threads(1)
    played = list(hours(load(date.fromisoformat(until) + timedelta(days=1))))
    table = Table("", "AUC", "log loss", "from 1 March", "", "with tail number", "", title="The year of flights, offline")
    with Live(table, console=console, refresh_per_second=1):
        for name, one in _variants(spec):
            found = replayed(one, played)
            parts = (found.all, found.from_march, found.with_tail)
            table.add_row(name, *(f"{value:.4f}" for part in parts for value in (part.auc, part.log_loss)))


def _variants(full: ModelSpec) -> Iterator[tuple[str, ModelSpec]]:
    yield "no streaming features", replace(full, streaming=())
    kept = set[str]()
    for name, group in GROUPS.items():
        kept |= set(group)
        yield f"and {name}", replace(full, streaming=tuple(one for one in full.streaming if one.name in kept))
    for name, setting in SETTINGS.items():
        yield f"all, {name} by default", replace(full, learning=full.learning.model_copy(update=setting))
    yield "all, shape by default", replace(full, shape=DEFAULT_SHAPE)


def replayed(model: ModelSpec, played: Sequence[Hour]) -> Replayed:
    """Play the hours through a learner and its streaming features."""
    features, streams, learner = _Rows(model), Streams(model.record), Learner(model)
    learner.scorer.eval()
    known: dict[str, Row] = {}
    books, tailed, late, scores = Books(), list[bool](), list[bool](), list[float]()
    for number, hour in enumerate(played):
        outcomes = [_outcome(flight, known.pop(flight.id)) for flight in hour.labels]
        streams.outcomes(outcomes)
        if outcomes:
            learner.learn(outcomes, f"{number}-0")
        for flights in hour.minutes:
            rows = features.rows(flights)
            streams.fill(rows, [flight.unit for flight in flights], [flight.departure.timestamp() for flight in flights])
            known |= {flight.id: row for flight, row in zip(flights, rows, strict=True)}
        asked = [flight for flights in hour.minutes for flight in flights]
        if asked:
            given = features.scores(learner, [known[flight.id] for flight in asked])
            streams.predictions(_logged(asked, [known[flight.id] for flight in asked], given), asked[-1].departure.timestamp())
            books.predicted(asked, given)
            tailed += [flight.unit != flight.id for flight in asked]
            late += [flight.late for flight in asked]
            scores += given
    everything = books.since(played[0].start)[0]
    return Replayed(everything, books.since(FREEZE_AT)[0], _quality_of(late, scores, tailed))


def _logged(asked: Sequence[Flight], rows: Sequence[Row], scores: Sequence[float]) -> Predictions:
    ids, units, times = zip(*((flight.id, flight.unit, flight.departure.timestamp()) for flight in asked), strict=True)
    outputs, arms = [[score] for score in scores], [Served("main", 1, 1.0)]
    return Predictions(times[-1], [*ids], [*units], [*rows], outputs, arms, [0] * len(ids), 0.0, [*times])


def _quality_of(late: Sequence[bool], scores: Sequence[float], kept: Sequence[bool]) -> Quality:
    """Of those that are kept."""
    chosen = np.array(kept, dtype=bool)
    return quality(np.array(late)[chosen], np.array(scores)[chosen])


class _Rows:
    """Requests' features as a replica reads and scores them."""

    def __init__(self, model: ModelSpec) -> None:
        features: Any = model.record.features.typed_dict()
        self._adapter: TypeAdapter[list[dict[str, Any]]] = TypeAdapter(list[features])  # pyright: ignore[reportInvalidTypeForm]
        self._encoder = Encoder(model.record.features)

    def rows(self, flights: Sequence[Flight]) -> list[Row]:
        valid = self._adapter.validate_json(to_json([flight.features for flight in flights]))
        return [self._encoder.row(one) for one in valid]

    @torch.no_grad()
    def scores(self, learner: Learner, rows: Sequence[Row]) -> list[float]:
        encoded = self._encoder.encode(rows)
        return learner.scorer(torch.from_numpy(encoded.numbers), torch.from_numpy(encoded.categories))[:, 0].tolist()


def _outcome(flight: Flight, row: Row) -> Outcome:
    arrived = flight.arrival.timestamp()
    return Outcome(
        flight.id, flight.unit, row, [0.5], Served("main", 1, 1.0), float(flight.late), "label", True,
        flight.departure.timestamp(), arrived, arrived,
    )  # fmt: skip
