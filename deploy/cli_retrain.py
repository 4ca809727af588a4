"""`tidemill retrain`: learn now from what came last, or anew from a window of the archive."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.progress import Progress

from deploy.cli_terminal import (
    HomeOption,
    JsonOption,
    Model,
    configured,
    connected,
    err,
    errors,
    import_from_here,
    print_json,
    refuse_without,
    say,
)
from deploy.home import Home

if TYPE_CHECKING:
    from deploy.retraining import Retrained

app = typer.Typer()

_ARCHIVE = "With --from-archive:"


@app.command()
def retrain(
    context: typer.Context,
    model: Model,
    wait_s: Annotated[float, typer.Option("--wait", help="Seconds to wait until every replica has it; 0: do not.")] = 30.0,
    from_archive: Annotated[
        bool, typer.Option("--from-archive", help="Learn a window of the archive anew, to a version of a line of its own.")
    ] = False,
    since: Annotated[str | None, typer.Option(help=f"{_ARCHIVE} predictions from then on, such as 2026-03-01 (UTC).")] = None,
    until: Annotated[str | None, typer.Option(help=f"{_ARCHIVE} predictions before then.")] = None,
    from_version: Annotated[int | None, typer.Option(min=1, help=f"{_ARCHIVE} begin with this version's weights.")] = None,
    scratch: Annotated[bool, typer.Option("--scratch", help=f"{_ARCHIVE} begin with none; the default.")] = False,
    passes: Annotated[int, typer.Option(min=1, help=f"{_ARCHIVE} how often to go through the window.")] = 1,
    workers: Annotated[int, typer.Option(min=1, help=f"{_ARCHIVE} processes that share the work.")] = 1,
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help=f"{_ARCHIVE} where to learn.")] = "cpu",
    line: Annotated[str, typer.Option(help=f"{_ARCHIVE} whose newest version it becomes.")] = "retrained",
    archive: Annotated[Path | None, typer.Option(help=f"{_ARCHIVE} where it is [TIDEMILL_ARCHIVE].")] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Learn now from every label that has come so far; or, with --from-archive, anew, beside what is served."""
    with errors():
        if not from_archive:
            refuse_without(context, "--from-archive", "wait_s")
            return _now(model, wait_s, home, as_json)
        if scratch and from_version is not None:
            raise ValueError("--scratch begins with no version: leave --from-version out, or --scratch")
        begin, end = moment(since, "--since"), moment(until, "--until")
        settings = configured(home=home, archive=archive)
        url = Home(settings.home).expect().redis_url
        import_from_here()
        from deploy.retraining import retrain as learn_anew  # noqa: PLC0415 - what it needs is slow to import

        with Progress(console=err, transient=True, disable=as_json) as progress:
            task = progress.add_task("retraining", total=None)
            found = learn_anew(
                settings, url, model, lambda done, of: progress.update(task, completed=done, total=of),
                since=begin, until=end, parent=from_version or 0,
                passes=passes, workers=workers, device=device, line=line,
            )  # fmt: skip
        return print_json(found.as_json()) if as_json else say(_words(found))


def _now(model: str, wait_s: float, home: Path | None, as_json: bool) -> None:
    with connected(home) as client:
        answer = client.retrain(model, wait_s)
        if as_json:
            return print_json(answer)
        version = f" version {answer['version']}" if answer["verdict"] == "published" else ""
        return say(f"{answer['verdict']}{version} ({answer.get('outcomes', 0)} outcomes)")


def moment(text: str | None, option: str) -> datetime | None:
    """Return the time that an option names, in UTC if it says nothing else; raises ValueError."""
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{option} {text[:40]}: write a day or a time, such as 2026-03-01 or 2026-03-01T12:00") from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _words(found: "Retrained") -> str:
    version = found.version
    how = "is the same as" if found.before else "published as"
    refused = f"; {found.refusals:,} batches were taken back: {found.refused}" if found.refusals else ""
    return (
        f"{how} version {version.number} on line {version.line}: {version.outcomes:,} outcomes, progressive loss "
        f"{version.metrics['loss']:.4f}{refused}. It answers nobody until 'tidemill promote {version.model} {version.number}', "
        "or an experiment tries it"
    )
