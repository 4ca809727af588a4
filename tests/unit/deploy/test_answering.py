"""Which requests of drift are taken up, and when."""

import json
from typing import Any

import pytest

from deploy.answering import RETRY_S, Answering, Order
from store.drift import Drift, Response
from store.memory import MemoryStore
from store.names import learner_consumer
from store.protocols import Advance
from store.requests import Request
from store.spec import ModelSpec
from trainer.testing import OneNumber

pytestmark = pytest.mark.anyio


class Child:
    def __init__(self) -> None:
        self.code: int | None = None

    def poll(self) -> int | None:
        return self.code


class Place:
    """A store, and children that do nothing."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.started: list[tuple[Order, Child]] = []
        self.answering = Answering(self.store, self._order, self._start)
        self._at: dict[str, str] = {}

    @staticmethod
    def _order(model: str, request: Request, least: int) -> Order:
        return Order(redis_url="", prefix="", archive="", seed=None, model=model, request=request, least=least)

    def _start(self, order: Order) -> Child:
        self.started.append((order, Child()))
        return self.started[-1][1]

    async def model(self, name: str, *respond: Response) -> None:
        settings = Drift(short=64, long=256, respond=respond)
        await self.store.register(ModelSpec(name=name, features=OneNumber, drift=settings).record)

    async def shifted(self, name: str, at: int, seen: int) -> None:
        """Let a learner's state have a request, made when so many outcomes were watched."""
        wanted = {"outcome": at, "at": 1000.0 + at, "log_position": f"{at}-0"}
        state: dict[str, Any] = {"drift": {"outcomes": seen, "retrain": wanted}}
        consumer = learner_consumer(name)
        before, _ = await self.store.consumer(consumer)
        step = Advance(consumer, before, f"{int(before.partition('-')[0]) + 1}-0", json.dumps(state).encode())
        await self.store.advance(step, [])

    @property
    def orders(self) -> list[tuple[str, str]]:
        return [(order.model, order.request.log_position) for order, _ in self.started]


async def test_a_request_waits_until_a_long_window_has_come_since() -> None:
    place = Place()
    await place.model("m", "retrain")
    await place.answering.refresh(0.0)
    await place.shifted("m", 100, 355)
    await place.answering.refresh(1.0)
    assert place.orders == []
    await place.shifted("m", 100, 356)
    await place.answering.refresh(2.0)
    [(order, _)] = place.started
    assert (order.model, order.request.log_position, order.request.at, order.least) == ("m", "100-0", 1100.0, 256)


async def test_a_model_whose_declaration_does_not_say_so_is_not_retrained() -> None:
    place = Place()
    await place.model("m", "alert")
    await place.shifted("m", 100, 1000)
    await place.answering.refresh(0.0)
    assert place.orders == []


async def test_one_at_a_time_and_what_failed_is_tried_again_later() -> None:
    place = Place()
    for name in ("a", "b"):
        await place.model(name, "retrain")
        await place.shifted(name, 100, 1000)
    await place.answering.refresh(0.0)
    await place.answering.refresh(1.0)
    assert place.orders == [("a", "100-0")]
    place.started[0][1].code = 1
    await place.answering.refresh(2.0)
    assert place.orders == [("a", "100-0"), ("b", "100-0")]
    place.started[1][1].code = 1
    await place.answering.refresh(3.0)
    assert len(place.orders) == 2
    await place.answering.refresh(2.0 + RETRY_S)
    assert place.orders[2:] == [("a", "100-0")]


async def test_a_later_shift_is_another_request() -> None:
    place = Place()
    await place.model("m", "retrain")
    await place.shifted("m", 100, 1000)
    await place.answering.refresh(0.0)
    place.started[0][1].code = 0
    await place.shifted("m", 2000, 3000)
    await place.answering.refresh(1.0)
    assert place.orders == [("m", "100-0"), ("m", "2000-0")]
