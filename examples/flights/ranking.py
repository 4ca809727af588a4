"""Travellers who choose from ranked flights, and how many of them it takes to see which of two rankers serves them better.

A traveller on one day and route sees the flights of the next four hours, the likeliest to be on time first, looks at position k
with probability 0.7^(k-1) and takes the first one looked at whose scheduled time suits them; whether that flight was really on
time is the label. Flights, weather and truths are those of 2013, only the travellers are made up.

The ranker that goes by the risk of being late alone meets a rival that also pushes sooner departures up. Both begin most lists
alike: those travellers say nothing in an interleaving, while in an A/B test they are noise like all others. The rival's flights
are as punctual, but lie close together at the top of the list, so that fewer travellers find one that suits.
"""

import asyncio
import math
from bisect import bisect_left, bisect_right
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import accumulate, islice
from random import Random
from statistics import median
from time import perf_counter
from typing import Any

import aiohttp
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from examples.flights.replay import ReplayFailed
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
EXPERIMENT, RIVAL = "ranking", "sooner"
PUSH = 0.2
"""With each hour that a flight leaves sooner, the rival lowers the odds of being late by a factor of exp(-PUSH)."""

ALPHA = 0.05
N_OPT = 20_000
AB_MOST, AB_EVERY, AB_DRAWS = 200_000, 200, 11
LABELS_S = 2 * 86_400.0
"""By the flights' clock, of which a day passes within a second: time enough for every label to be joined."""

IN_FLIGHT = 32
ASK_EVERY_S = 0.3
_LAST_HOUR = 3  # of a day, which begins at four in the morning

Call = Callable[[str, str, object], Awaitable[Any]]
"""Sends a request, given its method, path and body, and returns the answer's content."""


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


@dataclass(frozen=True, slots=True)
class Found:
    """What the platform found; `winner` is empty without a verdict, `why` is its own words.

    `judged` of the travellers `sent` were in its books by then. By each ranker's list alone the shares `on_time` of those sent
    would have taken a flight that was on time, and an A/B test would have needed `ab` of them (infinite: over `AB_MOST`).
    """

    winner: str
    why: str
    judged: int
    sent: int
    seconds: float
    on_time: tuple[float, ...]
    ab: float

    def says(self) -> list[str]:
        """The story in plain words."""
        if not self.winner:
            return [f"{self.sent:,} travellers chose in {self.seconds:.0f} s: no verdict yet"]
        shares = " and ".join(f"{share:.1%}" for share in self.on_time)
        needs = (
            f"about {self.ab:,.0f}: {self.ab / self.judged:.0f} times as many" if self.ab < math.inf else f"over {AB_MOST:,}"
        )
        return [
            f"After {self.judged:,} travellers ({self.seconds:.0f} s) the platform knows that '{self.winner}' ranks better:",
            f"  {self.why}",
            f"  by each ranker's list alone {shares} of them would have taken a flight that was on time;",
            f"  to find that out, an A/B test of the same travellers would have needed {needs}",
        ]


@asynccontextmanager
async def connected(url: str, token: str) -> AsyncGenerator[Call]:
    """Open a connection to a platform, as an operator."""
    headers = {"authorization": f"Bearer {token}"}
    async with aiohttp.ClientSession(url, headers=headers, timeout=aiohttp.ClientTimeout(total=60)) as session:

        async def call(method: str, path: str, body: object) -> Any:
            async with session.request(method, path, json=body) as reply:
                if reply.status >= 300:
                    raise ReplayFailed(f"{path} answered {reply.status}: {(await reply.text())[:300]}")
                return await reply.json()

        yield call


async def compare(
    call: Call,
    model: str,
    champion: str,
    version: int,
    people: Sequence[Traveller],
    push: float = PUSH,
    most_s: float = 20.0,
) -> Found:
    """Let travellers choose from lists that two rankers draft together on a running platform, until it says who is better.

    Args:
        model: its score is the risk to be late.
        champion: the variant that ranks by it, and that has learned from none of the travellers' flights.
        version: the rival's: the champion's weights in a graph made by `sooner_first`.
        most_s: no more travellers are sent after that many seconds.
    """
    started = perf_counter()
    crowd = _Crowd(call, model, champion, push)
    await crowd.begin(version)
    try:
        await crowd.choose(people, started + most_s)
    finally:
        await crowd.end()
    seconds = perf_counter() - started
    shares = tuple(float(share) for share in np.mean(crowd.outcomes, axis=0)) if crowd.outcomes else ()
    ab = median(ab_needs(crowd.outcomes, seed)[0] or math.inf for seed in range(AB_DRAWS)) if crowd.winner else math.inf
    return Found(crowd.winner, crowd.why, crowd.judged, len(crowd.outcomes), seconds, shares, ab)


