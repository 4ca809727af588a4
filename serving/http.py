"""Small things that every route needs: a body within its limit, JSON out, errors as one sentence."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from pydantic_core import to_json
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from serving.errors import RETRY_AFTER_S, LimitReached, ServingError, TooLarge, TooSlow, status_of
from store.errors import StoreError

log = logging.getLogger(__name__)
PATIENCE_S, SLOWEST_BYTES_S = 30.0, 50_000
"""How long a body may take: so many seconds, and one more for so many bytes that came."""

IDS, REFUSED = "tidemill.ids", "tidemill.refused"
"""Where a request's scope says which predictions it is about, and why it was refused."""

_DISCARD_BYTES = 256 * 1024 * 1024


def answer(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(to_json(content), status, headers, "application/json")


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


async def read_body(request: Request, limit: int, instead: str = "send fewer instances in a request") -> bytes:
    """Return the body; `instead` is what to do with one that is too large.

    Raises:
        TooLarge: it is over the limit. What is left of it is read and dropped first, since a client that is still sending
            would see a broken connection and not the answer.
        TooSlow: it comes in so slowly that its place is given to others.
    """
    chunks: list[bytes] = []
    size, more = 0, True
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
                if size <= limit:
                    chunks.append(part)
                if more:
                    patience.reschedule(until + size / SLOWEST_BYTES_S)
    except TimeoutError:
        raise TooSlow(f"the body did not come in time: {size:,} bytes of it came") from None
    if size > limit:
        raise TooLarge(f"the body is over {limit:,} bytes; {instead}")
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)
