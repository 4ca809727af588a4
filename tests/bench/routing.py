"""What routing costs: one plan, a policy's worth of throughput, and a thousand changes of it under load."""

import json
import statistics
from threading import Thread
from time import perf_counter
from typing import Any

from rich.console import Console
from rich.table import Table

from deploy.client import Client
from deploy.home import Running
from router import Planner, revise
from store.policy import Experiment, Policy, Rule, Variant
from tests.bench.load import Load, run

MODEL = "vector"
ARMS = ("main", "a", "b", "c")
BODY = json.dumps({"instances": [{"features": {"x": [0.37] * 32}, "unit": "u1"}]}).encode()
console = Console(width=120)


def planning(units: int = 20_000, rounds: int = 7) -> None:
    """The time of one plan for a policy of four experiments: two that exclude each other, one across them, and a shadow."""
    experiments = (
        Experiment(name="one", kind="ab", shares={"main": 0.5, "a": 0.5}, traffic=0.5),
        Experiment(name="two", kind="ab", shares={"main": 0.5, "b": 0.5}, traffic=0.5),
        Experiment(
            name="three",
            kind="canary",
            shares={"c": 0.05},
            layer="across",
            target=(Rule(by="feature", name="country", values=("VN",)),),
        ),
        Experiment(name="dark", kind="shadow", shares={"b": 0.1}),
    )
    policy = Policy(variants=tuple(Variant(name=name) for name in ARMS), experiments=experiments)
    planner = Planner(revise(Policy(), policy))
    names = [f"unit-{number}" for number in range(units)]
    features = {"country": "VN"}
    times: list[float] = []
    for _ in range(rounds):
        started = perf_counter()
        for name in names:
            planner.plan(name, features)
        times.append((perf_counter() - started) / units * 1e6)
    median = statistics.median(times)
    console.print(f"One plan with four experiments: {min(times):.1f} us at best, {median:.1f} us median of rounds")


def _policy(*experiments: dict[str, Any]) -> dict[str, Any]:
    return {"variants": [{"name": name} for name in ARMS], "default": "main", "experiments": list(experiments)}


POLICIES: dict[str, dict[str, Any]] = {
    "a single arm": _policy(),
    # A shadow that scores next to nothing: what its inference costs is not routing.
    "two experiments and a shadow": _policy(
        {"name": "one", "kind": "ab", "shares": {"main": 0.5, "a": 0.5}},
        {"name": "two", "kind": "canary", "shares": {"b": 0.3}, "layer": "across"},
        {"name": "dark", "kind": "shadow", "shares": {"c": 0.0001}},
    ),
    "the same, all shadowed": _policy(
        {"name": "one", "kind": "ab", "shares": {"main": 0.5, "a": 0.5}},
        {"name": "two", "kind": "canary", "shares": {"b": 0.3}, "layer": "across"},
        {"name": "dark", "kind": "shadow", "shares": {"c": 1.0}},
    ),
}


def routing(running: Running, client: Client, rounds: int = 5, seconds: float = 4.0) -> None:
    """Throughput at 32 connections by policy, in turn; the controller keeps its books meanwhile, as it would."""
    url = f"{running.url}/models/{MODEL}/predict"
    seen: dict[str, list[Load]] = {name: [] for name in POLICIES}
    run(url, BODY, 32, 2.0)
    for _ in range(rounds):
        for name, policy in POLICIES.items():
            client.set_policy(MODEL, policy, client.policy(MODEL)["epoch"])
            seen[name].append(run(url, BODY, 32, seconds))
    client.set_policy(MODEL, POLICIES["a single arm"], client.policy(MODEL)["epoch"])
    table = Table("policy", "requests/s", "p50 ms", "p99 ms", "ratio", title="Routing, 32 connections, median of rounds")
    single = statistics.median(load.rate for load in seen["a single arm"])
    for name, loads in seen.items():
        rate = statistics.median(load.rate for load in loads)
        p50, p99 = (statistics.median(load.quantile_ms(q) for load in loads) for q in (0.5, 0.99))
        table.add_row(name, f"{rate:.0f}", f"{p50:.2f}", f"{p99:.2f}", f"{rate / single:.2f}")
    console.print(table)


def storm(running: Running, client: Client, changes: int = 1000) -> None:
    """Policy changes under load, each made when every replica had the one before, while a learner publishes every 2 s."""
    client.set_schedule(MODEL, None, 2.0)
    url = f"{running.url}/models/{MODEL}/predict"
    times: list[float] = []
    first = client.versions(MODEL, 1)[0]["number"]

    def change() -> None:
        epoch = client.policy(MODEL)["epoch"]
        for turn in range(changes):
            share = (turn % 50 + 1) / 100
            policy = _policy({"name": "one", "kind": "canary", "shares": {"ab"[turn % 2]: share}})
            began = perf_counter()
            epoch = client.set_policy(MODEL, policy, epoch)["epoch"]
            times.append(perf_counter() - began)
            if turn % 20 == 0:
                made = client.predict(MODEL, [{"features": {"x": [0.1] * 32}}] * 8)
                client.feedback([{"id": one["id"], "label": number % 2} for number, one in enumerate(made)])

    changer = Thread(target=change)
    changer.start()
    load = Load()
    while changer.is_alive():
        part = run(url, BODY, 32, 2.0)
        load.latencies_s += part.latencies_s
        load.failures += part.failures
        load.seconds += part.seconds
    client.set_schedule(MODEL, None, None)
    published = client.versions(MODEL, 1)[0]["number"] - first
    times.sort()
    console.print(
        f"{len(times)} policy changes under 32 connections ({load.rate:.0f} requests/s), {published} versions published "
        f"meanwhile: {len(load.failures)} failed requests; a change is everywhere after {times[len(times) // 2] * 1000:.0f} ms "
        f"(median), {times[int(len(times) * 0.99)] * 1000:.0f} ms (99th percentile), {times[-1] * 1000:.0f} ms at most"
    )
    client.set_policy(MODEL, POLICIES["a single arm"], client.policy(MODEL)["epoch"])
