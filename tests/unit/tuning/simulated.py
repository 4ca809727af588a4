"""A stream whose answer is known: learners of a good rate do better on it than those of a tiny one."""

from pathlib import Path

import numpy as np
from pydantic import BaseModel

from store.learning import Learning
from store.records import Outcome, Outcomes, Served, pack_outcomes
from store.search import Int, LogUniform, Search
from store.shape import Shape
from store.spec import ModelSpec, Schedule
from tuning.replay import Batch, Replay

SOURCE = "tests.unit.tuning.simulated:spec"


class Features(BaseModel):
    x: float
    colour: str


spec = ModelSpec(
    name="m",
    features=Features,
    schedule=Schedule(seconds=None),
    learning=Learning(learning_rate=0.0003, passes=1),
    shape=Shape(hidden=(4,), dimension=2),
    search=Search(over={"learning.learning_rate": LogUniform(low=1e-5, high=0.1), "learning.passes": Int(low=1, high=2)}),
)


def replay(batches: int = 36, rows: int = 40) -> Replay:
    """Return micro-batches, a minute apart: the chance of a 1 follows from x and the colour."""
    draw = np.random.default_rng(7)
    found, packed, offset = list[Batch](), list[bytes](), 0
    for number in range(batches):
        x, colours = draw.normal(size=rows), draw.choice(["red", "green"], rows)
        labels = (draw.random(rows) < 1 / (1 + np.exp(-3.0 * x - np.where(colours == "red", 1.5, -1.5)))).astype(float)
        at = 60.0 * number
        payload = pack_outcomes(Outcomes([
            Outcome(
                f"{number}-{row}", "", [float(x[row]), str(colours[row])], [0.5], Served("main", 1, 1.0), float(labels[row]),
                "label", True, at, at, at,
            )
            for row in range(rows)
        ]))  # fmt: skip
        found.append(Batch(seed=f"{number}-0", outcomes=rows, at=at, offset=offset, size=len(payload)))
        packed.append(payload)
        offset += len(payload)
    return Replay(spec.record, tuple(found), b"".join(packed))


def laid_down(folder: Path, batches: int = 36) -> Path:
    """Put the stream into a search's folder."""
    (folder / "trials").mkdir(parents=True, exist_ok=True)
    replay(batches).save(folder / "replay")
    return folder
