"""`make bench`: every figure that the README states, as ratios inside one run."""

import argparse
import platform as machine

import psutil

from tests.bench import compress, interleaving, quality, routing, serving, statistics, travellers

ON_PLATFORM = ("throughput", "swap", "freshness", "routing", "storm", "rows", "tail", "overload", "memory")
PARTS = (*ON_PLATFORM, "planning", "compress", "statistics", "interleaving", "travellers", "quality")


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--until", default="2013-12-31", help="last day of the quality run")
    parser.add_argument("--soak", action="store_true", help="ten times as long, without the quality run")
    given = parser.parse_args()
    wanted = [part for part in given.only if not (given.soak and part == "quality")]
    memory = psutil.virtual_memory().total / 2**30
    print(f"{machine.platform()}, {machine.machine()}, {psutil.cpu_count()} processors, {memory:.0f} GiB")
    if set(wanted) & set(ON_PLATFORM):
        run_serving(wanted, 10 if given.soak else 1)
    if "planning" in wanted:
        routing.planning()
    if "compress" in wanted:
        compress.compress_figures()
    if "statistics" in wanted:
        statistics.statistics_figures()
    if "interleaving" in wanted:
        interleaving.interleaving()
    if "travellers" in wanted:
        travellers.flight_rankers()
    if "quality" in wanted:
        quality.year(given.until)


def run_serving(wanted: list[str], times: int) -> None:
    with serving.platform() as (running, client):
        if "throughput" in wanted:
            serving.throughput(running, rounds=3 * times)
        if "swap" in wanted:
            serving.hot_swap(running, client, versions=100 * times)
        if "freshness" in wanted:
            serving.freshness(running, client, seconds=30.0 * times)
        if "routing" in wanted:
            routing.routing(running, client, rounds=5 * times)
        if "storm" in wanted:
            routing.storm(running, client, changes=1000 * times)
        if "memory" in wanted:
            serving.memory(client)


if __name__ == "__main__":
    main()
