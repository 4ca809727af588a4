"""Commands on models as a whole: add one to a running platform, remove one, list them."""

import time
from typing import Annotated, Any

import typer
from rich.table import Table

from deploy.cli_terminal import HomeOption, JsonOption, Model, Why, connected, err, errors, out, print_json, say, table
from deploy.cli_words import moment
from deploy.client import Client

model_app = typer.Typer(no_args_is_help=True, help="Models of a running platform: add, remove, list.")

_LOOK_S = 0.2


@model_app.command("add")
def add(
    spec: Annotated[str, typer.Argument(help="A ModelSpec as package.module:attribute, or the name of a removed model.")],
    why: Why = "",
    wait_s: Annotated[float, typer.Option("--wait", help="Seconds to wait until it answers; 0: do not.")] = 120.0,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add a model: its module is imported, a trainer starts, and replicas serve it from its first version on."""
    with errors(), connected(home) as client:
        added = client.add_model(spec, why=why) if ":" in spec else client.add_model(model=spec, why=why)
        if wait_s > 0:
            if not as_json:
                what = "replicas" if added["version"] else "the first version"
                err.print(f"[dim]waiting for {what}[/dim]")
            added = _served(client, added, wait_s)
        if as_json:
            return print_json(added)
        name = added["model"]
        if added["replicas"]["serving"]:
            return say(f"model {name} answers with version {added['version']}; 'tidemill predict {name} …' asks it")
        return say(f"model {name} is added; 'tidemill model list' says when it answers")


@model_app.command("remove")
def remove(
    model: Model,
    purge: Annotated[bool, typer.Option("--purge", help="Drop its data, too: versions, log, policy.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Even while experiments run.")] = False,
    why: Why = "",
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take a model out of service; its data are kept, and adding it again goes on where it was."""
    with errors(), connected(home) as client:
        gone = client.remove_model(model, purge=purge, force=force, why=why)
        if as_json:
            return print_json(gone)
        kept = "and its data are gone" if purge else f"and its data are kept: 'tidemill model add {model}' brings it back"
        return say(f"model {model} is removed, {kept}")


@model_app.command("list")
def list_models(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Show the models that there are, and those that were removed and whose data are kept."""
    with errors(), connected(home) as client:
        found = client.models()
        return print_json(found) if as_json else out.print(_table(found))


def _served(client: Client, added: dict[str, Any], wait_s: float) -> dict[str, Any]:
    """Wait until every replica serves a model; return how it is then.

    Raises:
        ValueError: its trainer cannot start, or it takes too long.
    """
    name, deadline = added["model"], time.monotonic() + wait_s
    while True:
        state = next((one for one in client.models()["models"] if one["model"] == name), None)
        if state is None:
            raise ValueError(f"model '{name}' was removed meanwhile")
        replicas, trainer = state["replicas"], state["trainer"] or {}
        if replicas["of"] and replicas["serving"] == replicas["of"]:
            return state
        if (problem := trainer.get("problem", "")) not in ("", "starting"):
            raise ValueError(f"model '{name}' is added, but its trainer cannot start: {problem}")
        if time.monotonic() > deadline:
            raise ValueError(f"model '{name}' is added, but does not answer within {wait_s:g} s: see 'tidemill model list'")
        time.sleep(_LOOK_S)


def _table(found: dict[str, list[dict[str, Any]]]) -> Table:
    rows = [
        (one["model"], one["spec"], str(one["version"] or "none"), _serving(one), _trainer(one), ", ".join(one["experiments"]))
        for one in found["models"]
    ]
    rows += [
        (one["model"], one["spec"], "", "being purged" if one["purging"] else f"removed {moment(one['removed_at'])}", "", "")
        for one in found["removed"]
    ]
    return table(("model", "spec", "version", "served", "trainer", "experiments"), rows)


def _serving(one: dict[str, Any]) -> str:
    replicas = one["replicas"]
    return f"by {replicas['serving']} of {replicas['of']} replicas" if one["loaded"] else "unloaded"


def _trainer(one: dict[str, Any]) -> str:
    if not one["spec"]:
        return "none"
    trainer = one["trainer"]
    way = f", as line '{one['way']}' learned" if one["way"] else ""
    return "starting" if trainer is None else trainer["problem"] or f"process {trainer['pid']}{way}"
