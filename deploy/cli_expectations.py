"""The command about what features are expected to be."""

import time
from collections.abc import Sequence
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
from deploy.cli_words import moment
from deploy.client import Client
from store.expectations import Expectation

app = typer.Typer()
_PATIENCE_S = 5.0


@app.command()
def expectations(
    model: Model,
    file: Annotated[
        str | None, typer.Option(help="Expect this instead: what --json printed, edited; - is standard input.")
    ] = None,
    infer: Annotated[bool, typer.Option("--infer", help="Expect what the trainer infers; drops what was edited.")] = False,
    why: Why = "",
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a model's features are expected to be and what violated it, or change it."""
    with errors():
        if file is not None and infer:
            raise ValueError("--file and --infer: one of them")
        given = read_json_file(file) if file is not None else None
        with connected(home) as client:
            state = _changed(client, model, given, infer, why)
        print_json(state) if as_json else _show(state)


def _changed(client: Client, model: str, given: dict[str, Any] | None, infer: bool, why: str) -> dict[str, Any]:
    """Return the expectations after what was asked for."""
    if infer:
        state = client.infer_expectations(model, why)
        deadline = time.monotonic() + _PATIENCE_S
        while not state["rows"] and time.monotonic() < deadline:
            time.sleep(0.2)
            state = client.expectations(model)
        return state
    if given is None:
        return client.expectations(model)
    if not isinstance(given.get("expectations"), list):
        raise ValueError("--file: expected what --json prints, with 'expectations' as a list")
    # A file without a revision was written from nothing, and takes the place of whatever there is.
    revision = given["revision"] if "revision" in given else client.expectations(model)["revision"]
    return client.set_expectations(model, given["expectations"], revision, why)


def unexpected(replicas: Sequence[dict[str, Any]], model: str) -> str:
    """What violated expectations most often, on all replicas together, and how often; empty where nothing did."""
    counts: dict[str, int] = {}
    for replica in replicas:
        for one in replica["counters"].get("expectations", {}).get(model, {}).get("violated", ()):
            counts[one["feature"]] = counts.get(one["feature"], 0) + one["violations"]
    if not counts:
        return ""
    worst = max(counts, key=counts.__getitem__)
    more = f", and of {len(counts) - 1} more" if len(counts) > 1 else ""
    return f"{counts[worst]:,} of {worst}{more}"


def _show(state: dict[str, Any]) -> None:
    if not state["rows"] and state["origin"] == "inferred":
        return say(
            f"nothing is expected of the features of '{state['model']}' yet: "
            f"{state['profiled']:,} learned outcomes are known, and from 1,000 on its trainer infers"
        )
    origin = f"inferred from {state['rows']:,} outcomes" if state["origin"] == "inferred" else f"edited by {state['who']}"
    say(f"revision {state['revision']}, {origin}, {moment(state['at'])}")
    violated = {(one["feature"], one["kind"]): one for one in state["violated"]}
    rows = [_row(one, violated.get((one["feature"], one["kind"]))) for one in state["expectations"]]
    out.print(table(("feature", "expected", "else", "violations", "such as", "last"), rows))


def _row(one: dict[str, Any], violated: dict[str, Any] | None) -> tuple[str, ...]:
    expected = Expectation.model_validate(one)
    seen = (f"{violated['violations']:,}", violated["example"], moment(violated["last_seen"])) if violated else ("0", "", "")
    return expected.feature, expected.words(), expected.action, *seen
