"""The traffic policy of a model as plain data: variants, the default arm, experiments. The router decides by it."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

MAIN = "main"
"""The line that every model has."""


class Variant(BaseModel):
    """An arm of the traffic: a line (it follows the line's newest good version) or, with `version`, one pinned version."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, max_length=64)
    line: str = MAIN
    version: int | None = Field(default=None, ge=1)


class Slice(BaseModel):
    """Units whose slot (of 1,000,000) is in [start, end) go to this variant."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    start: int
    end: int
    variant: str


class Experiment(BaseModel):
    """One experiment. `kind` names a file of router/experiments; `slices` is kept by the router so that changing shares
    moves as few units as it can."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, max_length=64)
    kind: str
    shares: dict[str, float]
    salt: str = ""
    slices: tuple[Slice, ...] = ()


class Policy(BaseModel):
    """The whole traffic state of a model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    variants: tuple[Variant, ...] = (Variant(name=MAIN),)
    default: str = MAIN
    experiments: tuple[Experiment, ...] = ()

    def variant(self, name: str) -> Variant:
        return next(variant for variant in self.variants if variant.name == name)

    @property
    def pinned(self) -> set[int]:
        """Versions that must stay loadable."""
        return {variant.version for variant in self.variants if variant.version is not None}


class Snapshot(BaseModel):
    """Policy and channels of a model at one moment. `epoch` counts policies, `channel_seq` channel moves."""

    model_config = ConfigDict(frozen=True)

    policy: Policy = Policy()
    epoch: int = 0
    channels: dict[str, int] = {}
    channel_seq: int = 0

    def resolve(self, variant: Variant) -> int | None:
        """The version that answers for a variant now, or None before its line has published one."""
        return variant.version if variant.version is not None else self.channels.get(f"{variant.line}@latest")


class Applied(BaseModel):
    """What one replica runs for one model. `failed` maps a version that could not be loaded to the reason."""

    model_config = ConfigDict(frozen=True)

    epoch: int = 0
    channel_seq: int = 0
    versions: dict[str, int] = {}
    failed: dict[int, str] = {}


class Report(BaseModel):
    """The state of a replica or a trainer under its lease. `metrics` is its Prometheus exposition, `away` names what it
    cannot do and why."""

    model_config = ConfigDict(frozen=True)

    name: str
    role: Literal["replica", "trainer"] = "replica"
    pid: int
    ready: bool
    applied: dict[str, Applied] = {}
    away: dict[str, str] = {}
    counters: dict[str, Any] = {}
    metrics: str = ""
