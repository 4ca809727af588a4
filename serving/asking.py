"""What a request may say: what the data plane's bodies have in common, how they are refused, and the ids that are given."""

import os
from base64 import urlsafe_b64encode
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated, Any, NotRequired

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from serving.errors import BadRequest, Invalid, TooLarge
from serving.http import place
from store.spec import ModelRecord

Name = Annotated[str, Field(min_length=1, max_length=256)]
EventTime = Annotated[float, Field(ge=0, le=253_402_300_799.0, allow_inf_nan=False)] | datetime
Headers = Iterable[tuple[bytes, bytes]]
EXPECTED = 'expected {"instances": [{"features": {…}}]}'

_SECRET = (b"authorization", b"x-api-key", b"cookie")
"""Headers that no rule may look at: their values would show in who gets which arm."""


def new_id(model: str, at: float) -> str:
    """Return the common start of one request's prediction ids: model, milliseconds, 9 random bytes."""
    return f"{model}:{int(at * 1000):x}.{_RANDOM()}:"


class _RandomNames:
    """12 random characters at a time; the kernel is asked for many at once."""

    def __init__(self) -> None:
        self._left: list[str] = []

    def __call__(self) -> str:
        try:
            return self._left.pop()
        except IndexError:  # bodies are read in several threads
            text = urlsafe_b64encode(os.urandom(9 * 512)).decode()
            fresh = [text[start : start + 12] for start in range(0, len(text), 12)]
            mine = fresh.pop()
            self._left = fresh
            return mine


_RANDOM = _RandomNames()


def body_of(record: ModelRecord, max_instances: int) -> TypeAdapter[Any]:
    """Return what validates the body of a request for predictions."""
    keys: Any = {
        "features": record.features.typed_dict(),
        "unit": NotRequired[Name],
        "id": NotRequired[Name],
        "at": NotRequired[EventTime],
    }
    instance: Any = TypedDict("instance", keys)  # pyright: ignore[reportArgumentType]
    instances: Any = Annotated[list[instance], Field(min_length=1, max_length=max_instances)]  # pyright: ignore[reportInvalidTypeForm]
    wrapped: Any = {"instances": instances}
    body: Any = TypedDict("body", wrapped)  # pyright: ignore[reportArgumentType]
    for part in (instance, body):
        part.__pydantic_config__ = ConfigDict(extra="forbid", strict=True)
    return TypeAdapter(body)


def event_seconds(at: float | datetime) -> float:
    if isinstance(at, datetime):
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    return at


def named_headers(headers: Headers) -> dict[str, str]:
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in headers if name not in _SECRET}


def refusal_of(error: ValidationError, many: str, expected: str, within: str = "") -> BadRequest | Invalid | TooLarge:
    """Turn pydantic's findings into one sentence that names the place.

    Args:
        many: the list of the body; one that is too long is a batch that is too large.
        within: what the places found are inside of.
    """
    first, *more = error.errors(include_url=False, include_input=False, include_context=False)
    path = place((within, *first["loc"]) if within else first["loc"])
    also = f" (and {len(more)} more)" if more else ""
    if first["type"] == "json_invalid":
        return BadRequest(f"the body is not JSON: {first['msg'].removeprefix('Invalid JSON: ')}")
    if first["type"] == "too_long" and path == many:
        return TooLarge(f"{first['msg']}; send them in several requests")
    if len(first["loc"]) < 2 and first["type"] in ("missing", "dict_type", "list_type", "too_short"):
        return BadRequest(f"{path or 'the body'}: {first['msg']}; {expected}")
    return Invalid(f"{path}: {first['msg']}{also}")
