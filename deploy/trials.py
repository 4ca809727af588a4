"""What the demo does after the learning: a better version is tried and becomes champion, a ruined one is tried and goes, and
two rankers draft lists together for travellers."""

import asyncio
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from safetensors.numpy import load as load_weights

from deploy.client import Client
from deploy.home import Running
from examples.flights import crowd, ranking
from examples.flights.replay import MODEL, Replay, predict_request
from examples.flights.stream import Flight, Hour, hours
from store.artefact import pack_weights
from store.policy import MAIN
from store.protocols import Version
from store.publishing import publish
from store.redis_store import RedisStore

RUINED_LINE = "ruined"
TRAVELLERS = 12_000
STEPS = [
    {"kind": "shadow", "share": 1.0, "min_s": 2.0, "min_units": 500},
    {"share": 0.1, "min_s": 0.3, "min_units": 50},
    {"share": 0.5, "min_s": 0.3, "min_units": 200},
]
JUDGING = {
    # A flight is a unit of its own here; its truth comes within hours.
    "window_s": 0.0,
    "labels_s": 12 * 3600.0,
    "n_opt": 3000,
}
_REPEAT_EVERY = 4


@dataclass(frozen=True, slots=True)
class Trial:
    """How one version fared: the decisions, in the order they were made, and the requests that it took."""

    version: int
    what: str
    decisions: list[dict[str, Any]]
    flights: int
    harmed: int

    def says(self) -> list[str]:
        """The story in plain words, a line per decision."""
        lines = [f"Version {self.version}, {self.what}, is tried by itself:"]
        for decision in self.decisions:
            match decision["action"]:
                case "enter":
                    lines.append(f"  it enters as {decision['after']}")
                case "step":
                    lines.append(f"  {decision['why']}: on to {decision['after']}")
                case "promote":
                    lines.append(f"  {decision['why']}: it is champion")
                case "roll back":
                    lines.append(f"  rolled back: {decision['why']}")
                case action:
                    lines.append(f"  {action}: {decision['why']}")
        if not self.decisions or self.decisions[-1]["action"] not in ("promote", "roll back"):
            lines.append("  undecided when the flights had ended")
        lines.append(f"  decided after {self.flights:,} flights, {self.harmed:,} of which it could not answer")
        return lines


async def try_versions(flights: Sequence[Flight], running: Running, token: str, prefix: str, frozen: int) -> list[Trial]:
    """Put the newest version, then a ruined one, on trial against the frozen one.

    Args:
        flights: what comes after the learning, in order of departure; each is predicted once more, as a unit of its own.
        frozen: the version that is champion at first.
    """
    store = RedisStore(running.redis_url, prefix)
    with Client(running.url, token) as client:
        newest = client.versions(MODEL, 1)[0]["number"]
        _begin(client, frozen, MAIN)
        trials: list[Trial] = []
        async with Replay(running.url, token) as sending:
            traffic = _Traffic(flights, sending)
            trials.append(await _watch(client, traffic, newest, "the newest of those that went on learning"))
            ruined = await _ruin(store, newest)
            _begin(client, None, RUINED_LINE)
            trials.append(await _watch(client, traffic, ruined.number, "the same with its weights ruined"))
        policy = client.policy(MODEL)
        client.set_policy(MODEL, policy["policy"] | {"rollout": None}, policy["epoch"])
    await store.close()
    return trials


async def try_rankers(flights: Sequence[Flight], running: Running, token: str, prefix: str, seed: int) -> crowd.Found:
    """Let travellers choose among the flights, from lists that the champion and a rival draft together."""
    store = RedisStore(running.redis_url, prefix)
    with Client(running.url, token) as client:
        policy = client.policy(MODEL)
    number = policy["channels"]["champion"]
    champion = await store.version(MODEL, number)
    record = (await store.models())[MODEL]
    graph = ranking.sooner_first(await store.graph(MODEL, champion.graph), record.features)
    rival = await publish(store, MODEL, graph, await store.weights(MODEL, number), crowd.RIVAL, "pushes sooner departures up")
    await store.close()
    people = ranking.travellers(flights, TRAVELLERS, seed)
    async with crowd.connected(running.url, token) as call:
        return await crowd.compare(call, MODEL, policy["policy"]["default"], rival.number, people)


def _begin(client: Client, champion: int | None, line: str) -> None:
    """Let versions of a line enter by themselves; pin the champion where it is not yet."""
    policy = client.policy(MODEL)
    wanted = policy["policy"] | {"experiments": [], "rollout": {"line": line, "steps": STEPS, "judging": JUDGING}}
    if champion is not None:
        wanted["variants"] = [{"name": "champion", "version": champion}]
        wanted["default"] = "champion"
    client.set_policy(MODEL, wanted, policy["epoch"])


async def _ruin(store: RedisStore, number: int) -> Version:
    """Publish a version with noise in place of what it has learned."""
    version = await store.version(MODEL, number)
    graph = await store.graph(MODEL, version.graph)
    draw = np.random.default_rng(0)
    tensors = {
        name: tensor if "standardise" in name else draw.normal(0.0, 1.0, tensor.shape).astype(tensor.dtype)
        for name, tensor in load_weights(await store.weights(MODEL, number)).items()
    }
    return await publish(store, MODEL, graph, pack_weights(tensors), RUINED_LINE, "ruined on purpose")


async def _watch(client: Client, traffic: "_Traffic", version: int, what: str) -> Trial:
    """Send flights until the version's fate is decided."""
    sent = traffic.sent
    harmed = 0
    while True:
        await traffic.hour()
        policy = (await asyncio.to_thread(client.policy, MODEL))["policy"]
        running = any(experiment["name"] == "rollout" for experiment in policy["experiments"])
        if policy["tried"] >= version and not running:
            break
        if traffic.over:
            break
    decisions = [one for one in (await asyncio.to_thread(client.audit, MODEL))[::-1] if one["experiment"] == "rollout"]
    last = max((place for place, one in enumerate(decisions) if one["action"] == "enter"), default=len(decisions))
    for verdict in decisions[-1]["evidence"] if decisions[last:] else ():
        for finding in verdict["findings"]:
            if finding["name"] in ("errors", "timeouts") and "events" in finding["numbers"]:
                harmed += finding["numbers"]["events"][1]
    return Trial(version, what, decisions[last:], traffic.sent - sent, harmed)


class _Traffic:
    """Flights in event order with their labels, over and over if they are few, under ids of their own."""

    def __init__(self, flights: Sequence[Flight], sending: Replay) -> None:
        self._sending = sending
        self._flights = flights
        self._round = 0
        self._hours = self._begin()
        self.sent = 0
        self.over = False

    def _begin(self) -> Iterator[Hour]:
        self._round += 1
        mark = f"t{self._round}"
        return hours([replace(flight, id=f"{flight.id}-{mark}", unit=f"{flight.id}-{mark}") for flight in self._flights])

    async def hour(self) -> None:
        """Post the hour's labels, then ask for its predictions."""
        hour = next(self._hours, None)
        if hour is None:
            if self._round >= _REPEAT_EVERY:
                self.over = True
                return
            self._hours = self._begin()
            hour = next(self._hours)
        await self._sending.tell(hour.labels)
        bodies = [json.dumps(predict_request(minute)) for minute in hour.minutes]
        await self._sending.predict(bodies)
        self.sent += sum(map(len, hour.minutes))
