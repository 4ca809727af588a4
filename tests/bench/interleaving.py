"""Interleaving against an A/B test on the same simulated users and rankers, all of it watched: alarms, power, units needed."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np
from rich.console import Console
from rich.table import Column, Table

from router.interleaving import NOBODY, STRATEGIES, Duel, Outcome, programme
from router.statistics import AsymptoticSequence, Difference, Moments, mean_difference, ratio_difference
from router.statistics.relative_risk import GRID

ALPHA = 0.05
SEED = 20
K = 10
QUERIES, CANDIDATES, DRAFTS = 200, 30, 128
USERS = 60_000
LOOKS_ON = 0.7
APPEAL_MEAN, APPEAL_SD = -2.0, 1.0
SESSIONS_SHAPE, SESSIONS_MEAN = 0.5, 3.0
PROPENSITY_SHAPE = 2.0
ALARM_RUNS, ALARM_UNITS = 1_000, 2_000
POWER_RUNS, LOOKS, LONGEST = 100, 200, 150_000
POWER = 0.8
console = Console(width=140)


@dataclass(frozen=True)
class World:
    """A stable ranker, a candidate and how users behave.

    Attributes:
        shrink: the candidate's errors as a share of the stable ranker's, the same ones: scores are log-odds of an item's appeal
            plus errors of standard deviation 1.
        fresh: standard deviation of errors that only the candidate makes.
        leaves: the chance that a user leaves after a click (the others look on with `LOOKS_ON`, as after no click).
    """

    name: str
    shrink: float
    fresh: float
    leaves: float = 0.0


WORLDS = (
    World("successor, 5 % better", 0.95, 0.1),
    World("successor, 10 % better", 0.9, 0.1),
    World("successor, 20 % better", 0.8, 0.1),
    World("  and users leave", 0.8, 0.1, leaves=0.8),
    World("stranger, 10 % better", 0.0, 0.9),
    World("stranger, 20 % better", 0.0, 0.8),
)
"""A successor makes the stable ranker's errors, but smaller; a stranger makes its own."""

EQUALS = World("stranger, as good", 0.0, 1.0)


@dataclass(frozen=True)
class Rankings:
    """Appeal of items [queries, items], and two rankings of them [2, queries, items]."""

    appeal: np.ndarray
    orders: np.ndarray

    @staticmethod
    def of(world: World, draw: np.random.Generator, queries: int = QUERIES) -> "Rankings":
        logit = draw.normal(APPEAL_MEAN, APPEAL_SD, (queries, CANDIDATES))
        errors = draw.normal(size=logit.shape)
        candidate = world.shrink * errors + world.fresh * draw.normal(size=logit.shape)
        return Rankings(1.0 / (1.0 + np.exp(-logit)), np.argsort(-np.stack([logit + errors, logit + candidate]), axis=2))

    def mirrored(self) -> "Rankings":
        """Each query once more with the rankers exchanged: over all queries, neither is better."""
        return Rankings(np.tile(self.appeal, (2, 1)), np.concatenate([self.orders, self.orders[::-1]], axis=1))


@dataclass(frozen=True)
class Users:
    """Sessions: whose each is, what is asked, how eagerly its user clicks, and the luck of each position [sessions, K]."""

    count: int
    user: np.ndarray
    query: np.ndarray
    propensity: np.ndarray
    on: np.ndarray
    luck: np.ndarray

    @staticmethod
    def of(draw: np.random.Generator, queries: int, count: int = USERS) -> "Users":
        sessions = 1 + draw.poisson(draw.gamma(SESSIONS_SHAPE, SESSIONS_MEAN / SESSIONS_SHAPE, count))
        user = np.repeat(np.arange(count), sessions)
        propensity = draw.gamma(PROPENSITY_SHAPE, 1.0 / PROPENSITY_SHAPE, count)[user]
        shape = (len(user), K)
        return Users(count, user, draw.integers(queries, size=len(user)), propensity, draw.random(shape), draw.random(shape))

    def clicks(self, shown: np.ndarray, appeal: np.ndarray, leaves: float) -> np.ndarray:
        """Whether each position is clicked on [sessions, K] when these items [sessions, K] are shown."""
        would = self.luck < appeal[self.query[:, None], shown] * self.propensity[:, None]
        clicked = np.zeros_like(would)
        looks = np.ones(len(shown), dtype=bool)
        for position in range(K):
            clicked[:, position] = looks & would[:, position]
            looks &= self.on[:, position] < LOOKS_ON * np.where(clicked[:, position], 1.0 - leaves, 1.0)
        return clicked

    def per_user(self, values: np.ndarray) -> np.ndarray:
        return np.bincount(self.user, values, self.count)


