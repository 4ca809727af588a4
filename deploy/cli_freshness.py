"""`tidemill freshness`: what it is worth to retrain more often, and to go on instead of beginning anew, by the archive."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

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
    say,
    table,
)
from deploy.home import Home

if TYPE_CHECKING:
    from tuning.comparison import Result

app = typer.Typer()


@app.command()
def freshness(
    model: Model,
    since: Annotated[str | None, typer.Option(help="What was learned from then on, such as 2026-03-01 (UTC).")] = None,
    until: Annotated[str | None, typer.Option(help="What was learned before then.")] = None,
    window_days: Annotated[
        float, typer.Option("--window", min=0.0, help="Days of the first window, which stateless ones trail.")
    ] = 30.0,
    cadence: Annotated[list[str] | None, typer.Option(help="Only this one; may be given several times.")] = None,
    passes: Annotated[
        int, typer.Option(min=0, help="Of stateless ones over their window; 0: found by a search on the first.")
    ] = 0,
    cpus: Annotated[int, typer.Option(min=1, help="Processes to use, of low priority.")] = 1,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was cut short.")] = False,
    folder: Annotated[Path | None, typer.Option(help="Where results are kept, if not in the home.")] = None,
    archive: Annotated[Path | None, typer.Option(help="Where the archive is [TIDEMILL_ARCHIVE].")] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Replay the archive with models of every cadence, stateful and stateless: quality against compute."""
    with errors():
        given: dict[str, Any] = {"window_days": window_days, "passes": passes}
        if cadence:
            given["cadences"] = tuple(cadence)
        begin, end = moment(since, "--since"), moment(until, "--until")
        settings = configured(home=home, archive=archive)
        url = Home(settings.home).expect().redis_url
        place = (folder or settings.home / "freshness" / model).absolute()
        import_from_here()
        from deploy.freshness import freshness as measured  # noqa: PLC0415 - what it needs is slow to import

        with _progress(as_json) as progress:
            tasks: dict[str, Any] = {}

            def told(name: str, done: int, of: int) -> None:
                if name not in tasks:
                    tasks[name] = progress.add_task(name, total=of)
                progress.update(tasks[name], completed=done)

            result = measured(
                settings, url, model, folder=place, since=begin, until=end, cpus=cpus, resume=resume, told=told, **given
            )
        return print_json(result.model_dump(mode="json")) if as_json else _show(result, place)


def _progress(quiet: bool) -> Progress:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    return Progress(*columns, console=err, transient=True, disable=quiet)


def _show(result: "Result", place: Path) -> None:
    from tuning.report import figures, pair_figures  # noqa: PLC0415 - slow to import

    head = ("model made", "steps", "processor seconds", "outcomes", result.loss_name, "AUC", "against never")
    out.print(table(head, [figures(one) for one in result.arms]))
    pairs = ("cadence", "stateless costs", "updates alone", f"{result.loss_name}, stateful less stateless", "over")
    if result.pairs:
        out.print(table(pairs, [pair_figures(one) for one in result.pairs]))
    say(f"{result.predictions:,} predictions, each by the model that was current; {place / 'freshness.html'} shows them")
