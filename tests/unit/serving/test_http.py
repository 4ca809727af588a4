"""Bodies: whole, too large, or never all there."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest
from starlette.requests import ClientDisconnect, Request

from serving import http
from serving.errors import Overloaded, TooLarge, TooSlow

pytestmark = pytest.mark.anyio


def _request(parts: Sequence[bytes], ends: bool = True) -> Request:
    """A request whose body comes in these parts; without an end, nothing comes after them."""
    left = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    left += [{"type": "http.request", "body": b"", "more_body": False}] if ends else []

    async def receive() -> Any:
        if not left:
            await asyncio.Event().wait()
        return left.pop(0)

    return Request({"type": "http", "method": "POST", "headers": []}, receive)


def test_an_answer_is_json_whatever_is_no_number() -> None:
    found = http.answer({"loss": float("nan"), "effect": float("inf"), "rows": 1.5})
    assert json.loads(bytes(found.body), parse_constant=pytest.fail) == {"loss": None, "effect": None, "rows": 1.5}


async def test_a_body_in_parts_is_put_together() -> None:
    assert await http.read_body(_request([b"ab", b"", b"c"]), 3) == b"abc"


async def test_a_body_over_the_limit_is_read_to_its_end_and_refused() -> None:
    with pytest.raises(TooLarge, match="over 3 bytes; send fewer"):
        await http.read_body(_request([b"ab", b"cd", b"ef"]), 3)


async def test_bodies_have_room_for_so_many_bytes_and_give_it_back() -> None:
    room = http.Room(5)
    with room.held() as first:
        assert await http.read_body(_request([b"ab", b"c"]), 10, take=first) == b"abc"
        with room.held() as second:
            with pytest.raises(Overloaded, match="no room"):
                await http.read_body(_request([b"de", b"f", b"g"]), 10, take=second)
            with room.held() as third:
                assert await http.read_body(_request([b"de"]), 10, take=third) == b"de"
    with room.held() as whole:
        assert await http.read_body(_request([b"abcde"]), 10, take=whole) == b"abcde"


@pytest.mark.parametrize("parts", [[], [b"ab"], [b"a"] * 20])
async def test_a_body_that_does_not_come_gives_its_place_to_others(parts: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "PATIENCE_S", 0.02)
    with pytest.raises(TooSlow, match=f"{sum(map(len, parts))} bytes of it came"):
        await http.read_body(_request(parts, ends=False), 100)


async def test_a_body_that_keeps_coming_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "PATIENCE_S", 0.02)
    monkeypatch.setattr(http, "SLOWEST_BYTES_S", 0.001)
    reading = asyncio.create_task(http.read_body(_request([b"ab"], ends=False), 100))
    done, _ = await asyncio.wait([reading], timeout=0.1)
    assert not done  # two bytes are worth two thousand seconds here
    reading.cancel()


async def test_a_client_that_goes_away_is_no_error() -> None:
    async def receive() -> Any:
        return {"type": "http.disconnect"}

    with pytest.raises(ClientDisconnect):
        await http.read_body(Request({"type": "http", "method": "POST", "headers": []}, receive), 10)
