"""What a user says of a platform on Kubernetes: one YAML file, such as `deploy/kubernetes/values.yaml`."""

import math
import re
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from store.telemetry import Telemetry

_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)(m|k|M|G|T|Ki|Mi|Gi|Ti)?")
_FACTORS = {
    "m": Decimal("0.001"), "": Decimal(1), "k": Decimal(10**3), "M": Decimal(10**6), "G": Decimal(10**9), "T": Decimal(10**12),
    "Ki": Decimal(2**10), "Mi": Decimal(2**20), "Gi": Decimal(2**30), "Ti": Decimal(2**40),
}  # fmt: skip
_CONTROLLERS_CPU = Decimal("0.2")  # and the label join of imported models


def amount(quantity: str) -> Decimal:
    """Return what a Kubernetes quantity comes to.

    >>> amount("500m"), amount("2Gi")
    (Decimal('0.500'), Decimal('2147483648'))
    """
    parts = _QUANTITY.fullmatch(quantity)
    if parts is None:
        raise ValueError(f"'{quantity}' is no quantity; write it as Kubernetes does, such as 2, 500m or 4Gi")
    return Decimal(parts[1]) * _FACTORS[parts[2] or ""]


def _above_nothing(quantity: str) -> str:
    if amount(quantity) <= 0:
        raise ValueError("must be more than 0")
    return quantity


def _as_text(given: object) -> object:
    """YAML reads `cpu: 2` as a number."""
    return str(given) if isinstance(given, int | float) and not isinstance(given, bool) else given


Quantity = Annotated[str, BeforeValidator(_as_text), AfterValidator(_above_nothing)]
Name = Annotated[str, Field(pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$", max_length=40)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Bounds(_Part):
    min: int
    max: int

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.max < self.min:
            raise ValueError(f"max, {self.max}, must be at least min, {self.min}")
        return self


class Resources(_Part):
    """What one pod gets: asked for and not exceeded, so that what Ray is told to have is there."""

    cpu: Quantity
    memory: Quantity


class Replicas(_Bounds):
    """Ingress replicas: Serve keeps between `min` and `max`, by how many predictions are at work."""

    min: int = Field(default=2, ge=1)
    max: int = Field(default=4, ge=1)
    predictions_at_work: float = Field(default=16.0, gt=0)
    cpu: Quantity = "1"


class Workers(Resources, _Bounds):
    """Pods for Ray: its autoscaler keeps between `min` and `max`, by what replicas and trainers ask for."""

    min: int = Field(default=1, ge=0)
    max: int = Field(default=4, ge=1)
    node_selector: dict[str, str] = {}


class GpuWorkers(Workers):
    """Pods with GPUs. With them each trainer asks for a GPU, and runs there."""

    enabled: bool = False
    cpu: Quantity = "4"
    memory: Quantity = "16Gi"
    min: int = Field(default=0, ge=0)
    max: int = Field(default=1, ge=1)
    gpus: int = Field(default=1, ge=1)
    """GPUs in each pod."""


class Redis(_Part):
    """A Valkey of the platform's own, or, with `url_in_secret`, one that is there already."""

    url_in_secret: bool = False
    """The Secret's key `redis-url` names an existing Redis or Valkey, with its password; none is started."""
    image: str = Field(default="valkey/valkey:8.1-alpine", min_length=1)
    storage: Quantity = "20Gi"
    storage_class: str | None = None
    """None takes the cluster's default."""
    resources: Resources = Resources(cpu="1", memory="2Gi")


class Values(_Part):
    """The platform. Only `image` and `specs` have no default."""

    name: Name = "tidemill"
    namespace: Name = "default"
    image: str = Field(min_length=1)
    pull_secret: Name | None = None
    secret: Name = "tidemill"
    """The Secret with the keys `token` and `valkey-password` (or `redis-url`)."""
    specs: tuple[str, ...] = Field(min_length=1)
    prefix: str = Field(default="tidemill", min_length=1)
    when_redis_is_away: Literal["durable", "available"] = "durable"
    telemetry: Telemetry = Telemetry(log_format="json")
    """Traces need an image that was built with the extra `traces`."""
    service_type: Literal["ClusterIP", "NodePort", "LoadBalancer"] = "ClusterIP"
    replicas: Replicas = Replicas()
    trainer_cpu: Quantity = "1"
    head: Resources = Resources(cpu="1", memory="4Gi")
    workers: Workers = Workers(cpu="4", memory="8Gi")
    gpu_workers: GpuWorkers = GpuWorkers()
    redis: Redis = Redis()

    @model_validator(mode="after")
    def _fits(self) -> Self:
        """What cannot be placed would wait for ever, and only Ray's log would say so."""
        for field, asked, pod in (
            ("replicas.cpu", self.replicas.cpu, self.workers),
            ("trainer_cpu", self.trainer_cpu, self.gpu_workers if self.gpu_workers.enabled else self.workers),
        ):
            if amount(asked) > ray_cpus(pod):
                raise ValueError(f"{field} is {asked}, and a pod of its group has {pod.cpu} CPUs: lower it, or raise the pod's")
        room, needed = self.workers.max * ray_cpus(self.workers), self._needed()
        if needed > room:
            raise ValueError(
                f"workers.max times workers.cpu is {room} CPUs, and replicas.max, trainers and controllers ask for {needed}: "
                "raise workers.max or workers.cpu, or lower replicas.max"
            )
        gpus = self.gpu_workers.max * self.gpu_workers.gpus
        if self.gpu_workers.enabled and gpus < len(self.specs):
            raise ValueError(
                f"gpu_workers.max times gpu_workers.gpus is {gpus}, and each of {len(self.specs)} trainers needs one"
            )
        return self

    def _needed(self) -> Decimal:
        trainers = 0 if self.gpu_workers.enabled else len(self.specs)
        return self.replicas.max * amount(self.replicas.cpu) + trainers * amount(self.trainer_cpu) + _CONTROLLERS_CPU


def ray_cpus(pod: Resources) -> int:
    """What KubeRay tells Ray that a pod has."""
    return math.ceil(amount(pod.cpu))


def read_values(file: Path) -> Values:
    """Return what a file says.

    Raises:
        OSError: it cannot be read.
        ValueError: what is wrong in it, by field.
    """
    try:
        said: Any = yaml.safe_load(file.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{file} is no YAML: {error}") from None
    try:
        return Values.model_validate(said if said is not None else {})
    except ValidationError as error:
        raise ValueError("\n".join(f"{file}: {_problem(problem)}" for problem in error.errors())) from None


def _problem(problem: Any) -> str:
    """One of pydantic's errors with its field first, as it stands in the file."""
    field = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"{field}: there is no such field; look for the right name in deploy/kubernetes/values.yaml"
    said = problem["msg"].removeprefix("Value error, ")
    return f"{field}: {said}" if field else said
