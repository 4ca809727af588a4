"""The crowd at a running platform: travellers choose from lists that two rankers draft together, until it says who is
better."""

import asyncio
import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from statistics import median
from time import perf_counter
from typing import Any

import aiohttp
import numpy as np

from examples.flights.ranking import AB_DRAWS, AB_MOST, ALPHA, PUSH, Traveller, ab_needs, alone, pushed, ranked
from examples.flights.replay import ReplayFailed

EXPERIMENT, RIVAL = "ranking", "sooner"
LABELS_S = 2 * 86_400.0
"""By the flights' clock, of which a day passes within a second: time enough for every label to be joined."""

IN_FLIGHT = 32
ASK_EVERY_S = 0.3

Call = Callable[[str, str, object], Awaitable[Any]]
"""Sends a request, given its method, path and body, and returns the answer's content."""


@dataclass(frozen=True, slots=True)
class Found:
    """What the platform found; `winner` is empty without a verdict, `why` is its own words.

    `judged` of the travellers `sent` were in its books by then. By each ranker's list alone the shares `on_time` of those sent
    would have taken a flight that was on time, and an A/B test would have needed `ab` of them (infinite: over `AB_MOST`).
    """

    winner: str
    why: str
    judged: int
    sent: int
    seconds: float
    on_time: tuple[float, ...]
    ab: float

    def says(self) -> list[str]:
        """The story in plain words."""
        if not self.winner:
            return [f"{self.sent:,} travellers chose in {self.seconds:.0f} s: no verdict yet"]
        shares = " and ".join(f"{share:.1%}" for share in self.on_time)
        needs = (
            f"about {self.ab:,.0f}: {self.ab / self.judged:.0f} times as many" if self.ab < math.inf else f"over {AB_MOST:,}"
        )
        return [
            f"After {self.judged:,} travellers ({self.seconds:.0f} s) the platform knows that '{self.winner}' ranks better:",
            f"  {self.why}",
            f"  by each ranker's list alone {shares} of them would have taken a flight that was on time;",
            f"  to find that out, an A/B test of the same travellers would have needed {needs}",
        ]


@asynccontextmanager
async def connected(url: str, token: str) -> AsyncGenerator[Call]:
    """Open a connection to a platform, as an operator."""
    headers = {"authorization": f"Bearer {token}"}
    async with aiohttp.ClientSession(url, headers=headers, timeout=aiohttp.ClientTimeout(total=60)) as session:

        async def call(method: str, path: str, body: object) -> Any:
            async with session.request(method, path, json=body) as reply:
                if reply.status >= 300:
                    raise ReplayFailed(f"{path} answered {reply.status}: {(await reply.text())[:300]}")
                return await reply.json()

        yield call


async def compare(
    call: Call,
    model: str,
    champion: str,
    version: int,
    people: Sequence[Traveller],
    push: float = PUSH,
    most_s: float = 20.0,
) -> Found:
    """Let travellers choose from lists that two rankers draft together on a running platform, until it says who is better.

    Args:
        model: its score is the risk to be late.
        champion: the variant that ranks by it, and that has learned from none of the travellers' flights.
        version: the rival's: the champion's weights in a graph made by `sooner_first`.
        most_s: no more travellers are sent after that many seconds.
    """
    started = perf_counter()
    crowd = _Crowd(call, model, champion, push)
    await crowd.begin(version)
    try:
        await crowd.choose(people, started + most_s)
    finally:
        await crowd.end()
    seconds = perf_counter() - started
    shares = tuple(float(share) for share in np.mean(crowd.outcomes, axis=0)) if crowd.outcomes else ()
    ab = median(ab_needs(crowd.outcomes, seed)[0] or math.inf for seed in range(AB_DRAWS)) if crowd.winner else math.inf
    return Found(crowd.winner, crowd.why, crowd.judged, len(crowd.outcomes), seconds, shares, ab)


