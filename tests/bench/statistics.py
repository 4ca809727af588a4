"""The statistics: false alarms of every procedure under continuous watching, and how soon a difference is found.

Every look is the package's own code on merged sums; seeds are fixed, so a second run prints the same figures.
"""

import math
from collections.abc import Callable, Iterable
from functools import cache
from itertools import pairwise
from time import perf_counter

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from scipy import stats

from router.statistics import (
    AsymptoticSequence,
    BettingSequence,
    Difference,
    EventRate,
    Moments,
    RelativeRisk,
    SampleRatio,
    adjusted_difference,
    betting,
    event_rate,
    mean_difference,
    ratio_difference,
    relative_risk,
)
from router.statistics.sample_ratio import ALARM_LOG_E, STRENGTH

ALPHA = 0.05
METRICS = 1
NEEDED = math.log(METRICS / ALPHA)
RUNS = 1_000
MANY = 4_000
"""Runs of what is quick to simulate."""

RATE = 0.05
LIFT = 1.2
PER_ARM = 20_000
EVERY = 50
N_OPT = 10_000
BURN_IN = 20
SEQUENCE = AsymptoticSequence(ALPHA / METRICS, N_OPT)

USERS = 10_000
USERS_EVERY = 100

BASE = 0.01
RAMP = (0.01, 0.05, 0.25, 0.5)
STAGE = 2_500
R0 = 1.0
MARGIN = 1.25
GUARDRAILS = 3
ALPHA_FAIL = 0.01
JUDGED = math.log(GUARDRAILS / ALPHA_FAIL)
"""What a rollback needs, with so many guardrails."""
CALM_REQUESTS = 25_000
BAD_REQUESTS = 150_000
CANARIES = 300

SHARES = (0.9, 0.1)
SERVED = 0.11
RATIO_UNITS = 60_000
RATIO_EVERY = 50

VALUES = 1_000
LIMIT = 0.01
UNITS = 20_000
WINS = 0.55
DECISIVE = 5_000

console = Console(width=150)

Comparison = Callable[[Moments, Moments], Difference | None]


def statistics_figures() -> None:
    """Print every constant, the false-alarm rates, and the figures of power."""
    started = perf_counter()
    constants()
    false_alarms()
    power()
    console.print(f"[dim]{perf_counter() - started:.0f} s[/dim]")


def constants() -> None:
    table = Table("constant", "value", title="Constants")
    grid = f"{len(relative_risk.GRID)} R, geometric, {relative_risk.GRID[0]:.1f} to {relative_risk.GRID[-1]:.1f} times R0"
    rates = f"{len(event_rate.GRID)} odds ratios, geometric, {event_rate.GRID[0]:.1f} to {event_rate.GRID[-1]:.1f} (or 1 over)"
    rows = {
        "alpha, metrics, decision": f"{ALPHA}, {METRICS}, e >= {METRICS / ALPHA:.0f}; sample ratio {math.exp(ALARM_LOG_E):.0f}",
        "as the judge decides": f"R0 = {MARGIN}, {GUARDRAILS} guardrails, e >= {GUARDRAILS}/{ALPHA_FAIL}",
        "relative risk": f"grid of {grid}; R0 = {R0}; share {RAMP}, {STAGE:,} requests a stage; a look at every event",
        "asymptotic sequence": f"n_opt = {N_OPT:,} units of both arms; burn-in {BURN_IN} conversions in each arm",
        "its looks": f"every {EVERY} units per arm to {PER_ARM:,}; CUPED and ratio every {USERS_EVERY} to {USERS:,}",
        "CUPED": "users of rate Beta(1, 19): one conversion, and the conversions of 40 earlier visits as covariate",
        "ratio": "users with 1 + Poisson(Gamma(2, 3)) views, and clicks at their own rate of Beta(1, 19)",
        "sample ratio": f"Dirichlet strength {STRENGTH:.0f}; a look every {RATIO_EVERY} units",
        "betting": f"cut {betting.CUT}, grid of {len(betting.GRID)}; a look at every value to {VALUES:,}",
        "event rate": f"grid of {rates}; a look at every unit to {UNITS:,}",
        "seeds": "numpy default_rng([row, run])",
    }
    for name, value in rows.items():
        table.add_row(name, escape(value))
    console.print(table)


