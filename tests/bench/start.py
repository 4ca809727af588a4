"""Cold start: `tidemill up` to its first answer, against the least that Ray Serve can be asked for.

The file is also the program of the least: `python -m tests.bench.start PORT` serves one constant answer until its input ends.
"""

import os
import secrets
import signal
import subprocess
import sys
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter, sleep
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from deploy.home import Home
from deploy.serve_settings import free_ports, serve_environment
from tests.bench.verdict import Verdict, say

BOUND = 1.3
ROOT = Path(__file__).parents[2]
INSTANCE = {"instances": [{"features": {"x": [0.1] * 32}}]}
_PATIENCE_S = 180.0
console = Console(width=120)


def start(rounds: int = 3) -> None:
    """Both in turn, each in a fresh process, and what ours does meanwhile."""
    least: list[float] = []
    ours: list[dict[str, float]] = []
    for number in range(rounds):
        least.append(_least())
        ours.append(_ours())
        console.print(f"round {number + 1}: the least {least[-1]:.1f} s, ours {sum(ours[-1].values()):.1f} s")
    table = Table("stage", "median s", "share", title=f"Cold start, median of {rounds} rounds")
    whole = median(sum(stages.values()) for stages in ours)
    for stage in ours[-1]:
        seconds = median(stages.get(stage, 0.0) for stages in ours)
        table.add_row(stage, f"{seconds:.2f}", f"{seconds / whole:.0%}")
    table.add_row("tidemill up, all of it", f"{whole:.2f}", "")
    table.add_row("a trivial application on Ray Serve", f"{median(least):.2f}", "")
    console.print(table)
    say(Verdict("cold start against a trivial application's", whole / median(least), "under", BOUND))


def _ours() -> dict[str, float]:
    """Seconds in each stage, up to the first answer, by stage in order."""
    [port] = free_ports(1)
    url = f"http://127.0.0.1:{port}/models/vector/predict"
    with TemporaryDirectory(prefix="tidemill-start-") as folder:
        command = [
            sys.executable,
            "-m",
            "deploy.cli",
            "up",
            "--spec=examples.vector:spec",
            f"--home={folder}",
            f"--port={port}",
        ]
        began = perf_counter()
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
        try:
            return _watched(process, Home(Path(folder)), url, began)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)


def _watched(process: "subprocess.Popen[bytes]", home: Home, url: str, began: float) -> dict[str, float]:
    stages: dict[str, float] = {}
    stage, since = "python and its imports", began
    with httpx.Client(timeout=2.0) as client:
        while True:
            running, now = home.running(), perf_counter()
            if running is not None and running.stage != stage:
                stages[stage] = now - since
                stage, since = running.stage, now
            if stage in ("waiting for the first version", "ready") and _answers(client, url):
                return stages | {stage: perf_counter() - since}
            if process.poll() is not None or now - began > _PATIENCE_S:
                raise RuntimeError("the platform did not start")
            sleep(0.02)


def _least() -> float:
    [port] = free_ports(1)
    began = perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "tests.bench.start", str(port)], cwd=ROOT, stdin=subprocess.PIPE)
    try:
        with httpx.Client(timeout=2.0) as client:
            while not _answers(client, f"http://127.0.0.1:{port}/"):
                if process.poll() is not None or perf_counter() - began > _PATIENCE_S:
                    raise RuntimeError("the trivial application did not start")
                sleep(0.02)
        return perf_counter() - began
    finally:
        process.communicate(timeout=60)


def _answers(client: httpx.Client, url: str) -> bool:
    try:
        return client.post(url, json=INSTANCE).status_code == 200
    except httpx.HTTPError:
        return False


def main() -> None:
    """Serve a constant with Ray as it comes, HAProxy set up as ours is."""
    with TemporaryDirectory(prefix="tm-", ignore_cleanup_errors=True) as folder:
        serve_least(Path(folder))


def serve_least(run_directory: Path) -> None:
    (run_directory / "token").write_text(secrets.token_hex())
    os.environ.update(serve_environment(run_directory))
    import ray  # noqa: PLC0415 - reads the environment
    from ray import serve  # noqa: PLC0415

    def build() -> Any:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "lifespan":
                while (await receive())["type"] != "lifespan.shutdown":
                    await send({"type": "lifespan.startup.complete"})
                await send({"type": "lifespan.shutdown.complete"})
                return
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
            await send({"type": "http.response.body", "body": b"{}"})

        return app

    class Least:
        pass

    ray.init(include_dashboard=False, num_cpus=16, log_to_driver=False, _temp_dir=str(run_directory / "ray"))
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    least: Any = serve.deployment(ray_actor_options={"num_cpus": 0.1})(serve.ingress(build)(Least))
    serve.run(least.bind(), name="least", route_prefix="/")
    sys.stdin.read()
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()
