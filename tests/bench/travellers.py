"""Ranked flights: how many travellers tell two rankers apart, drafting together and in an A/B test of the same travellers.

The pairs are fixed, and all of them are printed, also those that neither way tells apart.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from itertools import takewhile

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Column, Table

from examples.flights import spec
from examples.flights.ranking import (
    AB_DRAWS,
    AB_MOST,
    Traveller,
    ab_needs,
    alone,
    drafted,
    interleaving_needs,
    pushed,
    ranked,
    travellers,
)
from examples.flights.stream import Flight, Hour, hours, load
from store.artefact import Session, open_session
from store.encoding import Encoder
from store.records import Outcome, Served
from store.schema import Row
from trainer.learner import Learner

PUSHES = (0.05, 0.1, 0.2, 0.4, 0.8)
BEGINNINGS = tuple(datetime(2013, month, 1, 5, tzinfo=UTC) for month in (6, 8, 10))
"""Until then the rankers have learned; the travellers are those of the two weeks after."""

OLD = (timedelta(days=7), timedelta(days=90))
WEEKS = timedelta(days=14)
# Lists here are scored long after the flights; what had been known of the day when each was asked for is not kept.
BARE = replace(spec, streaming=())
PEOPLE, RUNS, AT_ONCE = 20_000, 21, 1_000
console = Console(width=140)


@dataclass(frozen=True)
class Moment:
    """What there is at one beginning: the learner's model, older ones of it, and the travellers of the weeks after."""

    begins: datetime
    newest: Session
    older: dict[timedelta, Session]
    people: list[Traveller]


def flight_rankers() -> None:
    """Print the pairs at each of the beginnings."""
    table = Table(
        "from",
        "the rival",
        *(Column(name, justify="right") for name in ("on time", "rival's", "say something", "interleaved", "A/B", "ratio")),
        title=f"Travellers until a watched test is decided (medians of {RUNS} and {AB_DRAWS} runs; * found the other better)",
    )
    for moment in _moments():
        risks = _risks(moment.newest, moment.people)
        rivals = {f"{push:g} an hour for sooner flights": _pushed(moment.people, risks, push) for push in PUSHES}
        rivals |= {f"{old.days} days old": _risks(session, moment.people) for old, session in moment.older.items()}
        for name, others in rivals.items():
            table.add_row(f"{moment.begins:%d %b}", name, *_compared(moment.people, risks, others))
    console.print(table)


def _compared(people: Sequence[Traveller], ours: Sequence[Sequence[float]], others: Sequence[Sequence[float]]) -> list[str]:
    orders = [(ranked(one, a), ranked(one, b)) for one, a, b in zip(people, ours, others, strict=True)]
    by_themselves = [alone(one, pair) for one, pair in zip(people, orders, strict=True)]
    shares = np.mean(by_themselves, axis=0)
    draw = np.random.default_rng(0)
    earned = [drafted(one, pair, int(draw.integers(2**62))) for one, pair in zip(people, orders, strict=True)]
    duels = [interleaving_needs([earned[i] for i in draw.permutation(len(earned))]) for _ in range(RUNS)]
    tests = [ab_needs(by_themselves, seed) for seed in range(AB_DRAWS)]
    together, apart = _median(duels), _median(tests)
    ratio = ""
    if together < math.inf:
        ratio = f"{apart / together:.0f}" if apart < math.inf else f"over {AB_MOST / together:.0f}"
    return [
        *(f"{share:.2%}" for share in shares),
        f"{np.mean([a != b for a, b in earned]):.1%}",
        _count(together, PEOPLE) + _disagreement(duels, shares),
        _count(apart, AB_MOST) + _disagreement(tests, shares),
        ratio,
    ]


def _median(runs: Sequence[tuple[int, int]]) -> float:
    return float(np.median([needed or math.inf for needed, _ in runs]))


def _count(needed: float, most: int) -> str:
    return f"{needed:,.0f}" if needed < math.inf else f"over {most:,}"


def _disagreement(runs: Sequence[tuple[int, int]], shares: np.ndarray) -> str:
    better = int(shares[1] > shares[0])
    wrong = sum(winner == 1 - better for _, winner in runs)
    return f" ({wrong}*)" if wrong else ""


def _moments() -> list[Moment]:
    flights = load(date(2013, 10, 20))
    learner, moments, kept = Learner(BARE), list[Moment](), dict[datetime, Session]()
    encoder = Encoder(BARE.record.features)
    wanted = {begins - old for begins in BEGINNINGS for old in (timedelta(0), *OLD)}
    graph = learner.export()
    played = list(takewhile(lambda hour: hour.start < max(BEGINNINGS) + WEEKS, hours(flights)))
    for hour in track(played, description="learning", console=console):
        if wanted == kept.keys():
            break
        for moment in wanted - kept.keys():
            if hour.start >= moment:
                kept[moment] = open_session(graph.onnx, learner.weights())
        if hour.labels:
            learner.learn(_outcomes(encoder, hour), str(hour.start))
    for begins in BEGINNINGS:
        after = [flight for flight in flights if begins <= flight.departure < begins + WEEKS]
        people = travellers(after, PEOPLE, begins.month)
        moments.append(Moment(begins, kept[begins], {old: kept[begins - old] for old in OLD}, people))
    return moments


def _outcomes(encoder: Encoder, hour: Hour) -> list[Outcome]:
    served = Served("", 0, 0.0, (), 0.0, 0)
    return [
        Outcome(one.id, one.unit, _row(encoder, one), [], served, float(one.late), "label", True, 0.0, 0.0, 0.0)
        for one in hour.labels
    ]


def _row(encoder: Encoder, flight: Flight) -> Row:
    return encoder.row(flight.features | {"departure": datetime.fromisoformat(str(flight.features["departure"]))})


def _risks(session: Session, people: Sequence[Traveller]) -> list[list[float]]:
    """Each traveller's flights' risks to be late."""
    encoder, scored = Encoder(BARE.record.features), list[list[float]]()
    for start in range(0, len(people), AT_ONCE):
        some = people[start : start + AT_ONCE]
        risks = session.run(encoder.encode([_row(encoder, flight) for one in some for flight in one.flights]))[:, 0]
        ends = np.cumsum([len(one.flights) for one in some])
        scored += [part.tolist() for part in np.split(risks, ends[:-1])]
    return scored


def _pushed(people: Sequence[Traveller], risks: Sequence[Sequence[float]], push: float) -> list[list[float]]:
    return [
        [pushed(risk, flight, push) for risk, flight in zip(scores, one.flights, strict=True)]
        for one, scores in zip(people, risks, strict=True)
    ]
