"""A stream whose labels say nothing but how likely a 1 is at the time: what each model must come to is known."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel
from torch import Tensor, nn

from store.learning import SGD
from store.records import Outcome, Outcomes, Served, pack_outcomes
from store.schema import Schema
from store.spec import Learning, ModelSpec
from tuning.freshness import Plan, planned
from tuning.replay import Batch, Replay

SOURCE = "tests.unit.tuning.steady:spec"
DAY_S = 86_400.0
DAY_0 = 20_000 * DAY_S
PER_DAY = 256
PER_BATCH = 32
DELAY_S = 5_400.0
"""Until the label comes."""


class Features(BaseModel):
    """`day` is when the prediction was asked for: exact in float32, as a day has 256 predictions."""

    day: float


class Chance(nn.Module):
    """Says the same of all: the log odds of a 1."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, numbers: Tensor, categories: Tensor) -> Tensor:
        del categories
        return self.bias.expand(len(numbers), 1)


def network(features: Schema, outputs: int) -> nn.Module:
    del features, outputs
    return Chance()


spec = ModelSpec(
    name="m",
    features=Features,
    network=network,
    # Half a day is remembered: what was learned before a shift is forgotten a day after it.
    learning=Learning(learning_rate=2.0, passes=1, weight_decay=0.0, optimiser=SGD(momentum=0.0)),
)


def outcomes(days: int, chance: Callable[[float], float], seed: int = 0) -> list[Outcome]:
    """Return outcomes in the order in which their labels came."""
    draw = np.random.default_rng(seed)
    found: list[Outcome] = []
    for number in range(days * PER_DAY):
        day = number / PER_DAY
        at, label = DAY_0 + day * DAY_S, float(draw.random() < chance(day))
        came = at + DELAY_S
        found.append(Outcome(f"{number}", "", [day], [0.5], Served("main", 1, 1.0), label, "label", True, at, came, came))
    return found


def replay(found: list[Outcome], every: int = PER_BATCH) -> Replay:
    """Return them as a replay, in micro-batches of so many."""
    batches, packed, offset = list[Batch](), list[bytes](), 0
    for start in range(0, len(found), every):
        part = found[start : start + every]
        payload = pack_outcomes(Outcomes(part))
        batches.append(Batch(
            seed=f"{start + 1}-0", outcomes=len(part), at=part[-1].labelled_at, offset=offset, size=len(payload)
        ))  # fmt: skip
        packed.append(payload)
        offset += len(payload)
    return Replay(spec.record.model_copy(update={"source": SOURCE}), tuple(batches), b"".join(packed))


def plan(folder: Path, days: int, chance: Callable[[float], float], **given: Any) -> Plan:
    """Return the plan for a stream with a first window of four days."""
    settings: dict[str, Any] = {"window_days": 4.0, "passes": 1, **given}
    return planned(replay(outcomes(days, chance)), folder, **settings)


def expected_loss(chance: float, said: float) -> float:
    """The log loss, in nats, of saying one chance where it is another."""
    return -(chance * math.log(said) + (1.0 - chance) * math.log1p(-said))