@dataclass
class _Crowd:
    """Travellers at a platform, and what it says of the rankers meanwhile."""

    call: Call
    model: str
    champion: str
    push: float
    outcomes: list[tuple[float, ...]] = field(default_factory=list[tuple[float, ...]])
    winner: str = ""
    why: str = ""
    judged: int = 0
    running: bool = False

    @property
    def path(self) -> str:
        return f"/admin/models/{self.model}/experiments"

    async def begin(self, version: int) -> None:
        """Start the experiment: the champion is its baseline, and the rival is taken out as soon as it is found to be worse."""
        experiment = {
            "name": EXPERIMENT,
            "kind": "interleave",
            "shares": {self.champion: 0.5, RIVAL: 0.5},
            "baseline": self.champion,
            # Both directions are watched.
            "judging": {"alpha": ALPHA, "alpha_fail": ALPHA / 2, "labels_s": LABELS_S},
        }
        variants = [{"name": RIVAL, "line": RIVAL, "version": version}]
        await self.call("POST", self.path, {"experiment": experiment, "variants": variants})
        self.running = True

    async def end(self) -> None:
        if self.running:
            await self.call("POST", f"{self.path}/{EXPERIMENT}/stop", {"why": "no more travellers"})

    async def choose(self, people: Sequence[Traveller], until: float) -> None:
        asked = perf_counter()
        for start in range(0, len(people), IN_FLIGHT):
            labels = await asyncio.gather(*map(self._show, people[start : start + IN_FLIGHT]))
            if events := [label for label in labels if label is not None]:
                await self.call("POST", "/feedback", {"events": events})
            if perf_counter() - asked >= ASK_EVERY_S:
                asked = perf_counter()
                if await self._over():
                    return
                if asked > until:
                    break
        for _ in range(10):  # the last labels may be on their way
            await asyncio.sleep(ASK_EVERY_S)
            if await self._over():
                return

    async def _show(self, traveller: Traveller) -> dict[str, Any] | None:
        """Show somebody their list; return the label of what they take from it."""
        candidates = [{"item": flight.id, "features": flight.features} for flight in traveller.flights]
        body = {"unit": traveller.unit, "candidates": candidates, "k": len(candidates), "at": traveller.at.timestamp()}
        answer = await self.call("POST", f"/models/{self.model}/rank", body)
        items = {item["item"]: item for item in answer["items"]}
        self.outcomes.append(alone(traveller, self._orders(traveller, items)))
        taken = traveller.takes(items)
        if taken is None:
            return None
        return {"id": answer["id"], "item": taken.id, "label": int(taken.late), "at": taken.arrival.timestamp()}

    def _orders(self, traveller: Traveller, items: dict[str, Any]) -> list[list[str]]:
        """Each ranker's own list: a flight's score is that of the ranker who drafted it, and the other's follows from it."""
        risks: list[float] = []
        for flight in traveller.flights:
            score, variant = items[flight.id]["score"], items[flight.id]["variant"]
            risks.append(pushed(score, flight, -self.push) if variant == RIVAL else score)
        rivals = [pushed(risk, flight, self.push) for risk, flight in zip(risks, traveller.flights, strict=True)]
        return [ranked(traveller, risks), ranked(traveller, rivals)]

    async def _over(self) -> bool:
        """Ask for the verdict: a worse rival has been taken out by then, a better one is to be promoted."""
        content = await self.call("GET", f"{self.path}/{EXPERIMENT}", None)
        report = content["report"] or {}
        self.running = content["running"]
        if not self.running:
            decision = content["decisions"][0]
            if decision["action"] != "roll back":
                return True
            self.winner, self.why, numbers = self.champion, decision["why"], decision["evidence"][0]["findings"][0]["numbers"]
        elif "promote" in report.get("verdict", ""):
            self.winner, self.why, numbers = RIVAL, report["why"], report["findings"][0]
        else:
            return False
        self.judged = sum(numbers[name] for name in ("won", "lost", "ties", "none"))
        return True
