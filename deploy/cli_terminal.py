"""What all commands share: the consoles, the options, the platform that is talked to, and how an error is said."""

import getpass
import json
import os
import sys
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from deploy.client import ApiError, Client
from deploy.home import AlreadyRunning, Home, NotRunning
from deploy.settings import Elsewhere, Settings
from store.errors import StoreError
from trainer.errors import TrainerError
from tuning.errors import TuningError

out, err = Console(emoji=False), Console(stderr=True, emoji=False)

HomeOption = Annotated[Path | None, typer.Option("--home", help="Where the platform keeps its data [TIDEMILL_HOME].")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
Model = Annotated[str, typer.Argument(help="The model's name.")]
Name = Annotated[str, typer.Argument(help="The experiment's name.")]
Why = Annotated[str, typer.Option(help="The reason; it goes on record.")]


def configured(**given: Any) -> Settings:
    return Settings(**{name: value for name, value in given.items() if value is not None})


@contextmanager
def connected(home: Path | None) -> Generator[Client]:
    """A client of the platform in TIDEMILL_URL, or else of the one that runs in this home; it says who asks."""
    url, token = _reached(home)
    with Client(url, token, operator=_user()) as client:
        yield client


def _reached(home: Path | None) -> tuple[str, str]:
    """Return a platform's URL and its operators' token. A home that is named goes before what the environment says."""
    elsewhere = Elsewhere()
    if elsewhere.url and home is None:
        return elsewhere.url, elsewhere.token
    place = Home(configured(home=home).home)
    return place.expect().url, place.token()


@contextmanager
def errors() -> Generator[None]:
    """Print what went wrong in one sentence; anything unforeseen keeps its trace."""
    try:
        yield
    except typer.Exit:
        raise
    except (
        ApiError,
        AlreadyRunning,
        NotRunning,
        StoreError,
        TrainerError,
        TuningError,
        OSError,
        ValueError,
        RuntimeError,
    ) as error:
        if type(error) is RuntimeError:
            raise
        err.print("[red]error:[/red]", Text(str(error)), soft_wrap=True, highlight=False)
        raise typer.Exit(1) from None


def import_from_here() -> None:
    """Let users' modules be imported from where the command is called, as the platform imports them from where it started."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())


def say(text: str) -> None:
    """Print words that may hold anything: what looks like markup is not."""
    out.print(Text(text), soft_wrap=True)


def table(columns: Iterable[str], rows: Iterable[Iterable[str | Text]], title: str = "") -> Table:
    """Return a table of plain words."""
    made = Table(*columns, title=title or None, title_justify="left", title_style="bold")
    for row in rows:
        made.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in row))
    return made


def read_json(text: str) -> Any:
    """Return the object that a text holds, or with `-` standard input.

    Raises:
        ValueError: it is no JSON object.
    """
    source = sys.stdin.read() if text == "-" else text
    try:
        parsed = json.loads(source)
    except ValueError as error:
        raise ValueError(f"not JSON: {error}") from None
    if not isinstance(parsed, dict):
        raise ValueError("expected a JSON object")
    return parsed


def read_json_file(file: str) -> Any:
    return read_json("-" if file == "-" else Path(file).read_text())


def refuse_beside_file(context: typer.Context, *kept: str) -> None:
    """Refuse options that a file already says.

    Raises:
        ValueError: one was given that is not of `kept`.
    """
    for name in context.params:
        source = context.get_parameter_source(name)
        if name not in ("file", "model", "home", "as_json", *kept) and source is not None and source.name == "COMMANDLINE":
            raise ValueError(f"--file says everything: leave --{name.replace('_', '-')} out")


def refuse_without(context: typer.Context, option: str, *kept: str) -> None:
    """Refuse options that mean nothing without another one.

    Raises:
        ValueError: one was given that is not of `kept`.
    """
    for name in context.params:
        source = context.get_parameter_source(name)
        if name not in ("model", "home", "as_json", *kept) and source is not None and source.name == "COMMANDLINE":
            raise ValueError(f"--{name.replace('_', '-')} means nothing without {option}")


def print_json(content: Any) -> None:
    print(json.dumps(content, indent=2))


def _user() -> str:
    """Who the record of decisions is to name, as far as the system knows; headers are ASCII."""
    try:
        return getpass.getuser().encode("ascii", "replace").decode()
    except (KeyError, OSError):  # a container whose user has no name
        return ""
