"""Replay the flights through a platform's HTTP API, hour by simulated hour, in true event order.

At the start of an hour the labels of all flights that have arrived are posted; the hour's predictions are asked for only
when every replica answers with the version that has learned from all of them. So what is measured does not depend on the
speed of the machine.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from time import perf_counter
from typing import Any, Self

import aiohttp

from examples.flights.stream import Flight, hours

MODEL = "flight-delay"
IN_FLIGHT = 32
FEEDBACK_EVENTS = 5000


class ReplayFailed(RuntimeError):
    """The platform refused something that the replay sent."""


@dataclass(frozen=True, slots=True)
class Step:
    """One replayed hour. `freshness_s` is from posting its labels until every replica had learned from them."""

    start: datetime
    predicted: list[Flight]
    scores: list[float]
    labels: int
    version: int
    verdict: str
    freshness_s: float


@dataclass
class Replay:
    """An open connection to the platform; use as an async context manager."""

    url: str
    token: str
    _session: aiohttp.ClientSession = field(init=False)

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(limit=IN_FLIGHT)
        headers = {"content-type": "application/json", "authorization": f"Bearer {self.token}"}
        timeout = aiohttp.ClientTimeout(total=120)
        self._session = aiohttp.ClientSession(self.url, connector=connector, headers=headers, timeout=timeout)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def run(self, flights: Sequence[Flight]) -> AsyncIterator[Step]:
        """Send everything; yield each hour when its predictions are answered."""
        done: Step | None = None
        for hour in hours(flights):
            learning = asyncio.ensure_future(self._learn(hour.labels))
            try:
                # While the platform learns: write the hour's requests, and let the caller look at the hour before.
                await asyncio.sleep(0)
                bodies = [json.dumps(predict_request(minute)) for minute in hour.minutes]
                if done is not None:
                    yield done
                version, verdict, freshness_s = await learning
            finally:
                learning.cancel()
            scores = await self.predict(bodies)
            predicted = [flight for minute in hour.minutes for flight in minute]
            done = Step(hour.start, predicted, scores, len(hour.labels), version, verdict, freshness_s)
        if done is not None:
            yield done

    async def _learn(self, arrived: Sequence[Flight]) -> tuple[int, str, float]:
        """Post labels and wait until every replica has learned from them."""
        started = perf_counter()
        await self.tell(arrived)
        learned = await self._post(f"/admin/models/{MODEL}/retrain", {"wait_s": 60})
        return learned["version"], learned["verdict"], perf_counter() - started

    async def tell(self, arrived: Sequence[Flight]) -> None:
        """Post the labels of flights that have arrived."""
        for start in range(0, len(arrived), FEEDBACK_EVENTS):
            answer = await self._post("/feedback", feedback_request(arrived[start : start + FEEDBACK_EVENTS]))
            if answer["rejected"]:
                raise ReplayFailed(f"feedback was refused: {answer['rejected'][0]['error']}")

    async def predict(self, bodies: Sequence[str]) -> list[float]:
        """Send requests, many at a time; return the scores in their order."""
        path = f"/models/{MODEL}/predict"
        answers: list[Any] = []
        for start in range(0, len(bodies), IN_FLIGHT):
            answers += await asyncio.gather(*(self._send(path, body) for body in bodies[start : start + IN_FLIGHT]))
        return [one["output"]["probability"] for answer in answers for one in answer["predictions"]]

    async def _post(self, path: str, body: Any) -> Any:
        return await self._send(path, json.dumps(body))

    async def _send(self, path: str, body: str) -> Any:
        async with self._session.post(path, data=body) as reply:
            text = await reply.text()
            if reply.status >= 300:
                raise ReplayFailed(f"{path} answered {reply.status}: {text[:300]}")
            return json.loads(text)


def predict_request(minute: Sequence[Flight]) -> dict[str, Any]:
    """One prediction request: the flights of one scheduled minute."""
    return {
        "instances": [
            {"features": flight.features, "unit": flight.unit, "id": flight.id, "at": flight.departure.timestamp()}
            for flight in minute
        ]
    }


def feedback_request(arrived: Sequence[Flight]) -> dict[str, Any]:
    """The labels of flights whose truth has come."""
    return {
        "events": [
            {"model": MODEL, "id": flight.id, "label": float(flight.late), "at": flight.arrival.timestamp()}
            for flight in arrived
        ]
    }