def false_alarms() -> None:
    table = Table(
        "procedure", "without any difference", "runs", "alarms", "rate", "95 % Clopper-Pearson", title="A/A, watched", width=150
    )
    for name, what, runs, stop in _calm():
        alarms = sum(stop(run) > 0 for run in range(runs))
        low, high = stats.binomtest(alarms, runs).proportion_ci(method="exact")
        table.add_row(name, what, f"{runs:,}", str(alarms), f"{alarms / runs:.1%}", f"{low:.1%} to {high:.1%}")
    console.print(table)


def _calm() -> list[tuple[str, str, int, Callable[[int], int]]]:
    return [
        ("asymptotic sequence", f"{RATE:.0%} in both arms", RUNS, lambda run: means(1, run, RATE)),
        ("CUPED", "conversions, pre-period visits", RUNS, lambda run: users(2, run, _visits, adjusted_difference)),
        ("ratio", "clicks per view, by user", RUNS, lambda run: users(3, run, _clicks, ratio_difference)),
        ("relative risk", f"{BASE:.0%} in both, ramp, {CALM_REQUESTS:,} requests", RUNS, lambda run: canary(4, run, 1.0)),
        ("relative risk", f"base rate drifts {BASE:.0%} to {4 * BASE:.0%}", RUNS, lambda run: canary(5, run, 1.0, drift=True)),
        ("relative risk", f"wins 50 : 50, both directions, {DECISIVE:,} units", MANY, lambda run: wins(6, run, 0.5)),
        ("sample ratio", f"90/10 served as 90/10, {PER_ARM:,} units", RUNS, lambda run: ratio(7, run, SHARES[1], PER_ARM)),
        ("betting", "Bernoulli(0.05)", MANY, lambda run: bets(8, run, 0.05, lambda draw: draw.random(VALUES) < 0.05)),
        ("betting", "Beta(10, 30)", MANY, lambda run: bets(9, run, 0.25, lambda draw: draw.beta(10, 30, VALUES))),
        ("betting", "Beta(0.1, 0.3)", MANY, lambda run: bets(10, run, 0.25, lambda draw: draw.beta(0.1, 0.3, VALUES))),
        ("event rate, below", f"p = limit = {LIMIT:.0%}", RUNS, lambda run: rate_below(11, run, LIMIT)),
        ("event rate, above", f"p = limit = {LIMIT:.0%}", RUNS, lambda run: rate_above(12, run, LIMIT)),
    ]


def power() -> None:
    table = Table("procedure", "a difference", "runs", "found", "median", "10 % to 90 %", "of what", title="Found", width=150)
    for name, what, unit, runs, stop in _different():
        stops = np.array([stop(run) for run in range(runs)])
        found = stops[stops > 0]
        low, median, high = np.quantile(found, [0.1, 0.5, 0.9])
        table.add_row(name, what, f"{runs:,}", f"{len(found) / runs:.1%}", f"{median:,.0f}", f"{low:,.0f} to {high:,.0f}", unit)
    console.print(table)


