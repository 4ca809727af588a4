"""The slowest answers at half of what the platform can do, while a learner publishes every other second."""

import asyncio
from collections.abc import Generator
from contextlib import contextmanager, suppress
from threading import Event, Thread

import numpy as np
from rich.console import Console
from rich.table import Table

from deploy.client import ApiError, Client
from deploy.home import Running
from serving.awake import Wakefulness
from tests.bench import open_loop
from tests.bench.open_loop import Answers
from tests.bench.serving import BARE_BODY, BODY, MODEL, deploy_bare, first_artefact
from tests.bench.verdict import Verdict, say

CONNECTIONS = 32
PUBLISH_S, LABELS_S = 2.0, 0.5
WARM_S, FULL_S, BARE_S = 3.0, 10.0, 30.0
BOUND = 5.0
console = Console(width=120)


def tail(running: Running, client: Client, minutes: float = 10.0) -> None:
    """An even stream at half of the saturated rate; a minute that was bad has a line of its own.

    Before it and after it, a bare deployment at half of its own: what the machine itself does to the slowest answers. Where
    this may be asked for, the processors are kept from halting for it, as a platform keeps them under load: one of a virtual
    machine that halts is woken milliseconds late by a busy host. Half a minute with processors that halt stands beside.
    """
    url, bare = f"{running.url}/models/{MODEL}/predict", f"{running.url}/bare"
    deploy_bare("bare", *asyncio.run(first_artefact(running)))
    rate, bare_rate = _half(url, BODY), _half(bare, BARE_BODY)
    halting = open_loop.run(bare, BARE_BODY, BARE_S, rate=bare_rate)
    first = client.versions(MODEL, 1)[0]["number"]
    with _awake() as awake:
        yardsticks = [open_loop.run(bare, BARE_BODY, BARE_S, rate=bare_rate)]
    with _learning(client):
        seen = open_loop.run(url, BODY, minutes * 60, rate=rate)
    published = client.versions(MODEL, 1)[0]["number"] - first
    with _awake():
        yardsticks.append(open_loop.run(bare, BARE_BODY, BARE_S, rate=bare_rate))
    _show(seen)
    p50, p99 = seen.quantile_ms(0.5), seen.quantile_ms(0.99)
    failed = len(seen.status) - len(seen.good.status)
    console.print(
        f"{rate:.0f} requests/s, half of {2 * rate:.0f}: p50 {p50:.2f} ms, p99 {p99:.2f} ms, {published} versions published, "
        f"{failed} failed"
    )
    beside = ", ".join(f"{_ratio(one):.1f}" for one in yardsticks)
    console.print(f"A bare one that neither logs nor learns, at {bare_rate:.0f}, before and after: p99 over p50 {beside}")
    said = "were kept from halting for it" if awake else "could not be kept from halting (Linux and root can)"
    console.print(f"The processors {said}; where they may halt it is {_ratio(halting):.1f}")
    if seen.generator_late:
        console.print("[red]The load generator was itself late.[/red]")
    say(Verdict("p99 over p50", p99 / p50, "under", BOUND), Verdict("failed requests", failed, "under", 0))


def _ratio(seen: Answers) -> float:
    return seen.quantile_ms(0.99) / seen.quantile_ms(0.5)


@contextmanager
def _awake() -> Generator[bool]:
    """Keep the processors from halting; yields whether that may be asked for."""
    wakefulness = Wakefulness()
    wakefulness.look(answered=1_000_000, seconds=1.0)
    try:
        yield wakefulness.held
    finally:
        wakefulness.release()


def _half(url: str, body: bytes) -> float:
    """Half of the rate at which an endpoint is saturated."""
    open_loop.run(url, body, WARM_S, connections=CONNECTIONS)
    return len(open_loop.run(url, body, FULL_S, connections=CONNECTIONS).good.status) / FULL_S / 2


def _show(seen: Answers) -> None:
    table = Table(
        "minute", "answered", "p50 ms", "p99 ms", "most ms", title="Half of saturation, open loop, while versions come"
    )
    minute = (seen.due_s / 60).astype(int)
    for number in range(int(minute.max()) + 1):
        part = seen.only(minute == number)
        quantiles = (f"{part.quantile_ms(q):.2f}" for q in (0.5, 0.99, 1.0))
        table.add_row(str(number + 1), f"{np.mean(part.status == 200):.3%} of {len(part.status):,}", *quantiles)
    console.print(table)


@contextmanager
def _learning(client: Client) -> Generator[None]:
    """Labels flow in, and a version is published every other second."""
    stop = Event()

    def label() -> None:
        draw = np.random.default_rng(0)
        while not stop.wait(LABELS_S):
            rows = draw.normal(size=(8, 32)).round(3).tolist()
            with suppress(ApiError):  # refused after a pause of the machine: what it does to requests is counted below
                made = client.predict(MODEL, [{"features": {"x": row}} for row in rows])
                client.feedback([{"id": one["id"], "label": index % 2} for index, one in enumerate(made)])

    client.set_schedule(MODEL, None, PUBLISH_S)
    labelling = Thread(target=label)
    labelling.start()
    try:
        yield
    finally:
        stop.set()
        labelling.join()
        client.set_schedule(MODEL, None, None)
