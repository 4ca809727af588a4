"""`tidemill tune`: a better way to learn is looked for, over what was logged, beside what is served."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.live import Live
from rich.text import Text

from deploy.cli_retrain import moment
from deploy.cli_terminal import (
    HomeOption,
    JsonOption,
    Model,
    configured,
    err,
    errors,
    import_from_here,
    out,
    print_json,
    refuse_without,
    say,
    table,
)
from deploy.home import Home
from tuning.plan import SearchPlan

if TYPE_CHECKING:
    from deploy.tuning import Tuning
    from tuning.result import Result, Tried

app = typer.Typer()
_SHOWN = 10


@app.command()
def tune(
    context: typer.Context,
    model: Model,
    trials: Annotated[int, typer.Option(min=1, help="How many ways to learn are tried.")] = 32,
    search: Annotated[
        Literal["random", "optuna"],
        typer.Option(help="How they are chosen."),
    ] = "random",
    asha: Annotated[bool, typer.Option("--asha/--no-asha", help="Stop early what falls behind.")] = True,
    since: Annotated[str | None, typer.Option(help="Learn what was labelled from then on, such as 2026-03-01 (UTC).")] = None,
    until: Annotated[str | None, typer.Option(help="Learn what was labelled before then.")] = None,
    holdout: Annotated[float, typer.Option(min=0.01, max=0.9, help="Share of it, the last, that no trial sees.")] = 0.25,
    minutes: Annotated[float | None, typer.Option(min=0.1, help="After which no more is learned.")] = None,
    cpus: Annotated[int, typer.Option(min=1, help="How many trials run at a time.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Of what is chosen.")] = 0,
    line: Annotated[str, typer.Option(help="Whose newest version the winner becomes.")] = "tuned",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the newest search that has not ended.")] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Look for a better way to learn: each is scored on every outcome before it learns it, as in production."""
    with errors():
        settings = configured(home=home)
        url = Home(settings.home).expect().redis_url
        import_from_here()
        from deploy import tuning  # noqa: PLC0415 - what it needs is slow to import

        if resume:
            refuse_without(context, "a new search: --resume goes on as it was begun", "resume")
            folder = tuning.unfinished(settings, model)
        else:
            plan = SearchPlan(
                model=model, source="", trials=trials, search=search, asha=asha, cpus=cpus, minutes=minutes, seed=seed,
                holdout=holdout, line=line,
            )  # fmt: skip
            folder = tuning.begun(settings, url, plan, moment(since, "--since"), moment(until, "--until"))
        try:
            with _showing(as_json) as show:
                found = tuning.tune(settings, url, folder, show.tell)
        except KeyboardInterrupt:
            err.print(Text(f"interrupted: 'tidemill tune {model} --resume' goes on from the rungs that were learned"))
            raise
        if as_json:
            return print_json({"folder": str(found.folder), **found.result.model_dump(mode="json")})
        return _said(found)


class _Show:
    """The best so far, as a table that is drawn anew with every rung."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._tried: dict[int, Tried] = {}

    def tell(self, one: "Tried") -> None:
        self._tried[one.trial] = one
        best = sorted(self._tried.values(), key=lambda tried: (-len(tried.rungs), tried.loss))[:_SHOWN]
        rungs = sum(len(tried.rungs) for tried in self._tried.values())
        title = f"{len(self._tried)} trials begun, {rungs} rungs learned; best so far:"
        self._live.update(table(("trial", "batches", "progressive loss", "settings"), map(_row, best), title), refresh=True)


@contextmanager
def _showing(quiet: bool) -> Generator[_Show]:
    with Live(console=Console(quiet=True) if quiet else err, transient=True, auto_refresh=False) as live:
        yield _Show(live)


def _row(one: "Tried") -> tuple[str, str, str, str]:
    return str(one.trial), f"{one.rungs[-1].batches:,}", f"{one.loss:.4f}", one.words


def _said(found: "Tuning") -> None:
    result = found.result
    rows = [
        (
            *_row(one.tried)[:3],
            f"{one.cost.parameters:,}" if one.cost else "",
            f"{one.cost.latency_s * 1e6:.0f}" if one.cost else "",
            "yes" if one.front else "",
            one.tried.words,
        )
        for one in result.leaderboard[:_SHOWN]
    ]
    columns = ("trial", "batches", "progressive loss", "parameters", "µs a row", "front", "settings")
    out.print(table(columns, rows, f"{len(result.leaderboard)} trials; as declared: {result.production.loss:.4f}"))
    for why in result.failed:
        err.print("[red]failed:[/red]", Text(why))
    if result.importance:
        say("what mattered: " + ", ".join(f"{name} {share:.0%}" for name, share in list(result.importance.items())[:5]))
    held = result.heldout
    losses = f"progressive loss {held.winner:.4f}, as declared {held.production:.4f}"
    say(f"on {held.judged:,} outcomes that no trial has seen: {losses}")
    say(_advice(result) if result.better else f"published as version {result.version} on line {result.plan.line}, as a record")
    if not result.better:
        err.print("[red]nothing to adopt:[/red]", "the winner does not beat the declared way on what no trial has seen")
    say(f"{found.folder} has result.json, tuning.html to look at, and the way to learn in way.json")


def _advice(result: "Result") -> str:
    name, number = result.plan.model, result.version
    return (
        f"published as version {number} on line {result.plan.line}. It answers nobody until "
        f"'tidemill promote {name} {number} --why REASON', or an experiment tries it"
    )