def _different() -> list[tuple[str, str, str, int, Callable[[int], int]]]:
    return [
        ("asymptotic sequence", f"{RATE:.0%}, lift 20 %", f"units per arm, of {PER_ARM:,}", RUNS,
         lambda run: means(21, run, RATE * LIFT)),
        ("relative risk", f"errors 5x of {BASE:.0%}, ramp", f"requests, of {BAD_REQUESTS:,}", CANARIES,
         lambda run: canary(22, run, 5.0)),
        ("relative risk", f"errors 2x of {BASE:.0%}, ramp", f"requests, of {BAD_REQUESTS:,}", CANARIES,
         lambda run: canary(23, run, 2.0)),
        ("relative risk", f"errors 5x of {BASE:.0%}, as the judge", f"requests, of {BAD_REQUESTS:,}", CANARIES,
         lambda run: canary(22, run, 5.0, MARGIN, JUDGED)),
        ("relative risk", f"errors 2x of {BASE:.0%}, as the judge", f"requests, of {BAD_REQUESTS:,}", CANARIES,
         lambda run: canary(23, run, 2.0, MARGIN, JUDGED)),
        ("sample ratio", "90/10 served as 89/11", f"units, of {RATIO_UNITS:,}", CANARIES,
         lambda run: ratio(24, run, SERVED, RATIO_UNITS)),
        ("relative risk", f"wins {WINS:.0%}, rho 1/2, alpha/2 a side", f"decisive units, of {DECISIVE:,}", CANARIES,
         lambda run: wins(25, run, WINS)),
        ("event rate, below", f"no events, limit {LIMIT:.0%}", f"units, of {UNITS:,}", 1,
         lambda run: rate_below(26, run, 0.0)),
        ("event rate, below", f"{LIMIT / 2:.1%}, limit {LIMIT:.0%}", f"units, of {UNITS:,}", CANARIES,
         lambda run: rate_below(27, run, LIMIT / 2)),
        ("event rate, above", f"{2 * LIMIT:.0%}, limit {LIMIT:.0%}", f"units, of {UNITS:,}", CANARIES,
         lambda run: rate_above(28, run, 2 * LIMIT)),
    ]  # fmt: skip


def means(seed: int, run: int, treatment: float) -> int:
    """Two conversion rates; the units per arm at the decision, or 0."""
    draw, looks = np.random.default_rng([seed, run]), PER_ARM // EVERY
    counts = [np.cumsum(draw.binomial(EVERY, rate, looks)).astype(float) for rate in (RATE, treatment)]
    for look in range(looks):
        n, first, second = (look + 1) * EVERY, counts[0][look], counts[1][look]
        arms = [Moments(n, np.array([one]), np.array([[one]])) for one in (first, second)]
        if min(first, second) >= BURN_IN and _decided(mean_difference(arms[0], arms[1])):
            return n
    return 0


