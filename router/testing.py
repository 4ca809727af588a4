"""A small world for tests of experiments: units that come and go, versions that behave well or badly, labels that come late."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from router.accounts import ArmsAccount
from router.planner import Planner
from store.policy import Experiment, Policy, Variant
from store.records import Failures, Outcome, Predictions, Served
from store.schema import Schema
from store.spec import ModelRecord

BINARY = ModelRecord(name="m", features=Schema(fields=()), objective="binary")


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How a version behaves: how often it fails, how long its runs take, and how far its scores are from the truth.

    Args:
        errors: the share of units whose predictions it cannot make (the same ones again).
        seconds: the median of a run; the spread is that of a real one.
        noise: added to the true log odds, standard deviation.
        shift: added to all log odds.
    """

    errors: float = 0.0
    seconds: float = 0.0001
    noise: float = 0.3
    shift: float = 0.0


class World:
    """Units ask, arms answer, and later the truth comes out. Time goes on by `tick_s` per request.

    Args:
        population: how many units there are; 0 lets every request be a unit of its own.
    """

    def __init__(self, seed: int, population: int = 0, tick_s: float = 0.01) -> None:
        self._random = np.random.default_rng(seed)
        self._population = population
        self._tick_s = tick_s
        self.now = 1000.0
        self._count = 0

    def requests(
        self, policy: Policy, epoch: int, behaviours: dict[str, Behaviour], count: int
    ) -> Iterator[Predictions | Failures | Outcome]:
        """Yield what the log and the outcome stream would hold of `count` requests."""
        planner = Planner(policy)
        for _ in range(count):
            self._count += 1
            self.now += self._tick_s
            unit = f"u{self._random.integers(self._population)}" if self._population else f"r{self._count}"
            plan = planner.plan(unit)
            behaviour = behaviours[plan.variant]
            odds = float(self._random.normal(-1.0, 1.5))
            label = int(self._random.random() < 1 / (1 + np.exp(-odds)))
            failed = behaviour.errors and np.random.default_rng(hash_of(unit)).random() < behaviour.errors
            if failed:
                yield Failures(self.now, [str(self._count)], [unit], plan.variant, 2, plan.experiments, epoch, "error", True)
                continue
            given = odds + behaviour.shift + behaviour.noise * float(self._random.normal())
            output = [float(1 / (1 + np.exp(-given)))]
            seconds = behaviour.seconds * float(self._random.lognormal(0.0, 0.4))
            served = Served(plan.variant, 1, plan.propensity, plan.experiments, seconds, epoch)
            yield Predictions(self.now, [str(self._count)], [unit], [[]], [output], [served], [0])
            yield Outcome(str(self._count), unit, [], output, served, label, "label", True, self.now, self.now, self.now)


def hash_of(unit: str) -> int:
    return int.from_bytes(unit.encode()[-8:], "big")


def book(account: ArmsAccount, events: Iterator[Predictions | Failures | Outcome], now: float | None = None) -> None:
    """Enter events into an account."""
    for event in events:
        match event:
            case Predictions():
                account.predictions(event)
            case Failures():
                account.failures(event)
            case Outcome():
                account.outcome(event)
    account.close(now)


def two_versions(*experiments: Experiment) -> Policy:
    """A champion and a candidate, both pinned."""
    variants = (Variant(name="champion", version=1), Variant(name="candidate", version=2))
    return Policy(variants=variants, default="champion", experiments=experiments)
