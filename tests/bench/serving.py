"""The hot path: throughput against a bare Ray Serve deployment, hot swaps under load, freshness, memory."""

import asyncio
import json
import os
import statistics
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from time import perf_counter, sleep
from typing import Any

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

from deploy.client import Client
from deploy.home import Home, Running
from deploy.platform import Platform
from deploy.serve_settings import free_ports
from deploy.settings import Settings
from store.artefact import open_session
from store.encoding import Encoded
from store.redis_store import RedisStore
from tests.bench.load import Load, run

MODEL = "vector"
ROW = [round((i * 37 % 100) / 100, 2) for i in range(32)]
BODY = json.dumps({"instances": [{"features": {"x": ROW}, "unit": "u1"}]}).encode()
BARE_BODY = json.dumps({"x": [ROW]}).encode()
BARE = "bare Ray Serve"
console = Console(width=120)


@contextmanager
def platform(spec: str = "examples.vector:spec", model: str = MODEL) -> Generator[tuple[Running, Client]]:
    """A platform with this model, which learns by hand alone."""
    with TemporaryDirectory(prefix="tidemill-bench-") as folder:
        [port] = free_ports(1)
        settings = Settings(home=Path(folder), port=port)
        running_platform = Platform(settings, [spec], lambda stage: console.print(f"[dim]{stage}[/dim]"))
        try:
            running = running_platform.start()
            with Client(running.url, Home(settings.home).token()) as client:
                client.set_schedule(model, None, None)
                while len(client.status()["replicas"]) < settings.replicas:  # the first can answer before the others are there
                    sleep(0.2)
                yield running, client
        finally:
            running_platform.stop()


def throughput(running: Running, client: Client, rounds: int = 3, seconds: float = 5.0) -> None:
    """Requests per second of ours and of a bare deployment on the same Ray, in turn.

    The second bare one appends each answer to a file and waits for the disk, as whoever keeps what is answered must.
    """
    artefact = asyncio.run(first_artefact(running))
    kept = tempfile.NamedTemporaryFile(prefix="tidemill-bench-")  # noqa: SIM115 - kept until the end
    deploy_bare("bare", *artefact)
    deploy_bare("kept", *artefact, keep=kept.name)
    key = client.create_key({"name": "bench", "role": "predict"})["key"]
    ours = f"{running.url}/models/{MODEL}/predict"
    rows: dict[str, tuple[str, bytes, dict[str, str]]] = {
        BARE: (f"{running.url}/bare", BARE_BODY, {}),
        "bare, one write to the disk each": (f"{running.url}/kept", BARE_BODY, {}),
        "Tidemill": (ours, BODY, {}),
        "Tidemill, with a key": (ours, BODY, {"Authorization": f"Bearer {key}"}),
    }
    seen: dict[tuple[str, int], list[Load]] = {}
    for url, body, headers in rows.values():
        run(url, body, 8, 2.0, headers=headers)
    for number in range(rounds):
        # What runs before leaves work behind, such as learning: nobody is always first.
        turn = list(rows.items())[number % len(rows) :] + list(rows.items())[: number % len(rows)]
        for connections in (1, 32):
            for name, (url, body, headers) in turn:
                load = run(url, body, connections, seconds, headers=headers)
                if load.failures:
                    raise RuntimeError(f"{name}: {len(load.failures)} failures, such as {load.failures[0]}")
                seen.setdefault((name, connections), []).append(load)
    table = Table("row", "connections", "requests/s", "p50 ms", "p99 ms", "ratio to bare", title="Throughput, median of rounds")
    for connections in (1, 32):
        bare = statistics.median(load.rate for load in seen[BARE, connections])
        for name in rows:
            loads = seen[name, connections]
            rate = statistics.median(load.rate for load in loads)
            p50, p99 = (statistics.median(load.quantile_ms(q) for load in loads) for q in (0.5, 0.99))
            table.add_row(name, str(connections), f"{rate:.0f}", f"{p50:.2f}", f"{p99:.2f}", f"{rate / bare:.2f}")
    console.print(table)


async def first_artefact(running: Running) -> tuple[bytes, bytes]:
    store = RedisStore(running.redis_url)
    try:
        version = await store.version(MODEL, 1)
        return (await store.graph(MODEL, version.graph)).onnx, await store.weights(MODEL, 1)
    finally:
        await store.close()


