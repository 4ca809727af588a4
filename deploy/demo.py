"""The demo: the flights of 2013 through a platform of its own, learning all the while, beside a model frozen on 1 March."""

import json
import shutil
import signal
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, date, datetime, time, timedelta
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import uvloop
from rich.console import Console

from deploy import detached
from deploy.client import Client
from deploy.cluster import PortInUse, ensure_port_free
from deploy.home import Home, Running
from deploy.platform import Platform
from deploy.quality import NOTHING
from deploy.serve_settings import free_ports
from deploy.settings import Settings
from examples.flights.replay import MODEL
from examples.flights.stream import Flight, data_folder, load

if TYPE_CHECKING:
    from deploy.report import Findings

SPEC = "examples.flights:spec"
TRIAL_DAYS = LINE_DAYS = 14
_FEW = 5000
console = Console()


def run_demo(settings: Settings, *, until: str, seed: int, keep_running: bool, report: Path, trials: bool = True) -> "Findings":
    """Start a fresh platform, replay, show, report; leave nothing running unless told to.

    Args:
        trials: whether versions, rankers and a way to learn are tried on the flights that follow, which are learned, too.
    """
    try:
        last_day = date.fromisoformat(until)
    except ValueError:
        raise ValueError(f"--until {until}: write a day of 2013 as 2013-05-31") from None
    if not date(2013, 1, 1) <= last_day <= date(2013, 12, 31):
        raise ValueError(f"--until {until}: the flights are of 2013")
    data_folder()  # says what to install, before anything is started
    reading = ThreadPoolExecutor(1).submit(_prepare, last_day)
    with _platform(_fresh(settings, seed), keep_running) as running:
        flights, later, last = reading.result()
        from deploy.report import write_report  # noqa: PLC0415 - see _prepare
        from deploy.show import print_findings, replay  # noqa: PLC0415
        from deploy.trials import try_rankers, try_versions  # noqa: PLC0415
        from deploy.tuned import find_way, try_way  # noqa: PLC0415

        token = Home(settings.home).token()
        with Client(running.url, token) as client:  # the replay ends a micro-batch at every hour of its own clock
            client.set_schedule(MODEL, None, None)
        findings = uvloop.run(replay(flights, running, token, settings.prefix))
        if trials and findings.frozen is not NOTHING and findings.frozen_version:
            console.print("\nThe version frozen on 1 March is champion now; newer ones are tried on the flights that follow.")
            fared = uvloop.run(try_versions(later, running, token, settings.prefix, findings.frozen_version))
            findings.trials.extend(line for trial in fared for line in trial.says())
            _say(findings.trials)
            console.print("\nTravellers choose from lists that the champion and a rival draft together.")
            findings.rankers.extend(uvloop.run(try_rankers(later, running, token, settings.prefix, seed)).says())
            _say(findings.rankers)
        if trials:
            console.print("\nA better way to learn is searched for, and tried on live traffic as a line beside main.")
            tried = uvloop.run(try_way(find_way(settings, flights[-1]), last, running, token))
            findings.ways.extend(tried.says())
            _say(findings.ways)
        page, picture = write_report(findings, report)
        print_findings(findings)
        console.print(f"report: {page} (chart: {picture})")
        if keep_running:
            _say_how_to_call(running, settings.home, flights[-1])
    return findings


def _prepare(last_day: date) -> tuple[list[Flight], list[Flight], list[Flight]]:
    """While the platform starts: read the flights, and import what draws and measures, which takes as long.

    Returns the flights to learn from, those of the days after, and those that follow; at the end of the year, its last days
    once more.
    """
    import_module("deploy.show")
    after = datetime.combine(last_day + timedelta(days=1), time(5), UTC)  # midnight in New York, or close to it
    flights = load(last_day + timedelta(days=1 + TRIAL_DAYS + LINE_DAYS))
    learned = [flight for flight in flights if flight.departure < after]
    parts = (after, after + timedelta(days=TRIAL_DAYS), flights[-1].departure + timedelta(seconds=1))
    rest = [[one for one in flights if since <= one.departure < until] for since, until in pairwise(parts)]
    later, last = (part if len(part) > _FEW else learned[-TRIAL_DAYS * 900 :] for part in rest)
    return learned, later, last


def _fresh(settings: Settings, seed: int) -> Settings:
    """A demo starts from nothing, and on another port if the usual one is taken."""
    if running := Home(settings.home).running():
        raise ValueError(f"the last demo still runs at {running.url}: tidemill down --home {settings.home}")
    for kept in ("redis", "tuning"):
        shutil.rmtree(settings.home / kept, ignore_errors=True)
    port = settings.port
    try:
        ensure_port_free(settings.host, port)
    except PortInUse:
        [port] = free_ports(1)
    return settings.model_copy(update={"port": port, "seed": seed})


@contextmanager
def _platform(settings: Settings, keep_running: bool) -> Generator[Running]:
    """A platform for as long as the demo runs; with `keep_running`, one that stays when the demo went well."""
    if keep_running:
        running = detached.start(settings, [SPEC], _stage)
        try:
            yield running
        except BaseException:
            detached.stop(Home(settings.home))
            raise
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    platform = Platform(settings, [SPEC], _stage)
    try:
        yield platform.start()
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        platform.stop()
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _say(lines: list[str]) -> None:
    for line in lines:
        console.print(line, highlight=False)


def _stage(stage: str) -> None:
    console.print(f"[dim]{stage}[/dim]")


def _say_how_to_call(running: Running, home: Path, flight: Flight) -> None:
    body = json.dumps({"instances": [{"features": flight.features}]})
    console.print(f"The platform stays up at {running.url}. Ask it:", highlight=False)
    print(f"  curl -s {running.url}/models/{MODEL}/predict -d '{body}'")
    console.print(f"and stop it with: tidemill down --home {home}", highlight=False)
