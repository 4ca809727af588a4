"""What a model's trainer found of drift."""

from collections.abc import Iterator
from typing import Any

import typer

from deploy.cli_terminal import HomeOption, JsonOption, Model, connected, errors, out, print_json, say, table
from deploy.cli_words import number
from store.drift import moment, summary

app = typer.Typer()

_COLUMNS = (
    "found",
    "kind",
    "window",
    "since",
    "outcome",
    "what moved",
    "before",
    "after",
    "distance",
    "p",
    "most in",
    "answered by",
)


@app.command()
def drift(model: Model, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Show what is no longer as it was: what moved, since when, how much, in which slices."""
    with errors(), connected(home) as client:
        found = client.drift(model)
        if as_json:
            return print_json(found)
        if not found["watched"]:
            return say(f"model {model} is not watched for drift: its ModelSpec has no drift=Drift(…)")
        if found.get("alarms"):
            out.print(table(_COLUMNS, (row for alarm in found["alarms"] for row in _rows(alarm))))
        for line in _lines(found):
            say(line)


def newest(models: dict[str, Any]) -> Iterator[str]:
    """The newest alarm of each model, in words, of what the status says of them."""
    for name, model in models.items():
        for alarm in model["learner"].get("drift", {}).get("alarms", ())[:1]:
            yield f"{name}: {summary(alarm)} See 'tidemill drift {name}'."


def _rows(alarm: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """A row for each thing that moved; what is said of all of them stands in the first."""
    since = alarm["since"]
    head = (moment(alarm["found"]["at"]), alarm["kind"], alarm["window"], moment(since["at"]), f"{since['outcome']:,}")
    for place, one in enumerate(alarm["moved"]):
        what = one["what"] + (f" = {one['value']}" if one["value"] else "")
        slices = "\n".join(f"{part['slice']} {part['value']} ({part['effect']:.2f})" for part in one["slices"])
        numbers = (number(one["before"]), number(one["after"]), f"{one['effect']:.3f}", number(one["p"], 2))
        answers = ", ".join(alarm["responses"]) if place == 0 else ""
        yield *(head if place == 0 else ("",) * len(head)), what, *numbers, slices, answers


def _lines(found: dict[str, Any]) -> Iterator[str]:
    """How far the watching is, and what it asks for."""
    if "outcomes" not in found:
        yield "its trainer has not learned anything since it is watched"
        return
    counts = ", ".join(f"{count} {kind}" for kind, count in found["counts"].items())
    compared = f"{found['compared']} of {found['columns']} distributions have a reference"
    yield f"{found['outcomes']:,} outcomes watched, {compared}; alarms so far: {counts or 'none'}"
    for name, why in found["off"].items():
        yield f"switched off: {name}: {why}"
    if found["faster"]:
        yield f"the learning rate is raised for {found['faster']} more micro-batches"
    if wanted := found["retrain"]:
        version = wanted.get("version")
        done = f"done, as version {version}, which answers nobody until it is promoted" if version else "not done yet"
        yield f"asked for: retraining on what came since {moment(wanted['at'])} (log position {wanted['log_position']}): {done}"
