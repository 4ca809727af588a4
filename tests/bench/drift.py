"""Drift: how soon it is found, and how often it was not there, on streams whose changes are known.

River's detectors alone, on the losses and with their own settings, stand beside the monitor. Seeds
are fixed, so a second run prints the same figures.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel
from rich.console import Console
from rich.table import Table
from river import drift as detectors

from store.drift import Drift
from store.encoding import Encoder
from store.records import Outcome, Served
from store.spec import ModelSpec
from trainer.drift import Monitor, Seen

console = Console(width=150)

Shape = Literal["none", "sudden", "gradual", "incremental", "seasonal", "seasonal, then sudden"]
SHAPES: tuple[Shape, ...] = ("none", "sudden", "gradual", "incremental", "seasonal", "seasonal, then sudden")
STEP_S = 30.0
"""Seconds between two outcomes: 2880 a day."""
DAY = int(86_400 / STEP_S)
CHANGE = 40_000
LENGTH = 80_000
WIDTH = 10_000
"""Outcomes that a gradual or an incremental change takes."""
RUNS = 5
CALM = 13
KSWIN_LENGTH = 12_000
"""KSWIN sorts its window at every outcome: it is given a stretch around the change."""


class Features(BaseModel):
    price: float
    age: float | None
    stock: float
    country: str


COUNTRIES = ("VN", "JP", "NY", "DE", "FR")


@dataclass(frozen=True, slots=True)
class Stream:
    """Outcomes as detectors see them: features [rows, 3] and codes [rows], losses [rows], times [rows]."""

    numbers: np.ndarray
    countries: np.ndarray
    losses: np.ndarray
    times: np.ndarray
    change: int | None


def stream(shape: Shape, seed: int, length: int = LENGTH, change: int = CHANGE) -> Stream:
    """Draw a stream: the price rises by a standard deviation, and the loss, Gamma of mean 0.4, by half of its own."""
    draw = np.random.default_rng([seed, SHAPES.index(shape)])
    at = np.arange(length)
    times = 1_700_006_400.0 + STEP_S * at
    new = _share(shape, at, change, draw)
    day = np.sin(2 * np.pi * at / DAY) if shape.startswith("seasonal") else np.zeros(length)
    numbers = draw.normal(size=(length, 3))
    numbers[:, 0] += new + 1.5 * day
    numbers[:, 2] += numbers[:, 0] * 0.5
    numbers[draw.random(length) < 0.1, 1] = np.nan
    countries = np.minimum(draw.geometric(0.4, length) - 1, len(COUNTRIES) - 1)
    losses = draw.gamma(2.0, 0.2, length) * (1.0 + 0.4 * day) * (1.0 + 0.5 * new)
    known = change if "sudden" in shape or shape in ("gradual", "incremental") else None
    return Stream(numbers, countries, losses, times, known)


def _share(shape: Shape, at: np.ndarray, change: int, draw: np.random.Generator) -> np.ndarray:
    """Return how much each outcome is of the new regime, 0 to 1."""
    ramp = np.clip((at - change) / WIDTH, 0.0, 1.0)
    match shape:
        case "none" | "seasonal":
            return np.zeros(len(at))
        case "gradual":  # more and more outcomes are of the new regime
            return (draw.random(len(at)) < ramp).astype(float)
        case "incremental":  # all outcomes move a little
            return ramp
        case _:
            return (at >= change).astype(float)


def ours(shape: Shape, given: Stream, **settings: Any) -> list[int]:
    """Return at which outcomes the monitor alarms; it is told of a season where there is one."""
    season = "hour" if shape.startswith("seasonal") else None
    given_by = {"watch": ("covariate", "multivariate", "concept"), "season": season} | settings
    drift = Drift.model_validate(given_by)
    record = ModelSpec(name="m", features=Features, objective="regression").record
    monitor, encoder = Monitor(record, drift), Encoder(record.features)
    alarms: list[int] = []
    for start in range(0, len(given.losses), 4096):
        alarms += [one.found.outcome for one in monitor.take(batch(given, encoder, start, start + 4096), "1-1")]
    assert not monitor.off, monitor.off
    return alarms


def batch(given: Stream, encoder: Encoder, start: int, end: int) -> Seen:
    """Return a stretch of a stream as the learner would hand it on."""
    part = slice(start, end)
    prices, ages, stocks = given.numbers[part].T.tolist()
    rows = [
        [price, None if math.isnan(age) else age, stock, COUNTRIES[country]]
        for price, age, stock, country in zip(prices, ages, stocks, given.countries[part].tolist(), strict=True)
    ]
    served = Served("main", 1, 1.0)
    outcomes = [
        Outcome("", "", row, [0.0], served, 0.0, "label", True, at, at, at)
        for row, at in zip(rows, given.times[part].tolist(), strict=True)
    ]
    losses = given.losses[part]
    return Seen(outcomes, encoder.encode(rows), np.zeros((len(losses), 1), np.float32), losses)


def alone(make: Callable[[], Any], losses: np.ndarray) -> list[int]:
    """Return at which outcomes one of river's detectors alarms over the losses."""
    detector, alarms = make(), list[int]()
    for number, loss in enumerate(losses.tolist()):
        detector.update(loss)
        if detector.drift_detected:
            alarms.append(number)
    return alarms


