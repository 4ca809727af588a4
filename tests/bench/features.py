"""What each streaming feature of the flights example gains: the year once more for each, without a platform.

Learner and streaming features are those of the platform, in the order of the replay over HTTP: an hour's labels, learning,
then the hour's predictions. Only the random order within a batch is drawn otherwise, so the last digit may differ.
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

from deploy.quality import Books, Quality, quality
from deploy.show import FREEZE_AT
from examples.flights import spec
from examples.flights.stream import Flight, Hour, hours, load
from store.encoding import Encoder
from store.records import Outcome, Served
from store.schema import Row
from store.spec import ModelSpec
from store.streams import Streams
from trainer.learner import Learner

console = Console(width=120)
_NICENESS = 10


@dataclass(frozen=True, slots=True)
class Replayed:
    """Quality from 1 March on, of all flights and of those with a tail number."""

    all: Quality
    with_tail: Quality


def feature_figures(until: str = "2013-12-31") -> None:
    """Replay without any, and with one more at a time; print what is gained."""
    os.nice(_NICENESS)
    played = list(hours(load(date.fromisoformat(until) + timedelta(days=1))))
    for name, one in _variants(spec):
        found = replayed(one, played)
        console.print(
            f"{name:40} AUC {found.all.auc:.4f}  log loss {found.all.log_loss:.4f}  "
            f"(with tail number: AUC {found.with_tail.auc:.4f})",
            soft_wrap=True,
        )


def _variants(full: ModelSpec) -> Iterator[tuple[str, ModelSpec]]:
    yield "none", replace(full, streaming=())
    for count in range(1, len(full.streaming)):
        yield f"the first {count}, to {full.streaming[count - 1].name}", replace(full, streaming=full.streaming[:count])
    yield "all", full


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
            books.predicted(asked, given)
            if hour.start >= FREEZE_AT:
                tailed += [flight.unit != flight.id for flight in asked]
                late += [flight.late for flight in asked]
                scores += given
    return Replayed(books.since(FREEZE_AT)[0], _quality_of(late, scores, tailed))


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
