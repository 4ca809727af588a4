"""How a model's stream is watched for drift, as a user declares it."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Kind = Literal["covariate", "prediction", "label", "concept", "multivariate"]
Response = Literal["alert", "raise the learning rate", "reset the optimiser", "retrain"]


class Drift(BaseModel):
    """Watch what is learned from for drift. A model that declares none is not watched, and pays nothing for it.

    Args:
        watch: which kinds. covariate: each feature by itself; multivariate: the features together; prediction: the learner's
            answers; label; concept: the loss of each row before its label is learned.
        short: outcomes of the windows that are looked at first.
        long: outcomes of the long windows, rounded down to a multiple of `short`: they show less, later.
        season: what a window is compared with: the same hour of earlier days, the same hour of earlier weeks (the clock is
            UTC), or (None) all that was learned. It is taken from two whole cycles: until then features, answers and labels
            are not judged, and a season of the loss may alarm.
        false_alarms: how many are accepted in a million outcomes, of all detectors together.
        effect: the least distance that matters, from 0 (the same distribution) to 1 (nothing in common).
        respond: what is done about an alarm, which is told in any case. 'retrain': once as many outcomes as a long window has
            are archived since the shift, they are learned from scratch, to a version of the line 'retrained'.
        factor: by which the learning rate is raised.
        batches: for how many micro-batches it is.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    watch: tuple[Kind, ...] = ("covariate", "prediction", "label", "concept", "multivariate")
    short: int = Field(default=512, ge=64, le=65_536)
    long: int = Field(default=8192, ge=128, le=1_048_576)
    season: Literal["hour", "hour and weekday"] | None = None
    false_alarms: float = Field(default=1.0, gt=0.0, le=1000.0)
    effect: float = Field(default=0.05, ge=0.0, lt=1.0)
    respond: tuple[Response, ...] = ("alert",)
    factor: float = Field(default=3.0, gt=0.0, le=100.0)
    batches: int = Field(default=20, ge=1)


def summary(alarm: Mapping[str, Any]) -> str:
    """Return an alarm in words: what moved, since when, how much, and where most.

    >>> place = {"outcome": 512, "at": 0.0, "log_position": "1-1"}
    >>> moved = {"what": "loss", "effect": 0.51, "before": 0.2, "after": 0.4, "value": "", "slices": []}
    >>> summary({"kind": "concept", "since": place, "moved": [moved]})
    'concept drift since 1970-01-01 00:00 UTC (outcome 512): loss 0.2 to 0.4 (0.51).'
    """
    named = [_moved(one) for one in alarm["moved"][:3]]
    more = len(alarm["moved"]) - len(named)
    what = ", ".join(named) + (f", and {more} more" if more else "")
    word = "drift" if alarm["kind"] in ("concept", "multivariate") else "shift"
    return f"{alarm['kind']} {word} since {moment(alarm['since']['at'])} (outcome {alarm['since']['outcome']}): {what}."


def moment(at: float) -> str:
    """A time of the stream's clock, whose years may be any."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC") if -6e10 < at < 2.5e11 else f"{at:g} s"


def _moved(one: Mapping[str, Any]) -> str:
    numbers = f" {one['before']:.4g} to {one['after']:.4g}" if one["before"] is not None and one["after"] is not None else ""
    value = f" = {one['value']}" if one["value"] else ""
    where = [f"{part['slice']} {part['value']} {part['effect']:.2f}" for part in one["slices"][:2]]
    most = f"; most in {', '.join(where)}" if where else ""
    return f"{one['what']}{value}{numbers} ({one['effect']:.2f}{most})"
