"""How many ingress replicas there are: on a cluster as many as the predictions at work ask for, on one machine a given number.

Serve scales by the requests that it has wrapped itself, and predictions go past that (see `express`): by its own count a
replica with a thousand of them at work is idle. So replicas say how many predictions they have at work, and this counts those.
"""

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from ray.serve.config import AutoscalingConfig, AutoscalingContext, AutoscalingPolicy

AT_WORK = "predictions_at_work"


class Scaling(BaseModel):
    """Serve averages what is at work over `look_back_s`, waits `up_after_s` or `down_after_s`, and then changes the number."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_replicas: int = Field(default=1, ge=1)
    max_replicas: int = Field(default=1, ge=1)
    target_at_work: float = Field(default=16.0, gt=0)
    """Predictions that one replica has at work at a time when there are as many replicas as there should be."""
    look_back_s: float = Field(default=30.0, gt=0)
    up_after_s: float = Field(default=30.0, ge=0)
    down_after_s: float = Field(default=600.0, ge=0)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.max_replicas < self.min_replicas:
            raise ValueError(f"max_replicas, {self.max_replicas}, must be at least min_replicas, {self.min_replicas}")
        return self

    def config(self) -> AutoscalingConfig:
        return AutoscalingConfig(
            min_replicas=self.min_replicas,
            initial_replicas=self.min_replicas,
            max_replicas=self.max_replicas,
            target_ongoing_requests=self.target_at_work,
            look_back_period_s=self.look_back_s,
            metrics_interval_s=min(10.0, self.look_back_s / 2),
            upscale_delay_s=self.up_after_s,
            downscale_delay_s=self.down_after_s,
            policy=AutoscalingPolicy(policy_function=f"{__name__}:by_predictions"),
        )


def by_predictions(context: AutoscalingContext) -> tuple[float, dict[str, Any]]:
    """Serve's policy: so many replicas that each has its target at work. Serve keeps it in bounds, and waits as configured."""
    at_work = (context.aggregated_metrics or {}).get(AT_WORK, {})
    config: Any = context.config
    return sum(at_work.values()) / config.get_target_ongoing_requests(), {}


def given(replicas: int) -> AutoscalingConfig:
    """So many replicas, one started after another: together they would keep a small machine from the first answer."""
    return AutoscalingConfig(
        min_replicas=1,
        initial_replicas=1,
        max_replicas=replicas,
        upscale_delay_s=0,
        policy=AutoscalingPolicy(policy_function=f"{__name__}:in_turn"),
    )


def in_turn(context: AutoscalingContext) -> tuple[float, dict[str, Any]]:
    """Serve's policy: one more than run, and never fewer than there were to be; Serve keeps it in bounds."""
    return max(context.target_num_replicas, len(context.running_replicas) + 1), {}
