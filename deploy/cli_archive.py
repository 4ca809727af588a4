"""What is archived of a model."""

from pathlib import Path
from typing import Annotated

import typer

from deploy.cli_terminal import HomeOption, JsonOption, Model, configured, errors, out, print_json, say, table

app = typer.Typer()


@app.command()
def archive(
    model: Model,
    folder: Annotated[Path | None, typer.Option(help="Where the archive is, if not in the home [TIDEMILL_ARCHIVE].")] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show which outcomes are kept for good, by the day of their predictions."""
    from store.archived import days  # noqa: PLC0415 - slow to import, and no other command needs it

    with errors():
        place = configured(home=home, archive=folder).archive_folder
        found = days(place, model)
        if as_json:
            return print_json({"folder": str(place), "days": [day._asdict() for day in found]})
        if not found:
            return say(f"nothing of model {model} is archived in {place} yet: a file is written of what came in ten minutes")
        rows = [(day.day, f"{day.outcomes:,}", str(day.files), f"{day.bytes / 2**20:.1f}") for day in found]
        out.print(table(("day", "outcomes", "files", "MiB"), rows))
        return say(f"{sum(day.outcomes for day in found):,} outcomes in {place / f'model={model}'}")
