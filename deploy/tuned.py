"""What the demo does with a tuned way to learn: a search finds it, a line learns so beside main, an experiment lets both
answer, and what came of it makes the line main or ends it."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from time import monotonic
from typing import Any

from deploy.client import Client
from deploy.home import Running
from deploy.settings import Settings
from examples.flights.replay import MODEL, Replay
from examples.flights.stream import Flight
from store import tether
from tuning.result import Tried as Trial

LINE, EXPERIMENT = "challenger", "ways"
TRIALS, WINDOW = 8, timedelta(days=28)
_LOOK_EVERY = 24
"""Hours of the replay between two looks at what is known; a confidence sequence may be looked at as often as one likes."""

_PATIENCE_S, _STOP_S = 600.0, 30.0


@dataclass(frozen=True, slots=True)
class Tried:
    """How a way to learn fared.

    Attributes:
        search: what `tidemill tune --json` said.
        compared: progressive losses of line and main over the same outcomes, and the difference with its confidence sequence.
        flights: how many were answered by one or the other.
        decided: the audit's record of the end.
    """

    search: dict[str, Any]
    compared: dict[str, Any]
    flights: int
    decided: dict[str, Any]

    def says(self) -> list[str]:
        """The story in plain words."""
        held, found = self.search["heldout"], self.compared
        words = Trial.model_validate(self.search["leaderboard"][0]["tried"]).words
        lines = [
            f"The best of {len(self.search['leaderboard'])} ways to learn: {words}",
            f"  on {held['judged']:,} outcomes that no trial has seen: log loss {held['winner']:.4f}, "
            f"as declared {held['production']:.4f}",
            f"  it learns beside main as line '{LINE}', and an experiment lets each answer half of {self.flights:,} flights",
        ]
        if found:
            between = f" ({found['low']:+.4f} to {found['high']:+.4f})" if found["low"] is not None else ""
            lines.append(
                f"  over the same {found['outcomes']:,} outcomes: log loss {found['loss']:.4f}, "
                f"main's {found['main_loss']:.4f}, difference {found['difference']:+.4f}{between}"
            )
        lines.append(f"  in the audit: {self.decided['action']}: {self.decided['why']}")
        return lines


def find_way(settings: Settings, last: Flight) -> dict[str, Any]:
    """Search the last weeks for a better way, as `tidemill tune` does beside a running platform; return what it printed.

    Raises:
        RuntimeError: it failed; its own words are on the screen.
    """
    since = f"{last.departure - WINDOW:%Y-%m-%d}"
    given = {f"TIDEMILL_{name.upper()}": str(value) for name, value in settings if value is not None}
    command = [sys.executable, "-m", "deploy.cli", "tune", MODEL, f"--trials={TRIALS}", f"--since={since}", "--json"]
    process = tether.spawn(command, env={**os.environ, **given}, stdout=subprocess.PIPE)
    try:
        printed, _ = process.communicate()
    except BaseException:  # Ctrl-C has reached the search, too, which ends its Ray
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        raise
    if process.returncode:
        raise RuntimeError(f"the search for a better way to learn failed with exit code {process.returncode}")
    return json.loads(printed)


async def try_way(found: dict[str, Any], flights: Sequence[Flight], running: Running, token: str) -> Tried:
    """Let a line learn in the way that was found, let it and main answer the flights, and make it main or end it.

    Args:
        flights: in order of departure; each is predicted under an id of its own.

    Raises:
        RuntimeError: the line did not catch up.
    """
    way = json.loads((Path(found["folder"]) / "way.json").read_text())
    with Client(running.url, token) as client:
        # Main is to be what learns now, and not the version that was champion of the trials.
        client.set_policy(MODEL, {"variants": [{"name": "main"}]}, client.policy(MODEL)["epoch"])
        client.add_line(MODEL, {"name": LINE, "why": f"the best of {TRIALS} trials", **way})
        async with Replay(running.url, token) as sending:
            await _caught_up(client)
            client.start_experiment(
                MODEL,
                {"name": EXPERIMENT, "kind": "ab", "shares": {"main": 0.5, LINE: 0.5}},
                [{"name": LINE, "line": LINE}],
            )
            marked = [replace(flight, id=f"{flight.id}-way") for flight in flights]
            hours = answered = 0
            async for step in sending.run(marked):
                hours, answered = hours + 1, answered + len(step.predicted)
                if hours % _LOOK_EVERY == 0 and _verdict(await asyncio.to_thread(_compared, client)):
                    break
        compared = _compared(client)
        return Tried(found, compared, answered, _decide(client, compared))


async def _caught_up(client: Client) -> None:
    deadline = monotonic() + _PATIENCE_S
    while not _line(client)["caught_up"]:
        if monotonic() > deadline:
            raise RuntimeError(f"line '{LINE}' has not caught up with main in {_PATIENCE_S:.0f} s: see its trainer's log")
        await asyncio.sleep(0.5)


def _line(client: Client) -> dict[str, Any]:
    return next(one for one in client.lines(MODEL)["lines"] if one["name"] == LINE)


def _compared(client: Client) -> dict[str, Any]:
    return _line(client)["compared"] or {}


def _verdict(compared: dict[str, Any]) -> str:
    """What the confidence sequence of the difference says, as soon as it says anything."""
    if not compared or compared["low"] is None:
        return ""
    return "better" if compared["high"] < 0.0 else "worse" if compared["low"] > 0.0 else ""


def _decide(client: Client, compared: dict[str, Any]) -> dict[str, Any]:
    """Make the line main if it is better, else end it; return the audit's record of that."""
    verdict = _verdict(compared)
    if verdict == "better":
        client.move_experiment(MODEL, EXPERIMENT, "promote", "it loses less than main on the same outcomes")
        action = "promote line"
    else:
        why = "it loses more than main on the same outcomes" if verdict else "no better than main on the same outcomes"
        client.move_experiment(MODEL, EXPERIMENT, "stop", why)
        client.end_line(MODEL, LINE, "retire", why)
        action = "retire line"
    return next(one for one in client.audit(MODEL) if one["action"] == action)
