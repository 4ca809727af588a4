"""What is searched, on what and how: with the replay beside it, all that a search needs to go on after anything."""

from dataclasses import replace
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from store.search import Way
from store.spec import ModelSpec, load_spec

SearchKind = Literal["random", "optuna"]
REDUCTION = 3
"""Of the trials that reach a rung, one in so many goes on to the next."""


class SearchPlan(BaseModel):
    """A search. Trials depart from `way`, which is main's, None: as declared. `cpus` trials run at a time; `minutes` after
    which no more is learned, None: however long it takes. `holdout` is the share of batches, the last, that no trial sees."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    source: str
    way: Way | None = None
    trials: int = Field(default=32, ge=1, le=10_000)
    search: SearchKind = "random"
    asha: bool = True
    cpus: int = Field(default=1, ge=1, le=1024)
    minutes: float | None = Field(default=None, gt=0.0)
    seed: int = 0
    holdout: float = Field(default=0.25, gt=0.0, lt=1.0)
    line: str = "tuned"

    def spec(self) -> ModelSpec:
        """Raises SpecError."""
        declared, way = load_spec(self.source), self.way
        return declared if way is None else replace(declared, learning=way.learning, shape=way.shape)

    def seen(self, batches: int) -> int:
        """How many of a replay's batches trials see."""
        return max(1, min(batches - 1, int(batches * (1 - self.holdout))))

    def rungs(self, batches: int) -> list[int]:
        """Return where trials stop to be compared, in batches of the replay; the last is all that they see.

        >>> SearchPlan(model="m", source="m:spec").rungs(120)
        [10, 30, 90]
        """
        all_ = self.seen(batches)
        return sorted({max(1, all_ // REDUCTION**power) for power in range(3)})
