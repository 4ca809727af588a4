"""Interleaving against an A/B test on the same simulated users and rankers, all of it watched: alarms, power, units needed."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

import numpy as np
from rich.console import Console
from rich.table import Table

from router.interleaving import NOBODY, STRATEGIES, Duel, Outcome, programme
from router.statistics import AsymptoticSequence, Moments, mean_difference, ratio_difference
from router.statistics.relative_risk import GRID

ALPHA = 0.05
SEED = 20
K = 10
QUERIES, CANDIDATES, DRAFTS = 200, 30, 64
USERS = 60_000
LOOKS_ON = 0.7
APPEAL_MEAN, APPEAL_SD = -2.0, 1.0
SESSIONS_SHAPE, SESSIONS_MEAN = 0.5, 3.0
PROPENSITY_SHAPE = 2.0
ALARM_RUNS, ALARM_UNITS = 1_000, 2_000
POWER_RUNS, LOOKS = 200, 500
POWER = 0.8
console = Console(width=150)


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
    World("successor: a twentieth of the errors gone", 0.95, 0.1),
    World("successor: a tenth of the errors gone", 0.9, 0.1),
    World("successor: a fifth of the errors gone", 0.8, 0.1),
    World("successor: a tenth gone, users leave", 0.9, 0.1, leaves=0.8),
    World("successor: a fifth gone, users leave", 0.8, 0.1, leaves=0.8),
    World("stranger: other errors, 0.9 as large", 0.0, 0.9),
    World("stranger: other errors, 0.8 as large", 0.0, 0.8),
    World("stranger: other errors, 0.7 as large", 0.0, 0.7),
)
EQUALS = World("stranger: other errors, as large", 0.0, 1.0)


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
    """Sessions of users: whose it is, what is asked, how eagerly the user clicks, and the luck of each position [sessions, K]."""

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
    up, down = (np.log([2.0 * part / (1.0 + risk) for part, risk in zip(parts, GRID, strict=True)]) for parts in _parts())
    n = np.arange(most + 1)
    low, high = np.zeros_like(n), n + 1
    while np.any(low < high):
        middle = (low + high) // 2
        logs = middle[:, None] * up + (n - middle)[:, None] * down
        top = logs.max(axis=1)
        enough = top + np.log(np.exp(logs - top[:, None]).mean(axis=1)) >= math.log(2.0 / alpha)
        low, high = np.where(enough | (low == high), low, middle + 1), np.where(enough, middle, high)
    return high


def _parts() -> tuple[tuple[float, ...], tuple[float, ...]]:
    return GRID, (1.0,) * len(GRID)


NEEDED = wins_needed(400_000)


def decided(ahead: np.ndarray) -> tuple[int, int]:
    """Watch units in order, each 1 where b wins, -1 where a does; return (units until the decision, 1 if for b else -1) or 0, 0."""
    b, a = (ahead > 0).cumsum(), (ahead < 0).cumsum()
    needed = NEEDED[a + b]
    found = np.flatnonzero((b >= needed) | (a >= needed))
    return (int(found[0]) + 1, 1 if b[found[0]] >= needed[found[0]] else -1) if len(found) else (0, 0)


def alarms(steps: Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray]], runs: int = ALARM_RUNS) -> float:
    """The share of runs that decide anything at all; a run is each unit's events for a and for b, watched unit by unit."""
    draw = np.random.default_rng(SEED + 1)
    count = 0
    for _ in range(runs):
        a, b = (one.cumsum() for one in steps(draw))
        needed = NEEDED[a + b]
        count += bool(np.any((b >= needed) | (a >= needed)))
    return count / runs