@dataclass
class _Crowd:
    """Travellers at a platform, and what it says of the rankers meanwhile."""

    call: Call
    model: str
    champion: str
    push: float
    outcomes: list[tuple[float, ...]] = field(default_factory=list[tuple[float, ...]])
    winner: str = ""
    why: str = ""
    judged: int = 0
    running: bool = False

    @property
    def path(self) -> str:
        return f"/admin/models/{self.model}/experiments"

    async def begin(self, version: int) -> None:
        """Start the experiment: the champion is its baseline, and the rival is taken out as soon as it is found to be worse."""
        experiment = {
            "name": EXPERIMENT,
            "kind": "interleave",
            "shares": {self.champion: 0.5, RIVAL: 0.5},
            "baseline": self.champion,
            # Both directions are watched.
            "judging": {"alpha": ALPHA, "alpha_fail": ALPHA / 2, "labels_s": LABELS_S},
        }
        variants = [{"name": RIVAL, "line": RIVAL, "version": version}]
        await self.call("POST", self.path, {"experiment": experiment, "variants": variants})
        self.running = True

    async def end(self) -> None:
        if self.running:
            await self.call("POST", f"{self.path}/{EXPERIMENT}/stop", {"why": "no more travellers"})

    async def choose(self, people: Sequence[Traveller], until: float) -> None:
        asked = perf_counter()
        for start in range(0, len(people), IN_FLIGHT):
            labels = await asyncio.gather(*map(self._show, people[start : start + IN_FLIGHT]))
            if events := [label for label in labels if label is not None]:
                await self.call("POST", "/feedback", {"events": events})
            if perf_counter() - asked >= ASK_EVERY_S:
                asked = perf_counter()
                if await self._over():
                    return
                if asked > until:
                    break
        for _ in range(10):  # the last labels may be on their way
            await asyncio.sleep(ASK_EVERY_S)
            if await self._over():
                return

    async def _show(self, traveller: Traveller) -> dict[str, Any] | None:
        """Show somebody their list; return the label of what they take from it."""
        candidates = [{"item": flight.id, "features": flight.features} for flight in traveller.flights]
        body = {"unit": traveller.unit, "candidates": candidates, "k": len(candidates), "at": traveller.at.timestamp()}
        answer = await self.call("POST", f"/models/{self.model}/rank", body)
        items = {item["item"]: item for item in answer["items"]}
        self.outcomes.append(alone(traveller, self._orders(traveller, items)))
        taken = traveller.takes(items)
        if taken is None:
            return None
        return {"id": answer["id"], "item": taken.id, "label": int(taken.late), "at": taken.arrival.timestamp()}

    def _orders(self, traveller: Traveller, items: dict[str, Any]) -> list[list[str]]:
        """Each ranker's own list: a flight's score is that of the ranker who drafted it, and the other's follows from it."""
        risks: list[float] = []
        for flight in traveller.flights:
            score, variant = items[flight.id]["score"], items[flight.id]["variant"]
            risks.append(pushed(score, flight, -self.push) if variant == RIVAL else score)
        rivals = [pushed(risk, flight, self.push) for risk, flight in zip(risks, traveller.flights, strict=True)]
        return [ranked(traveller, risks), ranked(traveller, rivals)]

    async def _over(self) -> bool:
        """Ask for the verdict: a worse rival has been taken out by then, a better one is to be promoted."""
        content = await self.call("GET", f"{self.path}/{EXPERIMENT}", None)
        report = content["report"] or {}
        self.running = content["running"]
        if not self.running:
            decision = content["decisions"][0]
            if decision["action"] != "roll back":
                return True
            self.winner, self.why, numbers = self.champion, decision["why"], decision["evidence"][0]["findings"][0]["numbers"]
        elif "promote" in report.get("verdict", ""):
            self.winner, self.why, numbers = RIVAL, report["why"], report["findings"][0]
        else:
            return False
        self.judged = sum(numbers[name] for name in ("won", "lost", "ties", "none"))
        return True
