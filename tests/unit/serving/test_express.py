"""The short way in: what is a prediction, who takes it, and how many at a time."""

import asyncio
from collections import deque
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from serving import express
from serving.admission import BURST, LEAST, Admission, Place
from serving.app import Edge
from serving.errors import Overloaded
from serving.testing import refused

pytestmark = pytest.mark.anyio


async def _serve(request: Request) -> Response:
    return PlainTextResponse(f"by Serve: {request.url.path}")


def _client(predict: Any, most_at_work: int = 10) -> tuple[httpx.AsyncClient, Edge]:
    edge = Edge(Starlette(), dict.fromkeys(("predict", "rank", "infer"), predict), Admission(most_at_work, 10))
    rest = Starlette(routes=[Route("/{path:path}", _serve, methods=["GET", "POST"])])
    transport = httpx.ASGITransport(express.Express(rest))
    return httpx.AsyncClient(transport=transport, base_url="http://platform"), edge


async def test_predictions_go_to_the_application_of_this_loop_and_all_else_to_serve() -> None:
    async def predict(request: Request) -> Response:
        return PlainTextResponse(f"by us: {request.path_params['model']}")

    client, edge = _client(predict)
    async with client:
        assert (await client.post("/models/m/predict")).text == "by Serve: /models/m/predict"
        express.enter(edge)
        try:
            assert (await client.post("/models/m/predict")).text == "by us: m"
            assert (await client.post("/v2/models/m/infer")).text == "by us: m"
            assert (await client.post("/v2/models/m/versions/3/infer")).text == "by us: m"
            assert (await client.post("/v2/repository/models/m/infer")).text.startswith("by Serve")
            assert (await client.get("/models/m/predict")).text.startswith("by Serve")
            assert (await client.post("/feedback")).text.startswith("by Serve")
        finally:
            express.leave()
        assert (await client.post("/models/m/predict")).text.startswith("by Serve")


async def test_more_predictions_than_a_replica_takes_are_refused_and_the_others_answered() -> None:
    go, begun = asyncio.Event(), asyncio.Semaphore(0)

    async def predict(_: Request) -> Response:
        begun.release()
        await go.wait()
        return PlainTextResponse("answered")

    client, edge = _client(predict, most_at_work=2)
    express.enter(edge)
    try:
        async with client:
            working = [asyncio.create_task(client.post("/models/m/predict")) for _ in range(2 * (1 + LEAST))]
            for _ in working:
                await begun.acquire()
            third = await client.post("/models/m/predict")
            refused(third, 503, "8 predictions are at work already")
            assert third.headers["retry-after"] == "1"
            go.set()
            assert [(await one).text for one in working] == ["answered"] * 2 * (1 + LEAST)
            assert (await client.post("/models/m/predict")).text == "answered"
    finally:
        express.leave()


async def test_a_client_that_goes_away_is_no_error_and_holds_no_place() -> None:
    async def predict(_: Request) -> Response:
        raise ClientDisconnect

    edge = Edge(Starlette(), {"predict": predict}, Admission(1, 1))
    scope = {"type": "http", "method": "POST", "path": "/models/m/predict", "headers": []}
    for _ in range(3):
        await edge(scope, _never, _never)


async def _never(*_: Any) -> Any:
    raise AssertionError("nobody is there")


async def test_a_body_that_does_not_come_takes_nobodys_place_but_dawdlers_are_bounded_too() -> None:
    coming, asked = asyncio.Event(), asyncio.Semaphore(0)

    async def predict(request: Request) -> Response:
        return PlainTextResponse(f"{len(await request.body())} bytes")

    async def dawdle() -> Any:
        asked.release()
        await coming.wait()
        return {"type": "http.request", "body": b"late", "more_body": False}

    async def prompt() -> Any:
        return {"type": "http.request", "body": b"x", "more_body": False}

    answers: list[Any] = []

    async def send(message: Any) -> None:
        answers.append(message.get("status", message.get("body")))

    edge = Edge(Starlette(), {"predict": predict}, Admission(1, 3))
    scope = {"type": "http", "method": "POST", "path": "/models/m/predict", "headers": []}
    slow = [asyncio.create_task(edge(dict(scope), dawdle, send)) for _ in range(2)]
    for _ in slow:
        await asked.acquire()
    await edge(dict(scope), prompt, send)
    assert answers == [200, b"1 bytes"]
    third = asyncio.create_task(edge(dict(scope), dawdle, send))
    await asked.acquire()
    await edge(dict(scope), prompt, send)
    assert answers[2] == 503
    coming.set()
    await asyncio.gather(*slow, third)
    assert answers[4:] == [200, b"4 bytes"] * 3
    assert edge.ongoing == 0


PLACES, CAPACITY = 10, 1000
"""Of a server that answers so many a second."""


def _served(load: float, seconds: float, pause_s: float = 0.0, capacity: float = CAPACITY) -> tuple[int, list[int]]:
    """What becomes of an even stream of `load` times the capacity, with a pause of the server in the middle: how many are
    refused, and the most that are at work in each tenth of a second."""
    clock = [0.0]
    admission = Admission(PLACES, 1000, clock=lambda: clock[0])
    places: deque[Place] = deque()
    refused_, most, asked, answered = 0, [0] * round(10 * seconds), 0.0, 0.0
    for tick in range(round(1000 * seconds)):
        clock[0] = 5.3 + tick / 1000
        asked += load * capacity / 1000
        answered += capacity / 1000
        while asked >= 1.0:
            asked -= 1.0
            try:
                places.append(admission.enter(_never))
            except Overloaded:
                refused_ += 1
        most[tick // 100] = max(most[tick // 100], admission.at_work)
        if not seconds / 2 <= tick / 1000 < seconds / 2 + pause_s:
            for _ in range(min(int(answered), len(places))):
                places.popleft().leave()
        answered %= 1.0
    return refused_, most


def test_after_a_pause_at_half_of_the_capacity_nobody_is_refused() -> None:
    refused_, most = _served(0.5, 4.0, pause_s=0.12)
    assert refused_ == 0
    assert max(most) > 5 * PLACES


@pytest.mark.parametrize("load", [1.5, 3.0, 10.0])
def test_a_queue_that_stays_is_kept_at_the_bound_and_the_server_busy(load: float) -> None:
    refused_, most = _served(load, 4.0)
    assert max(most) <= BURST * PLACES
    assert all(one <= PLACES + 2 for one in most[10:])
    answered = load * CAPACITY * 4.0 - refused_
    assert answered == pytest.approx(CAPACITY * 4.0, rel=0.02)


@pytest.mark.parametrize(("capacity", "load"), [(10, 2.0), (15, 1.5), (15, 1.9), (30, 1.2)])
def test_where_answers_are_slow_a_queue_stays_no_longer_than_some_seconds(capacity: float, load: float) -> None:
    _, most = _served(load, 20.0, capacity=capacity)
    assert all(one <= 5 * PLACES for one in most)
    assert all(one <= 4 * PLACES for one in most[100:])


def test_an_overload_that_ends_leaves_nothing_behind() -> None:
    clock = [0.0]
    admission = Admission(PLACES, 1000, clock=lambda: clock[0])
    places = [admission.enter(_never) for _ in range((1 + LEAST) * PLACES)]
    for _ in range(5):
        with pytest.raises(Overloaded):
            admission.enter(_never)
    for place in places:
        place.leave()
    assert (admission.at_work, admission.ongoing) == (0, 0)
    clock[0] = 2.0
    assert len([admission.enter(_never) for _ in range((1 + LEAST) * PLACES)]) == (1 + LEAST) * PLACES
