"""Travellers who choose from ranked flights, and how many of them it takes to see which of two rankers serves them better.

A traveller on one day and route sees the flights of the next four hours, the likeliest to be on time first, looks at position k
with probability 0.7^(k-1) and takes the first one looked at whose scheduled time suits them; whether that flight was really on
time is the label. Flights, weather and truths are those of 2013, only the travellers are made up.

The ranker that goes by the risk of being late alone meets a rival that also pushes sooner departures up. Both begin most lists
alike: those travellers say nothing in an interleaving, while in an A/B test they are noise like all others. The rival's flights
are as punctual, but lie close together at the top of the list, so that fewer travellers find one that suits.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import accumulate, islice
from random import Random
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from examples.flights.stream import HOUR, WEATHER, WEATHER_MAX_AGE, FeatureValue, Flight
from router.interleaving import Duel, credit, team_draft
from router.statistics import AsymptoticSequence, Moments, mean_difference
from store.artefact import CATEGORIES, SCORES, graph_of, unpack_golden
from store.protocols import Graph
from store.schema import Schema

AHEAD = 4 * HOUR
LEAST_FLIGHTS = 4
LOOKS_ON = 0.7
SUITS_WITHIN = timedelta(minutes=45)
PUSH = 0.2
"""With each hour that a flight leaves sooner, the rival lowers the odds of being late by a factor of exp(-PUSH)."""

ALPHA = 0.05
N_OPT = 20_000
AB_MOST, AB_EVERY, AB_DRAWS = 200_000, 200, 11
_LAST_HOUR = 3  # of a day, which begins at four in the morning


@dataclass(frozen=True, slots=True)
class Traveller:
    """Somebody who looks at `at` for a flight from New York to one place; times are aware.

    `flights` are those of the next four hours, by departure, with their features as known at `at`. What suits is scheduled from
    `earliest` to `latest`; the first `looks` positions of a list are looked at.
    """

    unit: str
    at: datetime
    flights: tuple[Flight, ...]
    earliest: datetime
    latest: datetime
    looks: int

    def takes(self, ranked: Iterable[str]) -> Flight | None:
        """Return what is taken from a list of ids, if anything is."""
        offered = {flight.id: flight for flight in self.flights}
        looked_at = (offered[id_] for id_ in islice(ranked, self.looks))
        return next((flight for flight in looked_at if self.earliest <= flight.departure <= self.latest), None)


def travellers(flights: Sequence[Flight], count: int, seed: int) -> list[Traveller]:
    """Return as many travellers, by the time at which they look; `flights` are sorted by departure.

    Each looks at a full hour at a route with at least `LEAST_FLIGHTS` flights to come, the likelier the more there are.
    The time that they would like best lies anywhere in the four hours.
    """
    routes, sky = list(_routes(flights)), _Sky(flights)
    ends = list(accumulate(len(offered) for _, offered in routes))
    draw = Random(seed).random  # only random() is promised to give the same numbers in every version of Python
    chosen = sorted(bisect_right(ends, draw() * ends[-1]) for _ in range(count if routes else 0))
    made: list[Traveller] = []
    for number, route in enumerate(chosen):
        at, offered = routes[route]
        wanted = at + draw() * AHEAD
        looks = 1 + int(math.log(1.0 - draw()) / math.log(LOOKS_ON))
        seen = tuple(replace(flight, features=flight.features | sky.known(flight, at)) for flight in offered)
        made.append(Traveller(f"t{seed}-{number:06d}", at, seen, wanted - SUITS_WITHIN, wanted + SUITS_WITHIN, looks))
    return made


def _routes(flights: Sequence[Flight]) -> Iterator[tuple[datetime, list[Flight]]]:
    """Every full hour and route with enough flights in the four hours from then on."""
    departures = [flight.departure for flight in flights]
    at = departures[0].replace(minute=0) + HOUR if flights else datetime.max
    while departures and at + AHEAD <= departures[-1]:
        by_place: dict[FeatureValue, list[Flight]] = {}
        for flight in flights[bisect_left(departures, at) : bisect_left(departures, at + AHEAD)]:
            by_place.setdefault(flight.features["dest"], []).append(flight)
        yield from ((at, offered) for offered in by_place.values() if len(offered) >= LEAST_FLIGHTS)
        at += HOUR


class _Sky:
    """The weather that is known at a full hour: that of flights which are scheduled in it, or of the last ones before."""

    def __init__(self, flights: Sequence[Flight]) -> None:
        self._by_origin: dict[FeatureValue, tuple[list[datetime], list[Flight]]] = {}
        for flight in flights:
            times, departing = self._by_origin.setdefault(flight.features["origin"], ([], []))
            times.append(flight.departure)
            departing.append(flight)

    def known(self, flight: Flight, at: datetime) -> dict[str, FeatureValue]:
        times, departing = self._by_origin[flight.features["origin"]]
        place = bisect_left(times, at + HOUR) - 1
        if place < 0 or times[place] < at - WEATHER_MAX_AGE:
            return dict.fromkeys(WEATHER)
        return {name: departing[place].features[name] for name in WEATHER}


def pushed(risk: float, flight: Flight, push: float = PUSH) -> float:
    """The rival's score of a flight with this risk to be late; with `-push` the risk of what the rival scored so."""
    sooner = (_LAST_HOUR - int(str(flight.features["departure"])[11:13])) % 24
    lowered = risk * math.exp(-push * sooner)
    return lowered / (lowered + (1.0 - risk))


