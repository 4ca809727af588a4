"""What a running platform holds: memory, descriptors, threads, processes, keys in Redis."""

import re
from collections import Counter
from contextlib import suppress
from typing import Any, cast

import psutil
from redis import Redis

from deploy.testing import TestPlatform

_ACTORS = {"ray::ControlActor": "controller", "ray::JoinActor": "joiner", "ray::TrainerActor": "trainer"}
_KEPT = ("log", "outcomes", "versions", "weights", "graph", "audit", "control", "consumer")
"""Kinds of keys whose size is what is retained: entries, versions, and what consumers remember."""

Vitals = dict[str, float]


class Probe:
    """Takes samples of one platform; `processes` are all that it ever had."""

    def __init__(self, platform: TestPlatform) -> None:
        self._platform = platform
        self._redis: Any = Redis.from_url(platform.running.redis_url)
        self.processes: set[psutil.Process] = set()

    def close(self) -> None:
        self._redis.close()

    def sample(self) -> Vitals:
        """Names say the unit; where a part has several processes, they are summed."""
        seen: Counter[str] = Counter()
        processes = self._platform.processes()
        self.processes.update(processes)
        replicas = set(self._platform.pids("replicas"))
        for process in processes:
            with suppress(psutil.Error):
                self._add(seen, process, _role(process, replicas))
        seen["processes"] = len(processes)
        return dict(seen) | self._store()

    def _add(self, seen: "Counter[str]", process: psutil.Process, role: str) -> None:
        memory = process.memory_full_info()
        values = {
            f"{role} unshared MiB": memory.uss / 2**20,
            f"{role} resident MiB": memory.rss / 2**20,
            f"{role} descriptors": process.num_fds(),
            f"{role} threads": process.num_threads(),
        }
        for name, value in values.items():
            seen[name] = cast(int, seen[name] + value)

    def _store(self) -> Vitals:
        kinds: Counter[str] = Counter()
        explained = 0
        for key in self._redis.scan_iter(count=1000):
            kind = _kind(key.decode())
            kinds[kind] += 1
            if kind.removeprefix("keys: ") in _KEPT:
                explained += self._redis.memory_usage(key, samples=0) or 0
        keys = self._redis.hlen("tidemill:keys")
        used = self._redis.info("memory")["used_memory"]
        own = {"redis used MiB": used / 2**20, "redis unexplained MiB": (used - explained) / 2**20, "API keys": float(keys)}
        return own | {kind: float(count) for kind, count in kinds.items()}


def _role(process: psutil.Process, replicas: set[int]) -> str:
    if process.pid in replicas:
        return "replica"
    if "redis-server" in process.name():
        return "redis"
    line = " ".join(process.cmdline())
    return next((role for title, role in _ACTORS.items() if line.startswith(title)), "the rest")


def _kind(key: str) -> str:
    parts = [part for part in key.split(":")[1:] if not re.fullmatch(r"[0-9a-f]+|[0-9]+", part)]
    named = [part for part in parts if part not in ("vector", "shop")]
    return "keys: " + (named[0] if named else "other")
