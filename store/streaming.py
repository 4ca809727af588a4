"""Streaming features: what a model's own stream says of a key when a prediction is asked for.

An `Aggregate` is declared in the ModelSpec ("late share of this origin, half of it the last two hours") and becomes one more
feature: a number that no request may send. The replica that answers works it out, once, before arms are planned; it is logged
with the prediction and learned as logged. So training never sees what serving did not know. store/streams.py holds the state.
"""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from store.errors import SpecError
from store.schema import FeatureField, Schema

LABEL, PREDICTIONS, SCORE, UNIT = "label", "predictions", "score", "unit"
BUCKETS = 20
"""Of a sliding window: it ends now, and begins between one window and 19/20 of it ago."""

_KEYS = ("category", "boolean")
_SHORTEST_S = 1e-3


class Aggregate(BaseModel):
    """A windowed or decayed aggregate over a model's outcomes or predictions, as a feature.

    Args:
        name: the feature's.
        by: the features whose values make the key, categories or booleans; "unit" is the prediction's unit; none: one for all.
        of: "label" or, of a multiclass model, "label:CLASS" (1 where it is that class, else 0): over outcomes, as labels come;
            "predictions", "score" (the answer), or a numeric feature's name (where it is there): over logged predictions.
        kind: "mean"; "count" of outcomes or predictions, by weight where they decay; "rate": per hour.
        window_s: all of the last so many seconds, in `BUCKETS` buckets; or
        half_life_s: all that ever was, half the weight after so many seconds.
        prior: a mean is drawn towards that over all keys as by so many rows (and that one towards the mean of all time), so
            a key never seen says what holds for all. Without any row at all it is missing.
        keys: how many keys are kept at most; those that nothing was added to for the longest go first. In the trainer and in
            each replica one takes half a kB of memory, and up to 0.8 kB with a window.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, max_length=100)
    by: tuple[str, ...] = ()
    of: str = LABEL
    kind: Literal["mean", "count", "rate"] = "mean"
    window_s: float | None = Field(default=None, ge=_SHORTEST_S, allow_inf_nan=False)
    half_life_s: float | None = Field(default=None, ge=_SHORTEST_S, allow_inf_nan=False)
    prior: float = Field(default=10.0, gt=0.0, allow_inf_nan=False)
    keys: int = Field(default=100_000, ge=1)

    @model_validator(mode="after")
    def _one_horizon(self) -> Self:
        if (self.window_s is None) == (self.half_life_s is None):
            raise ValueError(f"aggregate '{self.name}': give either window_s or half_life_s")
        return self

    @property
    def over_outcomes(self) -> bool:
        return self.of == LABEL or self.of.startswith(f"{LABEL}:")

    @property
    def field(self) -> FeatureField:
        return FeatureField(name=self.name, kind="number", optional=True, streamed=True)


def with_streaming(
    model: str, schema: Schema, aggregates: tuple[Aggregate, ...], objective: str, classes: tuple[str, ...]
) -> Schema:
    """Return the schema with one more field for each aggregate, after those that requests send.

    Raises:
        SpecError: an aggregate asks for what the model does not have; the text says what would be right.
    """
    known = {field.name: field for field in schema.fields}
    taken = set(known)
    for one in aggregates:
        where = f"model '{model}': aggregate '{one.name}'"
        if one.name in taken:
            raise SpecError(f"{where}: a feature or aggregate of this name is there already; choose another name")
        taken.add(one.name)
        _check_key(where, one, known)
        _check_value(where, one, known, objective, classes)
    return Schema(fields=(*schema.fields, *(one.field for one in aggregates)))


def _check_key(where: str, one: Aggregate, known: dict[str, FeatureField]) -> None:
    fit = [name for name, field in known.items() if field.kind in _KEYS]
    if UNIT in one.by and UNIT in known:
        raise SpecError(f"{where}: by 'unit' means the prediction's unit, and a feature is called so, too; rename the feature")
    if unfit := [name for name in one.by if name != UNIT and name not in fit]:
        raise SpecError(f"{where}: by '{unfit[0]}': keys are categories or booleans: {', '.join((*fit, UNIT))}")
    if len(set(one.by)) < len(one.by):
        raise SpecError(f"{where}: by names a feature twice: {', '.join(one.by)}")


def _check_value(where: str, one: Aggregate, known: dict[str, FeatureField], objective: str, classes: tuple[str, ...]) -> None:
    numbers = [name for name, field in known.items() if field.kind in ("number", "boolean")]
    multiclass = objective == "multiclass"
    if one.kind != "mean":
        if one.of not in (LABEL, PREDICTIONS):
            raise SpecError(f"{where}: a {one.kind} is of 'label' (outcomes) or 'predictions', not of '{one.of}'")
        return
    shares = [f"{LABEL}:{name}" for name in classes] if multiclass else []
    fit = [*shares, *numbers] if multiclass else [LABEL, SCORE, *numbers]
    if one.of in (LABEL, SCORE, PREDICTIONS) and one.of in numbers:
        raise SpecError(f"{where}: of '{one.of}' has a meaning of its own, and a feature is called so, too; rename the feature")
    if one.of not in fit:
        raise SpecError(f"{where}: no mean of '{one.of}'; there are {', '.join(fit)}")