def users(seed: int, run: int, draw_users: Callable[[np.random.Generator], np.ndarray], compare: Comparison) -> int:
    """Two arms of the same users; how many there were in each when they were told apart, or 0."""
    draw = np.random.default_rng([seed, run])
    parts = [draw_users(draw).reshape(-1, USERS_EVERY, 2) for _ in range(2)]
    sums = [np.cumsum(part.sum(axis=1), axis=0) for part in parts]
    products = [np.cumsum(np.einsum("lui,luj->lij", part, part), axis=0) for part in parts]
    for look in range(USERS // USERS_EVERY):
        arms = [Moments((look + 1) * USERS_EVERY, sums[arm][look], products[arm][look]) for arm in (0, 1)]
        if min(arms[0].sums[0], arms[1].sums[0]) >= BURN_IN and _decided(compare(arms[0], arms[1])):
            return (look + 1) * USERS_EVERY
    return 0


def _visits(draw: np.random.Generator) -> np.ndarray:
    rates = draw.beta(1, 19, USERS)
    return np.stack([draw.random(USERS) < rates, draw.poisson(40 * rates)], axis=1).astype(float)


def _clicks(draw: np.random.Generator) -> np.ndarray:
    views = 1 + draw.poisson(draw.gamma(2.0, 3.0, USERS))
    return np.stack([draw.binomial(views, draw.beta(1, 19, USERS)), views], axis=1).astype(float)


def _decided(difference: Difference | None) -> bool:
    return difference is not None and SEQUENCE.log_e(difference) >= NEEDED


def canary(seed: int, run: int, risk: float, r0: float = R0, needed: float = NEEDED, drift: bool = False) -> int:
    """A ramp, watched event by event; the request at which the alarm came, or 0."""
    draw, process = np.random.default_rng([seed, run]), RelativeRisk(RAMP[0], r0)
    for stage in range((CALM_REQUESTS if risk == 1.0 else BAD_REQUESTS) // STAGE):
        share = RAMP[min(stage, len(RAMP) - 1)]
        if share != process.share:
            process = process.stage(share)
        treated = draw.random(STAGE) < share
        rate = BASE * (1 + stage % 4 if drift else 1) * np.where(treated, risk, 1.0)
        for request in np.flatnonzero(draw.random(STAGE) < rate).tolist():
            process = process.add(int(treated[request]), int(not treated[request]))
            if process.log_e >= needed:
                return stage * STAGE + request + 1
    return 0


def wins(seed: int, run: int, chance: float) -> int:
    """Decisive units that prefer one of two, watched in both directions at alpha/2; the unit at the decision, or 0."""
    won = np.cumsum(np.random.default_rng([seed, run]).random(DECISIVE) < chance)
    decided = np.maximum(won, np.arange(1, DECISIVE + 1) - won) >= _wins_needed()
    return int(decided.argmax()) + 1 if decided.any() else 0


@cache
def _wins_needed() -> np.ndarray:
    """After each number of decisive units, how many one side must have won: evidence grows with wins."""
    needed: list[int] = []
    for n in range(1, DECISIVE + 1):
        count = needed[-1] if needed else 0
        while count <= n and RelativeRisk(0.5, canary=count, baseline=n - count).log_e < math.log(2.0 / ALPHA):
            count += 1
        needed.append(count)
    return np.array(needed)


def ratio(seed: int, run: int, served: float, units: int) -> int:
    """Shares that were to be 90/10; the unit at which the alarm came, or 0."""
    second = np.cumsum(np.random.default_rng([seed, run]).binomial(RATIO_EVERY, served, units // RATIO_EVERY))
    for look, count in enumerate(second.tolist(), 1):
        if SampleRatio(SHARES).add((look * RATIO_EVERY - count, count)).log_e >= ALARM_LOG_E:
            return look * RATIO_EVERY
    return 0


def bets(seed: int, run: int, mean: float, values: Callable[[np.random.Generator], np.ndarray]) -> int:
    """1 if the interval ever leaves out the true mean, or 0: the capital against that mean decides it, on any grid."""
    sequence = BettingSequence(ALPHA, grid=np.array([mean])).add(values(np.random.default_rng([seed, run])))
    return int(mean in sequence.interval())


def rate_below(seed: int, run: int, rate: float) -> int:
    """The unit at which the rate is known to be below the limit, or 0. Evidence grows by each unit without an event."""
    for first, last, events in _quiet(seed, run, rate):
        if EventRate(LIMIT, "below", events, last).log_e >= NEEDED:
            return next(n for n in range(first, last + 1) if EventRate(LIMIT, "below", events, n).log_e >= NEEDED)
    return 0


def _quiet(seed: int, run: int, rate: float) -> Iterable[tuple[int, int, int]]:
    """Stretches without an event: the units at their start and at their end, and the events before."""
    events = np.flatnonzero(np.random.default_rng([seed, run]).random(UNITS) < rate).tolist()
    return ((first, last, count) for count, (first, last) in enumerate(pairwise([0, *events, UNITS])))


def rate_above(seed: int, run: int, rate: float) -> int:
    """The unit at which the rate is known to be above the limit, or 0. Evidence grows by events alone."""
    events = np.flatnonzero(np.random.default_rng([seed, run]).random(UNITS) < rate).tolist()
    for count, unit in enumerate(events, 1):
        if EventRate(LIMIT, "above", count, unit + 1).log_e >= NEEDED:
            return unit + 1
    return 0


if __name__ == "__main__":
    statistics_figures()
