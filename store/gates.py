"""What a version must pass before it is published, declared: `ModelSpec(gates=Gates(...))`. Plain data; the trainer judges."""

import hashlib
from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from store.schema import FLOAT32_MAX, Kind

Choice = float | str | bool | None


class Perturbation(BaseModel):
    """A number that is off by `by` (added and subtracted) may change a score by `most_change` at the most."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    feature: str
    by: float = Field(gt=0.0, allow_inf_nan=False)
    most_change: float = Field(gt=0.0)


class Invariance(BaseModel):
    """Features that must not matter: each of `values` put in their place may change a score by `most_change` at the most."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    features: tuple[str, ...] = Field(min_length=1)
    values: tuple[Choice, ...] = Field(min_length=1)
    most_change: float = Field(default=0.01, gt=0.0)


class Direction(BaseModel):
    """Where `by` is added to a number, scores must go up, or down, or must not.

    Args:
        score: which way; a change of less than `tolerance` is none.
        of: of a multiclass model, the class whose probability is meant.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    feature: str
    by: float = Field(default=1.0, allow_inf_nan=False)
    score: Literal["up", "down", "not up", "not down"]
    of: str = ""
    tolerance: float = Field(default=1e-6, ge=0.0)


class Gates(BaseModel):
    """Gates before publishing. On by default: finite weights and scores, and quality; each other one where it is declared.

    A version that fails is kept on record as rejected, with the reason. Where it is worse than the last good state the learner
    goes back to that; where it is too slow, too large, or breaks a bound that the last good state breaks too, it goes on.

    Args:
        finite: whether scores must be finite (weights must be in any case).
        quality: how much worse than the last good state the mean loss on recent outcomes may be, as a share of it: more than
            that, beyond doubt, is rejected. None: no such gate, and no recent outcomes are kept for it.
        rows: how many recent outcomes versions are judged on.
        min_rows: how many there must be at least; before that only what needs none is judged.
        patience: after so many outcomes that were not learned, and at least three batches, the world may have changed: from
            then on those are the recent outcomes. This is what a sudden drift costs, and how long wrong labels are withstood.
        alpha: the chance that a gate on quality, slices or calibration ever rejects a version that is within its margin, over
            all versions of the model together.
        calibration: the largest expected calibration error (binary and multiclass), None: any.
        slices: like `quality`, for rows of one value of a feature: of `ModelSpec.slices`, and with `found_slices` of every one.
        behaviour: what scores must do on recent rows when a feature changes.
        broken: the share of recent rows on which a declared behaviour may be missed.
        latency_ms: the longest median time for `latency_rows` rows, by ONNX Runtime on this trainer's machine.
        size_mb: the largest artefact, in 10^6 bytes of weights.
        fresh_s: how old a verdict may be, in seconds, when a version is promoted; None: of any age.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    finite: bool = True
    quality: float | None = Field(default=0.1, gt=0.0)
    rows: int = Field(default=2048, ge=100)
    min_rows: int = Field(default=200, ge=50)
    patience: int = Field(default=1024, ge=1)
    alpha: float = Field(default=0.01, gt=0.0, lt=1.0)
    calibration: float | None = Field(default=None, gt=0.0, lt=1.0)
    slices: float | None = Field(default=None, gt=0.0)
    found_slices: bool = True
    behaviour: tuple[Perturbation | Invariance | Direction, ...] = ()
    broken: float = Field(default=0.01, ge=0.0, lt=1.0)
    latency_ms: float | None = Field(default=None, gt=0.0)
    latency_rows: Literal[1, 32, 512] = 32
    size_mb: float | None = Field(default=None, gt=0.0)
    fresh_s: float | None = Field(default=None, gt=0.0)

    @property
    def digest(self) -> str:
        """Changes when a version might be judged otherwise."""
        return hashlib.sha256(self.model_dump_json(exclude={"fresh_s"}).encode()).hexdigest()[:16]

    @property
    def recent(self) -> bool:
        """Whether recent outcomes are needed at all."""
        return bool(self.quality or self.calibration or self.slices or self.behaviour or self.latency_ms)

    def error(self, features: Mapping[str, Kind], classes: tuple[str, ...]) -> str:
        """Say what of these does not fit a model with such features, or nothing."""
        for test in self.behaviour:
            numbers_only = not isinstance(test, Invariance)
            for name in test.features if isinstance(test, Invariance) else (test.feature,):
                if name not in features:
                    return f"there is no feature '{name}' among {', '.join(features)}"
                if numbers_only and features[name] != "number":
                    return f"'{name}' is a {features[name]}: only a number can be changed by an amount"
                if features[name] in ("timestamp", "vector"):
                    return f"'{name}' is a {features[name]}, which no declared value can stand in for"
                if isinstance(test, Invariance) and (unfit := [one for one in test.values if not _fits(one, features[name])]):
                    return f"'{name}' is a {features[name]}: {unfit[0]!r} cannot stand in for its value"
            if isinstance(test, Direction) and test.of not in (classes or ("",)):
                return f"the direction of '{test.feature}' is of one class, of={test.of!r}: there are {list(classes) or 'none'}"
        return "min_rows is more than rows" if self.min_rows > self.rows else ""


def _fits(value: Choice, kind: Kind) -> bool:
    """Whether a feature of a kind can have this value; a missing one any can have."""
    match value:
        case None:
            return True
        case bool():
            return kind == "boolean"
        case str():
            return kind == "category"
        case _:
            return kind == "number" and abs(value) <= FLOAT32_MAX
