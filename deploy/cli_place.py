"""The command that moves a variant between the replicas' own processes and a deployment of its own."""

import time
from typing import Annotated, Any

import typer

from deploy.cli_terminal import HomeOption, JsonOption, Model, connected, errors, print_json, say
from deploy.client import Client

app = typer.Typer()


@app.command()
def place(
    model: Model,
    variant: Annotated[str, typer.Option(help="Which arm.")] = "main",
    in_process: Annotated[bool, typer.Option("--in-process", help="Answer in every replica's own process again.")] = False,
    cpus: Annotated[float | None, typer.Option(help="CPUs that each of its replicas asks for; default 1.")] = None,
    gpus: Annotated[float | None, typer.Option(help="GPUs, or a fraction of one; default 0.")] = None,
    resource: Annotated[list[str] | None, typer.Option(metavar="NAME=COUNT", help="A custom resource of Ray's.")] = None,
    min_replicas: Annotated[int | None, typer.Option(help="Replicas at least; default 1.")] = None,
    max_replicas: Annotated[int | None, typer.Option(help="Replicas at most; default 1.")] = None,
    batch: Annotated[int | None, typer.Option(help="Rows that are run together at most; default 64.")] = None,
    wait_ms: Annotated[float | None, typer.Option(help="How long a batch waits to be full; default 0.")] = None,
    providers: Annotated[str | None, typer.Option(metavar="LIST", help="In order; default cuda,cpu.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of one run on the CPU; default 1.")] = None,
    wait_s: Annotated[float, typer.Option(min=0.0, help="How long to wait until it has moved.")] = 120.0,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give a variant a deployment of its own, with its own resources, replicas and batches; or take it back."""
    given = {
        "cpus": cpus,
        "gpus": gpus,
        "resources": _resources(resource),
        "min_replicas": min_replicas,
        "max_replicas": max_replicas if max_replicas is not None else min_replicas,
        "max_batch_size": batch,
        "batch_wait_ms": wait_ms,
        "providers": providers.split(",") if providers else None,
        "threads": threads,
    }
    wanted: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if in_process and wanted:
        raise typer.BadParameter(f"{', '.join(wanted)}: only a deployment of its own has these")
    with errors(), connected(home) as client:
        state = client.place(model, variant, wanted | {"kind": "in_process" if in_process else "dedicated"})
        state = _wait(client, state, time.monotonic() + wait_s)
        print_json(state) if as_json else say(_told(state))
        if not state["moved"]:
            raise typer.Exit(1)


def _resources(given: list[str] | None) -> dict[str, float] | None:
    if not given:
        return None
    found: dict[str, float] = {}
    for one in given:
        name, _, count = one.partition("=")
        try:
            found[name] = float(count)
        except ValueError:
            raise typer.BadParameter(f"--resource {one}: expected NAME=COUNT, such as fast_disk=1") from None
    return found


def _wait(client: Client, state: dict[str, Any], deadline: float) -> dict[str, Any]:
    while not state["moved"] and time.monotonic() < deadline:
        time.sleep(0.25)
        state = client.placement(state["model"], state["variant"])
    return state


def _told(state: dict[str, Any]) -> str:
    what = f"variant '{state['variant']}' of model '{state['model']}'"
    if not state["moved"]:
        where = f"the deployment '{state['application']}'" if state["application"] else "the replicas' own processes"
        why = f": {state['problem']}" if state["problem"] else ""
        return f"{what} has not moved to {where} yet, and is answered where it was{why}"
    if not state["application"]:
        return f"{what} is answered in the process of every replica"
    hosts = state["hosts"]
    said = [f"{what} is answered by {len(hosts)} of its own: {state['application']}"]
    for host in hosts:
        away = "".join(f"; {why}" for why in host["away"].values())
        said.append(f"  pid {host['pid']}, {', '.join(host['providers'])}{away}")
    return "\n".join(said)