def sooner_first(graph: Graph, schema: Schema, push: float = PUSH) -> Graph:
    """Return a graph for the same weights that answers with `pushed` risks."""
    model = onnx.load_model_from_string(graph.onnx)
    for node in model.graph.node:
        node.output[:] = ["risk" if name == SCORES else name for name in node.output]
    place = [one.name for one in schema.fields].index("departure")
    constants: dict[str, Any] = {
        "hour": np.array([sum(len(one.category_buckets) for one in schema.fields[:place])]),
        "last": np.array(24 + 1 + _LAST_HOUR),  # the category of an hour is counted from 1
        "day": np.array(24),
        "by": np.array(-push, dtype=np.float32),
        "one": np.array(1.0, dtype=np.float32),
    }
    nodes = [
        helper.make_node("Gather", [CATEGORIES, "hour"], ["code"], axis=1),
        helper.make_node("Sub", ["last", "code"], ["to_last"]),
        helper.make_node("Mod", ["to_last", "day"], ["whole_hours"]),
        helper.make_node("Cast", ["whole_hours"], ["sooner"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["sooner", "by"], ["exponent"]),
        helper.make_node("Exp", ["exponent"], ["factor"]),
        helper.make_node("Mul", ["risk", "factor"], ["lowered"]),
        helper.make_node("Sub", ["one", "risk"], ["chance"]),
        helper.make_node("Add", ["lowered", "chance"], ["both"]),
        helper.make_node("Div", ["lowered", "both"], [SCORES]),
    ]
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    model.graph.node.extend(nodes)
    return graph_of(model.SerializeToString(), unpack_golden(graph.golden_inputs))


def ranked(traveller: Traveller, scores: Sequence[float]) -> list[str]:
    """Return the ids of a traveller's flights, the lowest score first; of equal ones the sooner."""
    order = sorted(range(len(scores)), key=lambda place: scores[place])
    return [traveller.flights[place].id for place in order]


def drafted(traveller: Traveller, orders: Sequence[Sequence[str]], seed: int) -> tuple[float, ...]:
    """Return what two rankers earn with a traveller who chooses from their common list: 1 for a flight on time."""
    draft = team_draft(orders, len(traveller.flights), seed)
    taken = traveller.takes(draft.items)
    return credit(draft, [taken.id] if taken is not None and not taken.late else [])


def alone(traveller: Traveller, orders: Sequence[Sequence[str]]) -> tuple[float, ...]:
    """Return, for each ranker's own list, 1 if the traveller takes a flight from it and that is on time."""
    taken = (traveller.takes(order) for order in orders)
    return tuple(float(flight is not None and not flight.late) for flight in taken)


def interleaving_needs(earned: Iterable[tuple[float, ...]]) -> tuple[int, int]:
    """Return after how many travellers a watched duel is decided, and for whom: 0 or 1; (0, -1) if it never is."""
    duel = Duel()
    for count, (a, b) in enumerate(earned, 1):
        duel = duel.add(a, b)
        if a != b and (better := duel.better(ALPHA)):
            return count, int(better == "b")
    return 0, -1


def ab_needs(outcomes: Sequence[tuple[float, ...]], seed: int) -> tuple[int, int]:
    """Likewise for a watched A/B test of equal shares, on travellers drawn with return from those with these `alone`."""
    draw = np.random.default_rng(seed)
    arms = draw.integers(2, size=AB_MOST)
    took = np.array(outcomes)[draw.integers(len(outcomes), size=AB_MOST), arms]
    seen = [(arms == arm).cumsum() for arm in (0, 1)]
    sums = [((arms == arm) * took).cumsum() for arm in (0, 1)]
    sequence = AsymptoticSequence(ALPHA, N_OPT)
    for last in range(AB_EVERY - 1, AB_MOST, AB_EVERY):
        # The squares of ones and zeros sum up to the same.
        a, b = (Moments(int(n[last]), s[last : last + 1], s[last : last + 1, None]) for n, s in zip(seen, sums, strict=True))
        difference = mean_difference(a, b)
        if difference is not None and sequence.log_e(difference) >= -math.log(ALPHA):
            return last + 1, int(difference.estimate > 0.0)
    return 0, -1
