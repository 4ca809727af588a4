"""What it is worth to retrain more often, and to go on instead of beginning anew: the flights, lived through at every cadence.

What `tidemill freshness` does, over what a platform learned. It takes hours, most of them for the daily stateless models, and
goes on where it was cut short.
"""

from pathlib import Path

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from tests.bench.logged import KEPT, replayed
from tests.bench.verdict import Verdict, say
from tuning.arm import Arm
from tuning.comparison import Result
from tuning.freshness import carry_out, planned
from tuning.report import figures, pair_figures, write_freshness

CPUS, TIMES = 2, 45.0
PAGE = "freshness.html"
console = Console(width=140)


def cadence_figures(until: str, folder: Path = KEPT) -> None:
    """Carry all of it out; print the table of quality against processor seconds, and of stateful against stateless."""
    place = folder / f"cadences-{until}"
    replay = replayed(until, folder)
    columns = TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console) as progress:
        plan = planned(replay, place)
        tasks = {arm: progress.add_task(arm.name) for arm in plan.arms}

        def told(done: dict[Arm, tuple[int, int]]) -> None:
            for arm, (steps, of) in done.items():
                progress.update(tasks[arm], completed=steps, total=of)

        result = carry_out(plan, place, CPUS, resume=True, told=told)
    write_freshness(place / PAGE, result)
    _show(result)
    console.print(f"page: {place / PAGE}")


def _show(result: Result) -> None:
    table = Table("model made", "steps", "processor seconds", "outcomes", result.loss_name, "AUC", "against never")
    for arm in result.arms:
        table.add_row(*figures(arm))
    console.print(table)
    pairs = Table("cadence", "stateless costs", "updates alone", f"{result.loss_name}, stateful less stateless", "over")
    for pair in result.pairs:
        pairs.add_row(*pair_figures(pair))
    console.print(pairs)
    console.print(
        f"{result.predictions:,} predictions; stateless ones go {result.passes} times through {result.window_days:g} days"
    )
    for pair in result.pairs:
        say(
            Verdict(f"{pair.cadence}: how many times less stateful costs", pair.cost_ratio, "over", TIMES),
            Verdict("its loss above stateless", pair.loss.mean, "under", 0.0),
        )
