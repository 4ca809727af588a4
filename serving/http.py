"""Small things that every route needs: a body within its limit, JSON out, errors as one sentence."""

import asyncio
import logging
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from pydantic_core import to_json
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from serving.errors import RETRY_AFTER_S, LimitReached, Overloaded, ServingError, TooLarge, TooSlow, status_of
from serving.express import WHOLE
from store.errors import StoreError

log = logging.getLogger(__name__)
PATIENCE_S, SLOWEST_BYTES_S = 30.0, 50_000
"""How long a body may take: so many seconds, and one more for so many bytes that came."""

IDS, REFUSED = "tidemill.ids", "tidemill.refused"
"""Where a request's scope says which predictions it is about, and why it was refused."""

_DISCARD_BYTES = 256 * 1024 * 1024


class _Json(Response):
    """Starlette's response with a body, whose headers are spelled out where there are no others: each prediction makes one."""

    media_type = "application/json"

    def init_headers(self, headers: Mapping[str, str] | None = None) -> None:
        if headers is None:
            self.raw_headers = [(b"content-length", b"%d" % len(self.body)), (b"content-type", b"application/json")]
        else:
            super().init_headers(headers)


def answer(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    # What is no number is none in JSON, either.
    return _Json(to_json(content, inf_nan_mode="null"), status, headers)


def refusal(error: Exception) -> Response:
    """Return a domain error as its HTTP answer. Anything else is ours to be ashamed of: logged, and no trace leaves."""
    if not isinstance(error, ServingError | StoreError):
        log.error("a request failed", exc_info=error)
        return answer({"error": "internal error; the server's log says more"}, 500)
    status = status_of(error)
    seconds = error.retry_s if isinstance(error, LimitReached) else RETRY_AFTER_S
    headers = {"retry-after": str(seconds)} if status in (429, 503) else None
    if status == 401:
        headers = {"www-authenticate": "Bearer"}
    return answer({"error": str(error)}, status, headers)


def whole_number(text: str) -> int | None:
    """Return the number that plain digits write, or None; no client may make this process read a number of a thousand."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else None


def place(loc: Sequence[int | str]) -> str:
    """Return where pydantic found something, cut to what one wants to read: a key may be as long as a body."""
    return ".".join(str(part)[:80] for part in loc)


class Room:
    """For so many bytes of large bodies at a time, those that are still coming among them."""

    def __init__(self, most: int) -> None:
        self._left = most

    @contextmanager
    def held(self) -> Generator[Callable[[int], bool]]:
        """Yield what asks for room for so much more of one body, and says whether there is any; without it, a body's other
        parts give up theirs. In the end all do."""
        mine = 0

        def take(count: int) -> bool:
            nonlocal mine
            fits = count <= self._left
            change = count if fits else -mine
            self._left -= change
            mine += change
            return fits

        try:
            yield take
        finally:
            self._left += mine


def _any(_: int) -> bool:
    return True


async def read_body(
    request: Request,
    limit: int,
    instead: str = "send fewer instances in a request",
    take: Callable[[int], bool] = _any,
) -> bytes:
    """Return the body; `instead` is what to do with one that is too large. `take` is asked for room for each part of it.

    What is refused is read to its end and dropped, since a client that is still sending would see a broken connection and not
    the answer.

    Raises:
        TooLarge: it is over the limit.
        Overloaded: there is no room for it.
        TooSlow: it comes in so slowly that its place is given to others.
    """
    here: bytes | None = request.scope.get(WHOLE)
    if here is not None and len(here) <= limit and take(len(here)):
        return here
    return await _received(request, limit, instead, take)


async def _received(request: Request, limit: int, instead: str, take: Callable[[int], bool]) -> bytes:
    chunks: list[bytes] = []
    size, more, kept = 0, True, True
    try:
        async with asyncio.timeout(PATIENCE_S) as patience:
            until = patience.when() or 0.0
            while more:
                message = await request.receive()
                part: bytes = message.get("body", b"")
                more = message.get("more_body", False)
                size += len(part)
                if message["type"] == "http.disconnect" or size > limit + _DISCARD_BYTES:
                    raise ClientDisconnect
                kept = kept and size <= limit and take(len(part))
                if kept:
                    chunks.append(part)
                else:
                    chunks.clear()
                if more:
                    patience.reschedule(until + size / SLOWEST_BYTES_S)
    except TimeoutError:
        raise TooSlow(f"the body did not come in time: {size:,} bytes of it came") from None
    if size > limit:
        raise TooLarge(f"the body is over {limit:,} bytes; {instead}")
    if not kept:
        raise Overloaded("there is no room for this body while others are at work; send it again in a while")
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)