def false_alarms() -> Table:
    """Equally good rankers, watched at every unit."""
    table = Table(
        "procedure", "one event each", "false alarms", title=f"A/A, watched {ALARM_UNITS} units long, {ALARM_RUNS} runs"
    )
    draw = np.random.default_rng(SEED)
    rankings = Rankings.of(EQUALS, draw, QUERIES // 2).mirrored()
    users = Users.of(draw, QUERIES)
    for name in STRATEGIES:
        pool = Pool.of(name, rankings, 4 * DRAFTS)
        ahead = np.diff(credits(pool, users, rankings.appeal, 0.0, draw), axis=0)[0]

        def steps(draw: np.random.Generator, ahead: np.ndarray = ahead) -> tuple[np.ndarray, np.ndarray]:
            some = ahead[draw.integers(len(ahead), size=ALARM_UNITS)]
            return some < 0, some > 0

        table.add_row(name, "user", f"{alarms(steps):.1%}")
        if name == "team_draft":
            _cached(table, pool, rankings, draw)
    table.add_row("A/B, clicks per user", "user", f"{_ab_alarms(users, rankings):.1%}")
    return table


def _cached(table: Table, pool: Pool, rankings: Rankings, draw: np.random.Generator) -> None:
    """Users who come back to the same page with the same teams and the same taste, judged in three ways."""
    users = Users.of(draw, QUERIES)
    first = np.unique(users.user, return_index=True)[1][users.user]
    users = Users(users.count, users.user, users.query[first], users.propensity, users.on, users.luck[first])
    which = draw.integers(pool.items.shape[1], size=len(first))[first]
    a, b = pool.earned(users, which, users.clicks(pool.items[users.query, which], rankings.appeal, 0.0))
    ways = {
        "user": [users.per_user(a) > users.per_user(b), users.per_user(b) > users.per_user(a)],
        "session": [users.per_user(a > b), users.per_user(b > a)],
        "click": [users.per_user(a), users.per_user(b)],
    }
    for event, (to_a, to_b) in ways.items():

        def steps(draw: np.random.Generator, to_a: np.ndarray = to_a, to_b: np.ndarray = to_b) -> tuple[np.ndarray, np.ndarray]:
            some = draw.integers(len(to_a), size=ALARM_UNITS)
            return to_a[some].astype(np.int64), to_b[some].astype(np.int64)

        table.add_row("team_draft, teams cached per user", event, f"{alarms(steps):.1%}")


def _ab_alarms(users: Users, rankings: Rankings) -> float:
    """Both arms get the stable ranker."""
    clicked = users.clicks(rankings.orders[0][users.query, :K], rankings.appeal, 0.0).sum(axis=1)
    arm = np.stack([users.per_user(clicked), users.per_user(np.ones(len(clicked)))], axis=1)
    return float(np.mean([stop != 0 for stop in ab_stops((arm, arm), 20_000, 40_000, "clicks per user")]))


def ab_stops(arms: tuple[np.ndarray, np.ndarray], n_opt: int, most: int, metric: str) -> list[int]:
    """Units (of both arms) after which an A/B test decides that the second is better, negative where it says worse, or 0.

    Arms are users' clicks and sessions [users, 2], drawn from with return; there are `LOOKS` looks up to `most` units.
    """
    draw = np.random.default_rng(SEED + 2)
    sequence = AsymptoticSequence(ALPHA, n_opt)
    step = max(20, most // (2 * LOOKS))
    cells = [np.unique(arm, axis=0, return_counts=True) for arm in arms]
    compare = mean_difference if metric == "clicks per user" else ratio_difference
    stops: list[int] = []
    for _ in range(POWER_RUNS):
        seen = [draw.multinomial(step, counts / counts.sum(), size=LOOKS).cumsum(axis=0) for _, counts in cells]
        sums = [many @ values for many, (values, _) in zip(seen, cells, strict=True)]
        products = [
            np.einsum("lc,ci,cj->lij", many, values, values, optimize=True)
            for many, (values, _) in zip(seen, cells, strict=True)
        ]
        stop = 0
        for look in range(LOOKS):
            n = step * (look + 1)
            difference = compare(*(Moments(n, sums[arm][look], products[arm][look]) for arm in (0, 1)))
            if difference is not None and sequence.log_e(difference) >= -math.log(ALPHA):
                stop = int(math.copysign(2 * n, difference.estimate))
                break
        stops.append(stop)
    return stops


def reached(stops: list[int]) -> tuple[float, float, float]:
    """Units by which half, and by which `POWER` of the runs found the truth (infinite if they never did), and the share wrong."""
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
    lift = clicked[1].mean() / clicked[0].mean() - 1.0
    deviation = math.sqrt((clicked[0].var() + clicked[1].var()) / 2.0)
    fixed = int(4.0 * (1.96 + 0.84) ** 2 * (deviation / (clicked[1].mean() - clicked[0].mean())) ** 2)
    arms = (np.stack([clicked[0], sessions], axis=1), np.stack([clicked[1], sessions], axis=1))
    ab: dict[str, tuple[float, float]] = {}
    for metric in ("clicks per user", "clicks per session"):
        median, enough, wrong = reached(ab_stops(arms, fixed, 8 * fixed, metric))
        ab[metric] = median, enough
        table.add_row(
            world.name if not ab.keys() - {metric} else "",
            f"{lift:+.1%}" if not ab.keys() - {metric} else "",
            f"A/B, {metric}", "", "", _count(median), _count(enough), f"{wrong:.1%}", "", "",
        )  # fmt: skip
    for name in STRATEGIES:
        ahead = np.diff(credits(Pool.of(name, rankings), users, rankings.appeal, world.leaves, draw), axis=0)[0]
        decisive, rate = float((ahead != 0).mean()), float((ahead > 0).sum() / (ahead != 0).sum())
        median, enough, wrong = reached(_duel_stops(np.sign(ahead).astype(np.int8), min(8 * fixed, 400_000)))
        ratios = [_ratio(ab[metric][1], enough) for metric in ab]
        table.add_row("", "", name, f"{decisive:.0%}", f"{rate:.1%}", _count(median), _count(enough), f"{wrong:.1%}", *ratios)
    table.add_section()


def _duel_stops(ahead: np.ndarray, most: int) -> list[int]:
    """Units after which interleaving decides for the second ranker, negative where for the first, or 0 by `most`."""
    draw = np.random.default_rng(SEED + 3)
    stops: list[int] = []
    for _ in range(POWER_RUNS):
        units, sign, upto = 0, 0, 2_000
        some = ahead[draw.integers(len(ahead), size=upto)]
        while not (units := (found := decided(some))[0]) and upto < most:
            some = np.concatenate([some, ahead[draw.integers(len(ahead), size=3 * upto)]])
            upto *= 4
        sign = found[1]
        stops.append(units * sign)
    return stops


def _count(units: float) -> str:
    return f"{units:,.0f}" if math.isfinite(units) else "never"


def _ratio(ab: float, duel: float) -> str:
    return f"{ab / duel:,.0f}" if math.isfinite(ab) and math.isfinite(duel) else "-"


def win_rates() -> Table:
    """Decisive units until the decision, by win rate alone."""
    table = Table("win rate", "median", f"{POWER:.0%} decided by", title=f"Decisive units until a decision, {POWER_RUNS} runs")
    for rate in (0.51, 0.52, 0.53, 0.55, 0.6, 0.7):
        draw = np.random.default_rng(SEED)
        ahead = np.where(draw.random(1_000_000) < rate, 1, -1).astype(np.int8)
        median, enough, _ = reached(_duel_stops(ahead, 128_000))
        table.add_row(f"{rate:.0%}", _count(median), _count(enough))
    return table


def constants() -> None:
    """Print everything that the figures depend on."""
    console.print(
        f"[bold]Interleaving.[/bold] alpha {ALPHA}; seed {SEED}; lists of {K} from {CANDIDATES} candidates, {QUERIES} queries, "
        f"{DRAFTS} drafts of each ({4 * DRAFTS} in A/A); {USERS:,} users, drawn from with return; runs {POWER_RUNS} ({ALARM_RUNS} "
        f"in A/A).\nUsers: 1 + Poisson(Gamma({SESSIONS_SHAPE}, mean {SESSIONS_MEAN})) sessions; position k is looked at with "
        f"probability {LOOKS_ON}^(k-1); a looked-at item is clicked on with its appeal times the user's propensity, "
        f"Gamma({PROPENSITY_SHAPE}, mean 1); appeal is logistic(Normal({APPEAL_MEAN}, {APPEAL_SD})).\nRankers: sort by log-odds of "
        f"appeal plus errors, the stable one's Normal(0, 1). Worlds (share of the stable errors kept, fresh errors' deviation, "
        f"chance to leave after a click): {'; '.join(f'{one.shrink}, {one.fresh}, {one.leaves}' for one in WORLDS)}.\nDuel: share "
        f"0.5, r0 1, grid {', '.join(f'{risk:.3g}' for risk in GRID)}, both directions at alpha/2, watched at every unit. A/B: "
        f"AsymptoticSequence, n_opt = units of a fixed-horizon test with 80 % power, {LOOKS} looks up to 8 n_opt (A/A: n_opt "
        f"20,000, looks up to 40,000)."
    )


def interleaving() -> None:
    """All figures of interleaving."""
    started = perf_counter()
    constants()
    agree = all((Duel(int(NEEDED[n]), n - int(NEEDED[n])).better() == Outcome.A) for n in (10, 100, 1_000, 10_000))
    if not agree:
        raise RuntimeError("the bench's thresholds are not those of Duel")
    console.print(win_rates())
    console.print(false_alarms())
    table = Table(
        "world", "lift in clicks", "procedure", "decisive", "win rate", "median units", f"units for {POWER:.0%}", "wrong",
        "times fewer than A/B", "than A/B per session", title=f"Units until the better ranker is found, {POWER_RUNS} runs",
    )  # fmt: skip
    for world in WORLDS:
        needed_units(world, table)
    console.print(table)
    console.print(f"[dim]{perf_counter() - started:.0f} s[/dim]")


if __name__ == "__main__":
    interleaving()