@dataclass(frozen=True, slots=True)
class Found:
    """Of several streams: delays in outcomes, how many changes were missed, false alarms and of how many outcomes."""

    delays: list[int]
    missed: int
    false: int
    outcomes: int


def judge(runs: Iterable[tuple[Stream, list[int]]], offset: int = 0) -> Found:
    """An alarm before the change is false; the first one after it is its delay, later ones are not counted.

    Args:
        offset: where the stretch of the stream begins that was watched.
    """
    delays, missed, false, outcomes = list[int](), 0, 0, 0
    for given, alarms in runs:
        calm = (KSWIN_LENGTH if offset else len(given.losses)) if given.change is None else given.change - offset
        false += sum(one < calm for one in alarms)
        outcomes += calm
        if given.change is not None:
            after = [one - calm for one in alarms if one >= calm]
            delays += after[:1]
            missed += not after
    return Found(delays, missed, false, outcomes)


ALONE: dict[str, Callable[[], Any]] = {
    "river ADWIN": detectors.ADWIN,
    "river PageHinkley": detectors.PageHinkley,
    "river KSWIN": lambda: detectors.KSWIN(seed=0),
}


def drift_figures() -> None:
    """Print delays, what was missed, and false alarms, of the monitor and of river's detectors alone."""
    started = perf_counter()
    title = f"Drift: {RUNS} streams of {LENGTH:,} outcomes each ({CALM} without drift), change at {CHANGE:,}"
    columns = ("stream", "detector", "mean delay", "median delay", "missed", "false alarms per 10^6 outcomes", "of outcomes")
    table = Table(*columns, title=title, width=150)
    for shape in SHAPES:
        console.print(f"[dim]{shape}, {perf_counter() - started:.0f} s[/dim]")
        for name, found in _figures(shape):
            mean, median = (f"{of(found.delays):,.0f}" if found.delays else "" for of in (np.mean, np.median))
            false = f"{found.false / found.outcomes * 1e6:,.1f}"
            table.add_row(shape, name, mean, median, str(found.missed), false, f"{found.outcomes:,}")
        table.add_section()
    console.print(table)
    console.print(f"[dim]{perf_counter() - started:.0f} s[/dim]")


def _figures(shape: Shape) -> Iterable[tuple[str, Found]]:
    streams = [stream(shape, seed) for seed in range(CALM if shape == "none" else RUNS)]
    yield "all of ours", judge((one, ours(shape, one)) for one in streams)
    yield "ours, the loss alone", judge((one, ours(shape, one, watch=("concept",))) for one in streams)
    for name, make in ALONE.items():
        if name == "river KSWIN":
            first = CHANGE - KSWIN_LENGTH // 2
            part = slice(first, first + KSWIN_LENGTH)
            yield name, judge(((one, alone(make, one.losses[part])) for one in streams[:3]), first)
        else:
            yield name, judge((one, alone(make, one.losses)) for one in streams)


if __name__ == "__main__":
    drift_figures()
