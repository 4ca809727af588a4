"""How a model's stream is watched for drift, as a user declares it."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Kind = Literal["covariate", "prediction", "label", "concept", "multivariate"]
Response = Literal["alert", "raise the learning rate", "reset the optimiser", "retrain"]


class Drift(BaseModel):
    """Watch what is learned from for drift. A model that declares none is not watched, and pays nothing for it.

    Args:
        watch: which kinds. covariate: each feature by itself; multivariate: the features together; prediction: the learner's
            answers; label; concept: the loss of each row before its label is learned.
        short: outcomes of the windows that are looked at first.
        long: outcomes of the long windows, a multiple of `short`: they show less, later.
        season: what a window is compared with: the same hour of earlier days, the same hour of earlier weeks (the clock is
            UTC), or (None) all that was learned. It is taken from two whole cycles: until then features, answers and labels
            are not judged, and a season of the loss may alarm.
        false_alarms: how many are accepted in a million outcomes, of all detectors together.
        effect: the least distance that matters, from 0 (the same distribution) to 1 (nothing in common).
        respond: what the learner does about an alarm, which is told in any case. 'retrain' leaves a request, with the time
            and the position in the log where the shift began.
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