@dataclass(frozen=True)
class Pool:
    """Drafts of each query [queries, drafts, K], by the strategy itself."""

    items: np.ndarray
    teams: np.ndarray
    once: bool

    @staticmethod
    def of(name: str, rankings: Rankings, drafts: int = DRAFTS) -> "Pool":
        items, teams, once = [], [], False
        for query, pair in enumerate(rankings.orders.transpose(1, 0, 2)):
            offered = [[str(item) for item in order] for order in pair.tolist()]
            seeds = range(query * drafts, (query + 1) * drafts)
            if name == "optimised":
                of = programme(offered, K)
                drawn = [of.draw(seed) for seed in seeds]
            else:
                drawn = [STRATEGIES[name](offered, K, seed) for seed in seeds]
            items.append([[int(item) for item in draft.items] for draft in drawn])
            teams.append([draft.teams for draft in drawn])
            once = drawn[0].once
        return Pool(np.array(items), np.array(teams), once)

    def earned(self, users: Users, which: np.ndarray, clicked: np.ndarray) -> np.ndarray:
        """Credits of both rankers for each session [2, sessions], shown its draft `which` [sessions]."""
        teams = self.teams[users.query, which]
        counted = clicked & (teams != NOBODY)
        if self.once:
            counted &= counted.cumsum(axis=1) == 1
        return np.stack([(counted & (teams == team)).sum(axis=1) for team in (0, 1)])


def credits(pool: Pool, users: Users, appeal: np.ndarray, leaves: float, draw: np.random.Generator) -> np.ndarray:
    """Each user's credits for both rankers [2, users]: a fresh draft in each session."""
    which = draw.integers(pool.items.shape[1], size=len(users.user))
    clicked = users.clicks(pool.items[users.query, which], appeal, leaves)
    return np.stack([users.per_user(one) for one in pool.earned(users, which, clicked)])


def wins_needed(most: int, alpha: float = ALPHA) -> np.ndarray:
    """How many of n decisive units one ranker must win for `Duel` to decide, for n up to `most`; more than n where none do."""
    risks = np.array(GRID)
    up, down = np.log(2.0 * risks / (1.0 + risks)), np.log(2.0 / (1.0 + risks))
    n = np.arange(most + 1)
    low, high = np.zeros_like(n), n + 1
    while np.any(low < high):
        middle = (low + high) // 2
        logs = middle[:, None] * up + (n - middle)[:, None] * down
        top = logs.max(axis=1)
        enough = top + np.log(np.exp(logs - top[:, None]).mean(axis=1)) >= math.log(2.0 / alpha)
        low, high = np.where(enough | (low == high), low, middle + 1), np.where(enough, middle, high)
    return high


NEEDED = wins_needed(LONGEST)


def decided(a: np.ndarray, b: np.ndarray) -> int:
    """Watch units in order, each with its wins for a and for b: units until the decision, negative where it is for a, or 0."""
    a, b = a.cumsum(), b.cumsum()
    needed = NEEDED[a + b]
    found = np.flatnonzero((b >= needed) | (a >= needed))
    if not len(found):
        return 0
    stop = int(found[0])
    return stop + 1 if b[stop] > a[stop] else -stop - 1


def alarms(a: np.ndarray, b: np.ndarray) -> str:
    """The share of runs that decide anything at all, over users with these events for a and for b, watched user by user."""
    draw = np.random.default_rng(SEED + 1)
    samples = (draw.integers(len(a), size=ALARM_UNITS) for _ in range(ALARM_RUNS))
    return f"{np.mean([decided(a[some], b[some]) != 0 for some in samples]):.1%}"