def deploy_bare(name: str, graph: bytes, weights: bytes, keep: str = "") -> None:
    """The least that a Ray Serve deployment can do for a prediction, with the same session.

    Args:
        keep: a file that every answer is appended to, on disk before it is given.
    """
    from ray import serve  # noqa: PLC0415 - reads the environment that the platform sets

    def build() -> Any:
        session = open_session(graph, weights)
        empty = np.zeros((1, 0), dtype=np.int64)
        file = os.open(keep, os.O_WRONLY | os.O_APPEND) if keep else None

        async def app(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "lifespan":
                while (await receive())["type"] != "lifespan.shutdown":
                    await send({"type": "lifespan.startup.complete"})
                await send({"type": "lifespan.shutdown.complete"})
                return
            body, more = b"", True
            while more:
                message = await receive()
                body, more = body + message.get("body", b""), message.get("more_body", False)
            rows = np.asarray(json.loads(body)["x"], dtype=np.float32)
            reply = json.dumps({"p": session.run(Encoded(rows, empty))[:, 0].tolist()}).encode()
            if file is not None:
                os.write(file, body + reply)
                os.fdatasync(file)
            headers = [(b"content-type", b"application/json"), (b"content-length", str(len(reply)).encode())]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": reply})

        return app

    class Bare:
        pass

    cpus = {"num_cpus": 0.1}
    bare: Any = serve.deployment(max_ongoing_requests=200, ray_actor_options=cpus)(serve.ingress(build)(Bare))
    serve.run(bare.bind(), name=name, route_prefix=f"/{name}")


def hot_swap(running: Running, client: Client, versions: int = 100) -> None:
    """Publish versions under load: nothing may fail, and a version may have only one answer for one question."""
    url = f"{running.url}/models/{MODEL}/predict"
    calm = run(url, BODY, 32, 10.0)
    answers: dict[int, set[float]] = {}

    def look(body: bytes) -> None:
        prediction = json.loads(body)["predictions"][0]
        answers.setdefault(prediction["version"], set()).add(prediction["output"]["probability"])

    publisher = Thread(target=_publish, args=(client, versions))
    first = client.versions(MODEL, 1)[0]["number"]
    publisher.start()
    swapped = Load()
    while publisher.is_alive():
        part = run(url, BODY, 32, 2.0, look)
        swapped.latencies_s += part.latencies_s
        swapped.failures += part.failures
        swapped.seconds += part.seconds
    published = client.versions(MODEL, 1)[0]["number"] - first
    torn = [version for version, scores in answers.items() if len(scores) > 1]
    wrong = asyncio.run(_wrong(running, answers))
    table = Table(
        "load", "requests/s", "p50 ms", "p99 ms", "failures", title=f"Hot swap: {published} versions under 32 connections"
    )
    for name, load in (("without swaps", calm), ("with swaps", swapped)):
        p50, p99 = load.quantile_ms(0.5), load.quantile_ms(0.99)
        table.add_row(name, f"{load.rate:.0f}", f"{p50:.1f}", f"{p99:.1f}", str(len(load.failures)))
    console.print(table)
    console.print(f"p99 ratio {swapped.quantile_ms(0.99) / calm.quantile_ms(0.99):.2f}; versions seen {len(answers)}, ", end="")
    console.print(f"with two different answers {len(torn)}, with an answer that is not theirs {wrong}")


def _publish(client: Client, versions: int) -> None:
    draw = np.random.default_rng(0)
    for _ in range(versions):
        rows = draw.normal(size=(8, 32)).round(3).tolist()
        made = client.predict(MODEL, [{"features": {"x": row}} for row in rows])
        client.feedback([{"id": one["id"], "label": index % 2} for index, one in enumerate(made)])
        client.retrain(MODEL)


async def _wrong(running: Running, answers: dict[int, set[float]]) -> int:
    """Of the versions whose weights are still kept, how many answered something else than their artefact does."""
    store = RedisStore(running.redis_url)
    encoded = Encoded(np.array([ROW], dtype=np.float32), np.zeros((1, 0), dtype=np.int64))
    wrong = 0
    for number in sorted(answers)[-40:]:
        version = await store.version(MODEL, number)
        graph, weights = await store.graph(MODEL, version.graph), await store.weights(MODEL, number)
        expected = float(open_session(graph.onnx, weights).run(encoded)[0, 0])
        wrong += any(abs(score - expected) > 1e-6 for score in answers[number])
    await store.close()
    return wrong


def freshness(running: Running, client: Client, seconds: float = 30.0, rate: int = 200) -> None:
    """From a label's POST to the first answer by a version that learned from it."""
    client.retrain(MODEL)
    client.set_schedule(MODEL, None, 1.0)
    sleep(1.5)
    first = client.versions(MODEL, 1)[0]["number"]
    ids: list[str] = []
    while len(ids) < seconds * rate:
        made = client.predict(MODEL, [{"features": {"x": ROW}}] * 1000)
        ids += [one["id"] for one in made]
    seen: dict[int, float] = {}
    posted: list[float] = []
    started = perf_counter()
    while not posted or len(posted) < seconds * rate or perf_counter() - started < seconds + 4.0:
        now = perf_counter()
        due = int(min(seconds, now - started) * rate)
        if due > len(posted):
            events = [{"id": id_, "label": index % 2} for index, id_ in enumerate(ids[len(posted) : due])]
            client.feedback(events)
            posted += [now] * len(events)
        version = client.predict(MODEL, [{"features": {"x": ROW}}])[0]["version"]
        seen.setdefault(version, perf_counter())
        sleep(0.01)
    learned_by = sorted((v["number"], v["outcomes"]) for v in client.versions(MODEL, 1000) if v["number"] > first)
    waits: list[float] = []
    for number, outcomes in learned_by:
        answered_at = min((at for version, at in seen.items() if version >= number), default=None)
        if answered_at is not None:
            waits += [answered_at - at for at in posted[len(waits) : len(waits) + outcomes]]
    client.set_schedule(MODEL, None, None)
    quantiles = {q: float(np.quantile(waits, q)) for q in (0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)}
    shown = ", ".join(f"p{q * 100:g} {value:.2f} s" for q, value in quantiles.items())
    console.print(f"Freshness of {len(waits)} labels at {rate}/s, learning every second: {shown}")


def memory(client: Client) -> None:
    """Resident memory of the parts, and whether a replica has loaded torch."""
    state = client.status()
    table = Table("part", "resident MiB", "torch loaded", title="Memory")
    for report in state["replicas"] + state["trainers"]:
        process = psutil.Process(report["pid"])
        torch = any("libtorch" in mapped.path for mapped in process.memory_maps())
        table.add_row(
            f"{report['role']} {report['name']}", f"{process.memory_info().rss / 2**20:.0f}", "yes" if torch else "no"
        )
    everything = [psutil.Process(), *psutil.Process().children(recursive=True)]
    table.add_row(
        "whole platform, with this bench", f"{sum(_unique(process) for process in everything) / 2**20:.0f} (unshared)", ""
    )
    console.print(table)


def _unique(process: psutil.Process) -> int:
    try:
        return process.memory_full_info().uss
    except psutil.Error:
        return 0
