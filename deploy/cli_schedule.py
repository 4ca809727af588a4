"""The command that says when a model learns."""

from math import isfinite
from typing import Annotated, Any

import typer

from deploy.cli_terminal import HomeOption, JsonOption, Model, connected, errors, print_json, say
from deploy.cli_words import listed
from store.cron import cron as times

app = typer.Typer()


@app.command()
def schedule(
    model: Model,
    outcomes: Annotated[int | None, typer.Option(min=1, help="Learn after this many outcomes.")] = None,
    seconds: Annotated[float | None, typer.Option(min=0.05, help="Learn after this many seconds.")] = None,
    cron: Annotated[str | None, typer.Option(help="Learn at these times: five fields, such as '0 3 * * *'.")] = None,
    timezone: Annotated[str | None, typer.Option(help="Of --cron, such as Europe/Berlin; default UTC.")] = None,
    on_drift: Annotated[bool, typer.Option("--on-drift", help="Learn as soon as drift is found.")] = False,
    by_hand: Annotated[bool, typer.Option("--by-hand", help="Learn only when 'retrain' says so.")] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show when a model learns, or change it: what is named holds, and nothing else."""
    with errors():
        named = on_drift or any(one is not None for one in (outcomes, seconds, cron))
        if seconds is not None and not isfinite(seconds):
            raise ValueError("--seconds: a number of seconds; to learn only when asked to, --by-hand")
        if by_hand and named:
            raise ValueError("--by-hand: then leave all other options out")
        if timezone is not None and cron is None:
            raise ValueError("--timezone: it is the one of --cron, which is not there")
        with connected(home) as client:
            if named or by_hand:
                more = {"cron": cron, "timezone": timezone or "UTC", "on_drift": on_drift}
                state = client.set_schedule(model, outcomes, seconds, **more)
            else:
                state = client.schedule(model)
        print_json(state) if as_json else say(_told(state))


def _told(state: dict[str, Any]) -> str:
    parts = [f"every {state['outcomes']} outcomes"] if state["outcomes"] else []
    parts += [f"every {state['seconds']:g} s"] if state["seconds"] else []
    parts += [f"cron {state['cron']}: {times(state['cron'], state['timezone']).words()}"] if state["cron"] else []
    parts += ["when drift is found"] if state["on_drift"] else []
    return listed(parts, "or") or "by hand: 'tidemill retrain'"
