"""HTTP as the load generators speak it: a request's bytes, and an answer as it comes."""

from collections.abc import Mapping
from types import MappingProxyType
from urllib.parse import urlsplit


def asking(url: str, body: bytes, headers: Mapping[str, str] = MappingProxyType({})) -> tuple[tuple[str, int], bytes]:
    """Return where to connect to, and what to send there."""
    parts = urlsplit(url)
    more = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = (
        f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n{more}\r\n"
    )
    return (parts.hostname or "", parts.port or 80), head.encode() + body


def answered(buffer: bytes) -> tuple[bytes, bytes] | None:
    """Return an answer's head in lower case, and its body; None while not all of it has come."""
    end = buffer.find(b"\r\n\r\n")
    if end < 0:
        return None
    head, start = buffer[:end].lower(), end + 4
    at = head.find(b"content-length:")
    stop = start + int(head[at + 15 :].split(b"\r\n", 1)[0])
    return (head, buffer[start:stop]) if len(buffer) >= stop else None
