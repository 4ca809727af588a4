"""What a search finds on two months of flights, and what it is worth in the month after, which no trial has seen.

A platform replays three months, and what it logged is what is searched. Each way of searching gets the same compute: as many
micro-batches to learn as random search with early stopping took.
"""

import shutil
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter

from rich.console import Console
from rich.table import Table

from deploy.demo import MODEL, SPEC
from deploy.tuning import tried
from store.shape import Shape
from store.spec import Learning, ModelSpec, load_spec
from tests.bench.logged import KEPT, at, replayed
from tests.bench.verdict import Verdict, say
from tuning.outcome import concluded
from tuning.plan import SearchPlan
from tuning.replay import Replay, learn
from tuning.result import Result, Searched
from tuning.trial import REPLAY, TRIALS, Trial

UNTIL, UNSEEN = "2013-03-31", datetime(2013, 3, 1, 5, tzinfo=UTC)
TRIALS_ASKED, CPUS, BOUND_S = 32, 2, 600.0
console = Console(width=140)


def tuning_figures(folder: Path = KEPT) -> None:
    """Search two months in four ways; print what each came to in the third."""
    replay, spec = replayed(UNTIL, folder), load_spec(SPEC)
    seen = replay.before(UNSEEN.timestamp())
    plan = SearchPlan(
        model=MODEL, source=SPEC, trials=TRIALS_ASKED, cpus=CPUS, holdout=1 - (seen + 0.5) / len(replay)
    )  # fmt: skip
    assert plan.seen(len(replay)) == seen
    table = Table(
        "search", "trials", "to the end", "micro-batches", "seconds", "progressive loss", "in the month after",
        title=f"Two months of flights, {sum(one.outcomes for one in replay.batches[:seen]):,} outcomes; then one unseen",
    )  # fmt: skip
    stopped, took = _searched(plan, spec, folder)
    _row(table, "random, ASHA", stopped, took)
    fair = plan.model_copy(update={"trials": max(1, round(_learned(stopped) / seen)), "asha": False})
    _row(table, "random", *_searched(fair, spec, folder))
    _row(table, "Optuna, ASHA", *_searched(plan.model_copy(update={"search": "optuna"}), spec, folder))
    _row(table, "Optuna", *_searched(fair.model_copy(update={"search": "optuna"}), spec, folder))
    held = stopped.heldout
    table.add_row("as the example has it", "", "", f"{seen:,}", "", f"{stopped.production.loss:.4f}", f"{held.production:.4f}")
    default = _default(replay, spec, seen, folder)
    table.add_row("as any model learns by default", "", "", f"{seen:,}", "", *(f"{loss:.4f}" for loss in default))
    console.print(table)
    console.print(f"the winner of random search with ASHA: {stopped.winner.words}")
    say(
        Verdict(f"seconds of {TRIALS_ASKED} trials with ASHA", took, "under", BOUND_S),
        Verdict("winner's loss in the month after, over the default's", held.winner / default[1], "under", 1.0),
        Verdict("the same, over the example's", held.winner / held.production, "under", 1.0),
    )


def _searched(plan: SearchPlan, spec: ModelSpec, folder: Path) -> tuple[Result, float]:
    """Return what came of a search, and the seconds that its trials took."""
    place = folder / "search"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    shutil.copy(at(folder, UNTIL), place / REPLAY)
    # A process knows the token of one Ray only.
    with ProcessPoolExecutor(1, get_context("spawn")) as apart:
        started = perf_counter()
        found = apart.submit(_tried, plan, place).result()
        took = perf_counter() - started
    return concluded(plan, spec, found, place)[0], took


def _tried(plan: SearchPlan, place: Path) -> Searched:
    return tried(plan, load_spec(plan.source), place)


def _learned(result: Result) -> int:
    """Micro-batches, of all trials together."""
    return sum(one.tried.rungs[-1].batches for one in result.leaderboard)


def _row(table: Table, name: str, result: Result, took: float) -> None:
    ended = sum(len(one.tried.rungs) == len(result.rungs) for one in result.leaderboard)
    table.add_row(
        name, str(len(result.leaderboard)), str(ended), f"{_learned(result):,}", f"{took:.0f}", f"{result.winner.loss:.4f}",
        f"{result.heldout.winner:.4f}",
    )  # fmt: skip


def _default(replay: Replay, spec: ModelSpec, seen: int, folder: Path) -> Sequence[float]:
    """Progressive losses, of what is searched and of the month after, of the defaults of `Learning` and `Shape`."""
    shutil.rmtree(folder / TRIALS, ignore_errors=True)
    (folder / TRIALS).mkdir()
    trial = Trial(replace(spec, learning=Learning(), shape=Shape(), search=None), replay, {}, folder / TRIALS)
    first = trial.climb(seen).loss
    return first, learn(trial.learner(), replay, range(seen, len(replay))).mean