def false_alarms() -> Table:
    """Equally good rankers, watched at every unit."""
    table = Table(
        "procedure", "an event is", "false alarms", title=f"A/A, watched {ALARM_UNITS:,} users long, {ALARM_RUNS} runs"
    )
    draw = np.random.default_rng(SEED)
    rankings = Rankings.of(EQUALS, draw, QUERIES // 2).mirrored()
    users = Users.of(draw, QUERIES)
    for name in STRATEGIES:
        pool = Pool.of(name, rankings, 2 * DRAFTS)
        a, b = credits(pool, users, rankings.appeal, 0.0, draw)
        table.add_row(name, "a user won", alarms(a > b, b > a))
        if name == "team_draft":
            _cached(table, pool, rankings, draw)
    clicked = users.clicks(rankings.orders[0][users.query, :K], rankings.appeal, 0.0).sum(axis=1)
    arm = np.stack([users.per_user(clicked), users.per_user(np.ones(len(clicked)))], axis=1)
    for metric, stops in ab_stops((arm, arm), 20_000, 40_000, 2 * POWER_RUNS).items():
        label = f"A/B, {metric}, {LOOKS} looks up to 40,000 users, {2 * POWER_RUNS} runs"
        table.add_row(label, "", f"{np.mean(np.array(stops) != 0):.1%}")
    return table


def _cached(table: Table, pool: Pool, rankings: Rankings, draw: np.random.Generator) -> None:
    """Users who come back to the same page and get the same teams, judged in three ways."""
    users = Users.of(draw, QUERIES)
    first = np.unique(users.user, return_index=True)[1][users.user]
    which = draw.integers(pool.items.shape[1], size=len(first))[first]
    for taste, luck in (("", users.luck), (", fixed taste", users.luck[first])):
        again = replace(users, query=users.query[first], luck=luck)
        a, b = pool.earned(again, which, again.clicks(pool.items[again.query, which], rankings.appeal, 0.0))
        clicks = [again.per_user(one).astype(np.int64) for one in (a, b)]
        sessions = [again.per_user(one).astype(np.int64) for one in (a > b, b > a)]
        table.add_row(f"team_draft, teams cached{taste}", "a user won", alarms(clicks[0] > clicks[1], clicks[1] > clicks[0]))
        table.add_row("", "a session won", alarms(*sessions))
        table.add_row("", "a click", alarms(*clicks))


def ab_stops(arms: tuple[np.ndarray, np.ndarray], n_opt: int, most: int, runs: int = POWER_RUNS) -> dict[str, list[int]]:
    """Units (of both arms) after which an A/B test decides that the second is better, negative where it says worse, or 0.

    Arms are users' clicks and sessions [users, 2], drawn from with return; there are `LOOKS` looks up to `most` units.
    """
    draw = np.random.default_rng(SEED + 2)
    sequence = AsymptoticSequence(ALPHA, n_opt)
    step = max(20, most // (2 * LOOKS))
    cells = [np.unique(arm, axis=0, return_counts=True) for arm in arms]
    stops: dict[str, list[int]] = {"clicks/user": [], "clicks/session": []}
    for _ in range(runs):
        looks: list[list[Moments]] = []
        for values, counts in cells:
            seen = draw.multinomial(step, counts / counts.sum(), size=LOOKS).cumsum(axis=0)
            sums, products = seen @ values, seen @ (values[:, :, None] * values[:, None, :]).reshape(-1, 4)
            looks.append([Moments(step * (at + 1), sums[at], products[at].reshape(2, 2)) for at in range(LOOKS)])
        pairs = list(zip(*looks, strict=True))
        stops["clicks/user"].append(_stop(sequence, (mean_difference(a, b) for a, b in pairs)))
        stops["clicks/session"].append(_stop(sequence, (ratio_difference(a, b) for a, b in pairs)))
    return stops


def _stop(sequence: AsymptoticSequence, differences: Iterable[Difference | None]) -> int:
    for difference in differences:
        if difference is not None and sequence.log_e(difference) >= -math.log(ALPHA):
            return int(math.copysign(difference.n, difference.estimate))
    return 0


def duel_stops(a: np.ndarray, b: np.ndarray, runs: int = POWER_RUNS) -> list[int]:
    """Units after which interleaving decides for b, negative where for a, or 0 by `LONGEST`."""
    draw = np.random.default_rng(SEED + 3)
    return [decided(a[some], b[some]) for some in (draw.integers(len(a), size=LONGEST) for _ in range(runs))]


def reached(stops: list[int]) -> tuple[float, float, float]:
    """Units by which half, and by which `POWER` of the runs found the truth (infinite if not), and the share that was wrong."""
    right = np.sort([stop if stop > 0 else math.inf for stop in stops])
    wrong = float(np.mean([stop < 0 for stop in stops]))
    return float(right[len(right) // 2]), float(right[math.ceil(POWER * len(right)) - 1]), wrong


def needed_units(world: World, table: Table) -> None:
    """One world: the A/B test first, then each strategy on the same users."""
    draw = np.random.default_rng(SEED)
    rankings = Rankings.of(world, draw)
    users = Users.of(draw, QUERIES)
    shown = [rankings.orders[ranker][users.query, :K] for ranker in (0, 1)]
    clicked = [users.per_user(users.clicks(one, rankings.appeal, world.leaves).sum(axis=1)) for one in shown]
    sessions = users.per_user(np.ones(len(users.user)))
    gained = clicked[1].mean() - clicked[0].mean()
    fixed = int(2.0 * (1.96 + 0.84) ** 2 * (clicked[0].var() + clicked[1].var()) / gained**2)
    first, second = (np.stack([one, sessions], axis=1) for one in clicked)
    enough_ab: list[float] = []
    label = (world.name, f"{gained / clicked[0].mean():+.1%}")
    for metric, stops in ab_stops((first, second), fixed, 6 * fixed).items():
        median, enough, wrong = reached(stops)
        table.add_row(*label, f"A/B, {metric}", "", "", _count(median), _count(enough), f"{wrong:.0%}", "", "")
        enough_ab.append(enough)
        label = ("", "")
    for name in STRATEGIES:
        a, b = credits(Pool.of(name, rankings), users, rankings.appeal, world.leaves, draw)
        decisive, rate = f"{np.mean(a != b):.0%}", f"{(b > a).sum() / (a != b).sum():.1%}"
        median, enough, wrong = reached(duel_stops(a > b, b > a))
        ratios = [f"{one / enough:,.0f}" if math.isfinite(enough) else "-" for one in enough_ab]
        table.add_row("", "", name, decisive, rate, _count(median), _count(enough), f"{wrong:.0%}", *ratios)
    table.add_section()


def _count(units: float) -> str:
    return f"{units:,.0f}" if math.isfinite(units) else f"> {LONGEST:,}"


def win_rates() -> Table:
    """Decisive units until the decision, by win rate alone."""
    table = Table(
        "win rate", "median", f"{POWER:.0%} decided by", title=f"Decisive units until a decision, {4 * POWER_RUNS} runs"
    )
    for rate in (0.51, 0.52, 0.53, 0.55, 0.6, 0.7):
        b = np.random.default_rng(SEED).random(1_000_000) < rate
        median, enough, _ = reached(duel_stops(~b, b, 4 * POWER_RUNS))
        table.add_row(f"{rate:.0%}", _count(median), _count(enough))
    return table


def constants() -> None:
    """Print everything that the figures depend on."""
    worlds = "; ".join(f"{one.name.strip()} {one.shrink}, {one.fresh}, {one.leaves}" for one in (*WORLDS, EQUALS))
    for line in (
        f"[bold]Interleaving.[/bold] alpha {ALPHA}; seed {SEED}; lists of {K} from {CANDIDATES} candidates; {QUERIES} queries, "
        f"{DRAFTS} drafts of each ({2 * DRAFTS} in A/A); {USERS:,} users, drawn from with return; {POWER_RUNS} runs.",
        f"Users: 1 + Poisson(Gamma({SESSIONS_SHAPE}, mean {SESSIONS_MEAN})) sessions; position k is looked at with probability "
        f"{LOOKS_ON}^(k-1); what is looked at is clicked on with the item's appeal, logistic(Normal({APPEAL_MEAN}, "
        f"{APPEAL_SD})), times the user's propensity, Gamma({PROPENSITY_SHAPE}, mean 1).",
        "Rankers: sort by log-odds of appeal plus errors, the stable one's Normal(0, 1). The part of these that the candidate "
        f"makes, deviation of its own, and users' chance to leave after a click: {worlds}.",
        f"Duel: share 0.5, r0 1, grid {', '.join(f'{risk:.3g}' for risk in GRID)}, either direction at alpha/2, watched "
        f"at every user up to {LONGEST:,}.",
        "A/B: asymptotic confidence sequence, n_opt the users of a fixed-horizon test with 80 % power for clicks/user, "
        f"{LOOKS} looks up to 6 n_opt (A/A: n_opt 20,000).",
    ):
        console.print(line)


def interleaving() -> None:
    """All figures of interleaving."""
    started = perf_counter()
    for n in (10, 100, 1_000, 10_000):
        wins = int(NEEDED[n])
        if (Duel(wins, n - wins).better(ALPHA), Duel(wins - 1, n - wins + 1).better(ALPHA)) != (Outcome.A, None):
            raise RuntimeError(f"of {n} units, Duel does not need {wins} as this bench does")
    constants()
    console.print(win_rates(), false_alarms())
    table = Table(
        Column("candidate", no_wrap=True), "clicks", Column("procedure", no_wrap=True), "decisive", "win rate", "median",
        f"{POWER:.0%} by", "wrong", "A/B needs times", "A/B by session", title="Users until the better ranker is found",
    )  # fmt: skip
    for world in WORLDS:
        needed_units(world, table)
    console.print(table)
    console.print(f"[dim]{perf_counter() - started:.0f} s[/dim]")


if __name__ == "__main__":
    interleaving()
