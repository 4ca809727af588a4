"""`tidemill line`: learners beside main on the same stream, each with a way of learning of its own."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer

from deploy.cli_terminal import (
    HomeOption,
    JsonOption,
    Model,
    Why,
    connected,
    errors,
    out,
    print_json,
    read_json_file,
    say,
    table,
)
from deploy.cli_words import duration
from deploy.client import Client
from router.evolution import Competitor, Takeover, takeover
from store.shape import Shape

line_app = typer.Typer(no_args_is_help=True, help="Try ways of learning beside main, on the same stream.")

LineName = Annotated[str, typer.Argument(help="The line's name.")]
Force = Annotated[bool, typer.Option("--force", help="Though its gates do not let it through; needs a --why.")]

_PARTS = ("learning", "shape")


@line_app.command("add")
def add(
    model: Model,
    name: LineName,
    learning: Annotated[
        str | None,
        typer.Option(help="A file of settings of learning as JSON, or of both {learning, shape}; - is standard input."),
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="A setting in place of main's, such as learning_rate=0.005; repeatable.")
    ] = None,
    start: Annotated[
        str, typer.Option("--from", help="What it begins with: main, another line, a version's number, or scratch.")
    ] = "main",
    instead: Annotated[bool, typer.Option("--instead", help="In place of the active line of this name.")] = False,
    why: Why = "",
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let a line learn beside main, in a way of its own."""
    with errors():
        way = _way(read_json_file(learning) if learning is not None else {}, settings or ())
        with connected(home) as client:
            wanted = {"name": name, "start": start, "why": why, **way} | ({"instead": True} if instead else {})
            added = client.add_line(model, wanted)
        if as_json:
            return print_json(added)
        say(f"line '{name}' begins with {_words(added['start'])}: {_told(added['settings'])}")
        say(f'\'tidemill line list {model}\' says how far it is; a variant with "line": "{name}" answers by it')


@line_app.command("list")
def list_lines(model: Model, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Show the lines that learn beside main, how they do, and those that ended."""
    with errors(), connected(home) as client:
        found = client.lines(model)
        if as_json:
            return print_json(found)
        say(f"main learns as line '{found['main']['line']}' did" if found["main"]["line"] else "main learns as it is declared")
        columns = (
            "line",
            "status",
            "from",
            "unlike main",
            "version",
            "progressive loss",
            "main's",
            "difference",
            "over outcomes",
        )
        out.print(table(columns, map(_row, found["lines"])))


@line_app.command("retire")
def retire(model: Model, name: LineName, why: Why = "", home: HomeOption = None, as_json: JsonOption = False) -> None:
    """End a line; its versions stay."""
    with errors(), connected(home) as client:
        found = client.end_line(model, name, "retire", why)
        print_json(found) if as_json else say(f"line '{name}' is retired")


@line_app.command("promote")
def promote(
    model: Model, name: LineName, why: Why = "", force: Force = False, home: HomeOption = None, as_json: JsonOption = False
) -> None:
    """Make a line main: its way of learning and its whole state."""
    with errors(), connected(home) as client:
        found = client.end_line(model, name, "promote", why, force=force)
        print_json(found) if as_json else say(f"line '{name}' is main now, as version {found['version']}")


@line_app.command("evolve")
def evolve(
    model: Model,
    every: Annotated[
        float | None, typer.Option(min=1.0, help="Again and again, after so many seconds; without it, once.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of how settings are changed.")] = 0,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let the worst line take over the best one's state, and go on in its way with settings changed by chance."""
    with errors(), connected(home) as client:
        while True:
            step = _evolved(client, model, seed)
            print_json(asdict(step) if step else None) if as_json else say(_stepped(step))
            if every is None:
                return
            time.sleep(every)


def _stepped(step: Takeover | None) -> str:
    return f"line '{step.loser}' begins anew with {step.winner}: {step.why}" if step else "no line is worse than another yet"


def _evolved(client: Client, model: str, seed: int) -> Takeover | None:
    found = client.lines(model)
    main = Competitor("main", found["main"]["learning"], found["main"]["shape"])
    lines = [
        Competitor(
            line["name"], line["way"]["learning"], line["way"]["shape"], line["compared"]["difference"],
            line["compared"]["micro_batches"], line["born"],
        )
        for line in found["lines"] if line["status"] == "active" and line["compared"]
    ]  # fmt: skip
    step = takeover(main, lines, seed)
    if step is not None:
        way = {"learning": step.learning, "shape": step.shape}
        client.add_line(
            model, {"name": step.loser, "start": step.winner, "instead": True, "why": f"evolution: {step.why}", **way}
        )
    return step


def newest(models: Mapping[str, Any]) -> Iterator[str]:
    """What the platform's status says of lines."""
    for name, model in models.items():
        if model["way"]:
            yield f"{name}: main learns as line '{model['way']}' did, whatever is declared"
        for line in model["lines"]:
            yield f"{name}: line '{line['name']}' {_state(line)}"


def _way(given: dict[str, Any], settings: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the settings of learning and of the shape; raises ValueError."""
    way: dict[str, dict[str, Any]] = (
        {part: dict(given.get(part, {})) for part in _PARTS}
        if given.keys() and given.keys() <= set(_PARTS)
        else {"learning": dict(given), "shape": {}}
    )
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise ValueError(f"--set {setting[:80]}: write it as name=value, such as learning_rate=0.005")
        way["shape" if key in Shape.model_fields else "learning"][key] = _value(key, text)
    return way


def _value(key: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        # An optimiser, a rate or a loss is said by its kind alone.
        return {"kind": text} if key in ("optimiser", "rate", "loss", "sampling", "replay") else text


def _row(line: dict[str, Any]) -> tuple[str, ...]:
    found = line["compared"]
    state = line["status"] if line["status"] != "active" else _state(line)
    told = (
        (f"{found['loss']:.4f}", f"{found['main_loss']:.4f}", _difference(found), f"{found['outcomes']:,}")
        if found
        else ("",) * 4
    )
    return line["name"], state, _words(line["start"]), _told(line["settings"]), str(line.get("version") or ""), *told


def _difference(found: Mapping[str, Any]) -> str:
    between = f" ({found['low']:+.4f} to {found['high']:+.4f})" if found["low"] is not None else ""
    return f"{found['difference']:+.4f}{between}"


def _state(line: Mapping[str, Any]) -> str:
    if not line["begun"]:
        return "starts"
    behind = f", {duration(line['behind_s'])} behind main" if line["behind_s"] >= 1.0 else ""
    return ("learns" if line["caught_up"] else "catches up") + behind


def _told(settings: Mapping[str, Any]) -> str:
    said = ((name, value["kind"] if isinstance(value, dict) and "kind" in value else value) for name, value in settings.items())
    return ", ".join(f"{name} {value}" for name, value in said) or "nothing"


def _words(start: str) -> str:
    return f"version {start}" if start.isdecimal() else start
