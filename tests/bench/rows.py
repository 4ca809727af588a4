"""Many rows in one request against a row in each, at one connection."""

import json
from statistics import median

import numpy as np
from rich.console import Console
from rich.table import Table

from deploy.home import Running
from tests.bench.load import Load, run
from tests.bench.serving import MODEL
from tests.bench.verdict import Verdict, say

ROWS = 512
BOUND = 50.0
console = Console(width=120)


def rows(running: Running, rounds: int = 3, seconds: float = 5.0) -> None:
    """Rows per second of both, in turn: as JSON, and as raw tensors of the Open Inference Protocol."""
    seen: dict[tuple[str, int], list[Load]] = {}
    for _ in range(rounds):
        for count in (1, ROWS):
            for name, (path, body, headers) in _requests(count).items():
                load = run(f"{running.url}/{path}", body, 1, seconds, headers=headers)
                if load.failures:
                    raise RuntimeError(f"{name}, {count} rows: {load.failures[0]}")
                seen.setdefault((name, count), []).append(load)
    table = Table("request", "rows", "rows/s", "p50 ms", "p99 ms", "ratio", title="Rows in a request, 1 connection")
    verdicts: list[Verdict] = []
    for name in _requests(1):
        rates = {count: count * median(load.rate for load in seen[name, count]) for count in (1, ROWS)}
        ratio = rates[ROWS] / rates[1]
        for count, rate in rates.items():
            quantiles = (f"{median(load.quantile_ms(q) for load in seen[name, count]):.2f}" for q in (0.5, 0.99))
            table.add_row(name, str(count), f"{rate:,.0f}", *quantiles, f"{rate / rates[1]:.1f}")
        verdicts.append(Verdict(f"rows/s of {ROWS} rows against 1, {name}", ratio, "over", BOUND))
    console.print(table)
    say(*verdicts)


def _requests(count: int) -> dict[str, tuple[str, bytes, dict[str, str]]]:
    """Path, body and headers of a request with so many rows, by name."""
    drawn = np.random.default_rng(0).normal(size=(count, 32)).round(2).astype(np.float32)
    instances = [{"features": {"x": row}} for row in drawn.astype(float).round(2).tolist()]
    tensor = {"name": "x", "shape": [count, 32], "datatype": "FP32", "parameters": {"binary_data_size": drawn.nbytes}}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    raw = {"inference-header-content-length": str(len(head))}
    return {
        "predict, JSON": (f"models/{MODEL}/predict", json.dumps({"instances": instances}).encode(), {}),
        "infer, raw": (f"v2/models/{MODEL}/infer", head + drawn.tobytes(), raw),
    }
