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
    """Units whose slot (of 1,000,000) is in [start, end) go to this owner: a variant, or in a layer an experiment."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    start: int
    end: int
    owner: str


class Rule(BaseModel):
    """One condition on a request: on its unit, a feature, or a header. All that is given must hold.

    `values` lists what is accepted, `pattern` is a shell pattern (`*`, `?`, `[...]`), `at_least` and `below` bound a number.
    What a request lacks fulfils no condition.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    by: Literal["unit", "feature", "header"]
    name: str = Field(default="", max_length=256)
    """Of the feature or the header."""
    values: tuple[str | bool | float, ...] = Field(default=(), max_length=100_000)
    pattern: str | None = Field(default=None, max_length=256)
    at_least: float | None = None
    below: float | None = None


class Experiment(BaseModel):
    """One experiment. `kind` names a file of router/experiments; `slices` is kept by the router, so that changing shares moves
    as few units as it can.

    Args:
        shares: of the experiment's units, by variant.
        traffic: the share of its layer's units that the experiment takes part of. Experiments of one layer exclude each
            other; those of different layers are assigned independently.
        target: only requests that fulfil all of these rules take part.
        baseline: the arm that the others are compared with; empty for the policy's default arm.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, max_length=64)
    kind: str
    shares: dict[str, float]
    layer: str = Field(default="", max_length=64)
    traffic: float = Field(default=1.0, gt=0.0, le=1.0)
    target: tuple[Rule, ...] = Field(default=(), max_length=32)
    baseline: str = ""
    salt: str = ""
    slices: tuple[Slice, ...] = ()


class Policy(BaseModel):
    """The whole traffic state of a model. `layers` is kept by the router: which experiment has which slots of a layer.

    Args:
        holdout: the share of units that take part in no experiment at all.
        forced: units, such as testers', that always get one arm; they are logged and kept out of all statistics.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    variants: tuple[Variant, ...] = (Variant(name=MAIN),)
    default: str = MAIN
    experiments: tuple[Experiment, ...] = ()
    holdout: float = Field(default=0.0, ge=0.0, lt=1.0)
    forced: dict[str, str] = Field(default={}, max_length=10_000)
    layers: dict[str, tuple[Slice, ...]] = {}

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
