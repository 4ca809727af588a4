"""A task whose answer is known, and an archive of it."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from pydantic import BaseModel

from store.archive import Archive
from store.records import Outcome, Served
from store.spec import Learning, ModelSpec, Schedule

DAY_1 = datetime(2026, 3, 1, tzinfo=UTC)
SOURCE = "tests.unit.trainer.retraining.simulated:spec"


class Features(BaseModel):
    x: float
    y: float | None
    colour: str


spec = ModelSpec(name="m", features=Features, schedule=Schedule(seconds=None), learning=Learning(rows=128))


def outcomes(rows: int, seed: int = 0, day: int = 0) -> list[Outcome]:
    """Return outcomes of one day, a second apart: the chance of a 1 follows from x, y and the colour."""
    draw = np.random.default_rng(seed)
    x, y = draw.normal(size=rows), draw.normal(3.0, 2.0, rows)
    colours = draw.choice(["red", "green", "blue"], rows)
    chance = 1 / (1 + np.exp(-(2.0 * x - (y - 3.0) + np.where(colours == "red", 1.5, -0.5))))
    labels = (draw.random(rows) < chance).astype(float)
    at = DAY_1.timestamp() + day * 86_400.0
    return [
        Outcome(
            f"{day}-{row}", "", [float(x[row]), None if row % 9 == 0 else float(y[row]), str(colours[row])], [0.5],
            Served("main", 1, 1.0), float(labels[row]), "label", True, at + row, at + row, at + row,
        )
        for row in range(rows)
    ]  # fmt: skip


def archive(folder: Path, rows: int = 1_000, day: int = 0) -> None:
    """Archive a day's outcomes, ten to an entry of the stream."""
    found = outcomes(rows, day, day)
    with Archive(folder, "m", spec.record.features) as made:
        placed = [(f"{day + 1}-{number // 10}", outcome) for number, outcome in enumerate(found)]
        made.write(placed[0][0], placed[-1][0], placed)
