"""Where a variant is answered, as plain data."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Provider = Literal["cuda", "cpu"]


class InProcess(BaseModel):
    """A variant that is answered in the process of every ingress replica."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["in_process"] = "in_process"


class Dedicated(BaseModel):
    """A variant that is answered by a deployment of its own.

    Args:
        cpus, gpus, resources: what each of its replicas asks Ray for; fractions are allowed, `resources` names custom ones.
        min_replicas, max_replicas: bounds of its autoscaling. `target_batches`: batches that one replica has at work at a
            time when there are as many replicas as there should be; `up_after_s`, `down_after_s`: how long more, or fewer,
            have to be wanted.
        max_batch_size: rows that are run together at most; 1 sends every request by itself.
        batch_wait_ms: how long a batch that is not full waits for more. With 0 it goes as soon as there is room, and gathers
            what comes meanwhile.
        providers: ONNX Runtime's execution providers in order; those that are not on its machine are passed over.
        threads: that one run may use on the CPU.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["dedicated"] = "dedicated"
    cpus: float = Field(default=1.0, ge=0.0, le=1024.0)
    gpus: float = Field(default=0.0, ge=0.0, le=64.0)
    resources: dict[str, Annotated[float, Field(gt=0.0, le=1e6)]] = Field(default={}, max_length=16)
    min_replicas: int = Field(default=1, ge=1, le=1000)
    max_replicas: int = Field(default=1, ge=1, le=1000)
    target_batches: float = Field(default=1.0, gt=0.0, le=100.0)
    up_after_s: float = Field(default=10.0, ge=0.0, le=3600.0)
    down_after_s: float = Field(default=300.0, ge=0.0, le=86_400.0)
    max_batch_size: int = Field(default=64, ge=1, le=4096)
    batch_wait_ms: float = Field(default=0.0, ge=0.0, le=1000.0)
    providers: tuple[Provider, ...] = Field(default=("cuda", "cpu"), min_length=1, max_length=2)
    threads: int = Field(default=1, ge=1, le=256)

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if self.max_replicas < self.min_replicas:
            raise ValueError(f"max_replicas, {self.max_replicas}, must be at least min_replicas, {self.min_replicas}")
        if self.gpus > 1.0 and self.gpus != int(self.gpus):
            raise ValueError("gpus: a fraction of one, or a whole number of them")
        return self


Placement = Annotated[InProcess | Dedicated, Field(discriminator="kind")]
"""Where a variant is answered."""
