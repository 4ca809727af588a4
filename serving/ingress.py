"""What HAProxy, where it stands before this machine's replicas, refused without asking them."""

import asyncio
import csv
import os
from pathlib import Path

from prometheus_client.core import CounterMetricFamily

from serving.metrics import text

NAME = "haproxy"
"""In place of a replica's name."""

_TIMEOUT_S = 0.5


async def exposition() -> str:
    """Return its metrics, nothing where there is no HAProxy or it does not answer."""
    base = Path(os.environ.get("RAY_SERVE_HAPROXY_SOCKET_PATH", ""))
    # Serve gives each of Ray's nodes a folder of its own beside it.
    sockets = list(base.parent.glob(f"*/{base.name}")) if base.name else []
    if not sockets or os.environ.get("RAY_SERVE_ENABLE_HA_PROXY") != "1":
        return ""
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            count = sum([refusals(await _asked(socket, b"show stat\n")) for socket in sockets])
    except (OSError, TimeoutError):
        return ""
    return text([CounterMetricFamily("tidemill_ingress_refusals", "Requests refused before any replica saw them", count)])


def refusals(statistics: str) -> int:
    """Count the answers with status 5xx that are its own and no server's, from HAProxy's `show stat`."""
    count = 0
    for row in csv.DictReader(statistics.removeprefix("# ").splitlines()):
        answered = int(row["hrsp_5xx"] or 0) if row["svname"] != "FRONTEND" else 0
        count += answered if row["svname"] == "BACKEND" else -answered
    return max(0, count)


async def _asked(socket: Path, command: bytes) -> str:
    reader, writer = await asyncio.open_unix_connection(socket)
    try:
        writer.write(command)
        return (await reader.read(-1)).decode()
    finally:
        writer.close()
