"""A wide network in the replica's process and in a deployment of its own, request by request and in batches."""

import statistics
import time
from typing import Any

from rich.console import Console
from rich.table import Table

from deploy.client import Client
from tests.bench.load import Load, run
from tests.bench.serving import BODY, platform

MODEL = "wide"
CONNECTIONS = (1, 32)
BOUND = 3.0
PLACES: dict[str, dict[str, Any]] = {
    "in process": {"kind": "in_process"},
    "dedicated, one by one": {"kind": "dedicated", "max_batch_size": 1},
    "dedicated, batches of 64": {"kind": "dedicated", "max_batch_size": 64},
}
console = Console(width=120)


def placement(rounds: int = 3, seconds: float = 5.0) -> None:
    seen: dict[tuple[str, int], list[Load]] = {}
    with platform("tests.bench.wide:spec", MODEL) as (running, client):
        url = f"{running.url}/models/{MODEL}/predict"
        for _ in range(rounds):
            for name, wanted in PLACES.items():
                _moved(client, wanted)
                run(url, BODY, 32, 1.0)
                for connections in CONNECTIONS:
                    load = run(url, BODY, connections, seconds)
                    if load.failures:
                        raise RuntimeError(f"{name}: {len(load.failures)} failures, such as {load.failures[0]}")
                    seen.setdefault((name, connections), []).append(load)
    _tell(seen)


def _moved(client: Client, wanted: dict[str, Any], patience_s: float = 60.0) -> None:
    state = client.place(MODEL, "main", wanted)
    deadline = time.monotonic() + patience_s
    while not state["moved"]:
        if time.monotonic() > deadline:
            raise RuntimeError(f"it has not moved in {patience_s:g} s: {state}")
        time.sleep(0.2)
        state = client.placement(MODEL, "main")


def _tell(seen: dict[tuple[str, int], list[Load]]) -> None:
    table = Table(
        "place", "connections", "requests/s", "p50 ms", "p99 ms", "ratio to one by one", title="A wide network, 1024-1024"
    )
    rates = {key: statistics.median(load.rate for load in loads) for key, loads in seen.items()}
    for (name, connections), loads in sorted(seen.items(), key=lambda item: item[0][1]):
        p50, p99 = (statistics.median(load.quantile_ms(q) for load in loads) for q in (0.5, 0.99))
        ratio = rates[name, connections] / rates["dedicated, one by one", connections]
        table.add_row(name, str(connections), f"{rates[name, connections]:.0f}", f"{p50:.2f}", f"{p99:.2f}", f"{ratio:.2f}")
    console.print(table)
    ratio = rates["dedicated, batches of 64", 32] / rates["dedicated, one by one", 32]
    verdict = "holds" if ratio >= BOUND else "does not hold"
    console.print(f"batches at 32 connections: {ratio:.2f} times the throughput of one by one (at least {BOUND:g}: {verdict})")
