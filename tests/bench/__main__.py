"""`make bench`: every figure that the README states, as ratios inside one run."""

import argparse
import platform as machine

import psutil

from tests.bench import (
    beside,
    cadences,
    compress,
    drift,
    features,
    interleaving,
    labels,
    learning,
    overload,
    placement,
    quality,
    routing,
    rows,
    serving,
    start,
    statistics,
    tail,
    travellers,
    tuning,
)
from tests.bench.soak import soak

ON_PLATFORM = ("throughput", "swap", "freshness", "routing", "storm", "rows", "tail", "overload", "memory")
PARTS = (
    *ON_PLATFORM,
    "start",
    "placement",
    "planning",
    "learning",
    "compress",
    "drift",
    "statistics",
    "interleaving",
    "travellers",
    "labels",
    "quality",
)
BY_NAME = ("beside", "features", "tuning", "cadences")
"""The year once more for each, or searches that want both processors: only where they are asked for."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=(*PARTS, *BY_NAME), default=list(PARTS))
    parser.add_argument("--until", default="2013-12-31", help="last day of the runs for quality, features and cadences")
    parser.add_argument("--soak", action="store_true", help="mixed load on one platform, and what grows and what is left")
    parser.add_argument("--minutes", type=float, help="of the soak (20), or of the run for the tail (10)")
    given = parser.parse_args()
    memory = psutil.virtual_memory().total / 2**30
    print(f"{machine.platform()}, {machine.machine()}, {psutil.cpu_count()} processors, {memory:.0f} GiB")
    if given.soak:
        soak(given.minutes or 20.0)
        return
    wanted: list[str] = given.only
    if "beside" in wanted:
        beside.log()
    if set(wanted) & {*ON_PLATFORM, "beside"}:
        run_serving(wanted, given.minutes or 10.0)
    alone = {
        "start": start.start,
        "placement": placement.placement,
        "planning": routing.planning,
        "learning": learning.learning_figures,
        "compress": compress.compress_figures,
        "drift": drift.drift_figures,
        "statistics": statistics.statistics_figures,
        "interleaving": interleaving.interleaving,
        "travellers": travellers.flight_rankers,
        "labels": labels.label_figures,
        "features": lambda: features.feature_figures(given.until),
        "tuning": tuning.tuning_figures,
        "cadences": lambda: cadences.cadence_figures(given.until),
        "quality": lambda: quality.year(given.until),
    }
    for name, figure in alone.items():
        if name in wanted:
            figure()


def run_serving(wanted: list[str], minutes: float) -> None:
    figures = {
        "throughput": lambda: serving.throughput(running, client),
        "swap": lambda: serving.hot_swap(running, client),
        "freshness": lambda: serving.freshness(running, client),
        "routing": lambda: routing.routing(running, client),
        "storm": lambda: routing.storm(running, client),
        "rows": lambda: rows.rows(running),
        "tail": lambda: tail.tail(running, client, minutes),
        "overload": lambda: overload.overload(running, client),
        "memory": lambda: serving.memory(client),
        "beside": lambda: beside.beside(running),
    }
    with serving.platform() as (running, client):
        for name, figure in figures.items():
            if name in wanted:
                figure()


if __name__ == "__main__":
    main()
