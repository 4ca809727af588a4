"""The traffic policy of a model as plain data: variants, the default arm, experiments. The router decides by it."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from store.placement import InProcess, Placement

MAIN = "main"
"""The line that every model has."""
CHAMPION = "champion"
"""The channel of the version that the default arm is pinned to."""


class Variant(BaseModel):
    """An arm of the traffic: a line (it follows the line's newest good version) or, with `version`, one pinned version."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, max_length=64)
    line: str = MAIN
    version: int | None = Field(default=None, ge=1)
    placement: Placement = InProcess()


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


class Judging(BaseModel):
    """By what an experiment's arms are judged.

    Args:
        metric: of the outcomes. `loss` is the objective's own (log loss, or squared error), smaller is better; `label` is the
            label itself, such as a click or a sale.
        larger_is_better: for `label`.
        better: promote only what is better, not what is merely not worse than `margin`.
        margin: how much worse the metric may be, as a share of the baseline's.
        alpha: the chance that a decision for an arm is ever wrong.
        alpha_fail: the chance that an arm is ever rolled back though it does no harm.
        n_opt: the number of units at which intervals are to be tightest.
        window_s: how long after its first prediction a unit's predictions count, on the model's clock. `labels_s`: how long
            after that its labels are waited for.
        before_s: how far back a unit's earlier outcomes are looked at, to tell units apart by what they were before (CUPED).
        slo_ms: a run of a version that takes longer is an event; without it, one that takes twice the baseline's 99th
            percentile.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    metric: Literal["loss", "label"] = "loss"
    secondary: tuple[Literal["loss", "label"], ...] = ()
    larger_is_better: bool = True
    better: bool = False
    margin: float = Field(default=0.05, ge=0.0, le=1.0)
    alpha: float = Field(default=0.05, gt=0.0, lt=0.5)
    alpha_fail: float = Field(default=0.01, gt=0.0, lt=0.5)
    n_opt: int = Field(default=20_000, ge=1)
    window_s: float = Field(default=60.0, ge=0.0, le=31_536_000.0)
    labels_s: float = Field(default=0.0, ge=0.0, le=31_536_000.0)
    before_s: float = Field(default=0.0, ge=0.0, le=31_536_000.0)
    slo_ms: float | None = Field(default=None, gt=0.0)


class Step(BaseModel):
    """A step of a rollout: the candidate shadows (`shadow`) or answers (`canary`) this share of the units, for at least `min_s`
    seconds and `min_units` of its units. `target` is for whom, from this step on; None leaves that as it was."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["shadow", "canary"] = "canary"
    share: float = Field(gt=0.0, le=1.0)
    min_s: float = Field(default=60.0, ge=0.0)
    min_units: int = Field(default=100, ge=0)
    target: tuple[Rule, ...] | None = None


DEFAULT_STEPS = (
    Step(kind="shadow", share=1.0),
    Step(share=0.01),
    Step(share=0.05),
    Step(share=0.25),
    Step(share=0.5),
)


class Progress(BaseModel):
    """Where an experiment is; kept by the platform.

    Attributes:
        step: index into the experiment's steps.
        entered_at, started_at: when this step and the experiment began; `resumed_at`: when it was last resumed.
        status: `held` is out of time: it stays as it is until an operator decides.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    status: Literal["running", "paused", "held"] = "running"
    step: int = 0
    entered_at: float = 0.0
    started_at: float = 0.0
    resumed_at: float = 0.0
    why: str = ""


class Experiment(BaseModel):
    """One experiment. `kind` names a file of router/experiments; `slices` is kept by the router, so that changing shares moves
    as few units as it can.

    Args:
        shares: of the experiment's units, by variant.
        traffic: the share of its layer's units that the experiment takes part of. Experiments of one layer exclude each
            other; those of different layers are assigned independently.
        target: only requests that fulfil all of these rules take part.
        baseline: the arm that the others are compared with; empty for the policy's default arm.
        strategy: how an interleaved list is drafted.
        steps: of a rollout; at the end of the last one the candidate becomes the default arm, if it is found good.
        max_s: after this time a rollout is held.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._-]+$")
    kind: str
    shares: dict[str, float]
    layer: str = Field(default="", max_length=64)
    traffic: float = Field(default=1.0, gt=0.0, le=1.0)
    target: tuple[Rule, ...] = Field(default=(), max_length=32)
    baseline: str = ""
    salt: str = ""
    slices: tuple[Slice, ...] = ()
    judging: Judging = Judging()
    strategy: Literal["team_draft", "probabilistic", "optimised"] = "team_draft"
    steps: tuple[Step, ...] = Field(default=(), max_length=32)
    max_s: float = Field(default=7 * 86_400.0, gt=0.0)
    progress: Progress = Progress()


class RolloutPlan(BaseModel):
    """How published versions enter by themselves, one at a time: the newest that has not been tried yet.

    Args:
        line: whose versions enter.
        every_s: at least this long after the last one entered.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    line: str = MAIN
    steps: tuple[Step, ...] = Field(default=DEFAULT_STEPS, min_length=1, max_length=32)
    judging: Judging = Judging()
    max_s: float = Field(default=7 * 86_400.0, gt=0.0)
    every_s: float = Field(default=0.0, ge=0.0)


class Policy(BaseModel):
    """The whole traffic state of a model. `layers` is kept by the router: which experiment has which slots of a layer.

    Args:
        holdout: the share of units that take part in no experiment at all.
        forced: units, such as testers', that always get one arm; they are logged and kept out of all statistics.
        rollout: how new versions are to be tried; None leaves it to operators. `tried` is the newest version that was.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    variants: tuple[Variant, ...] = (Variant(name=MAIN),)
    default: str = MAIN
    experiments: tuple[Experiment, ...] = ()
    holdout: float = Field(default=0.0, ge=0.0, lt=1.0)
    forced: dict[str, str] = Field(default={}, max_length=10_000)
    layers: dict[str, tuple[Slice, ...]] = {}
    rollout: RolloutPlan | None = None
    tried: int = 0
    tried_at: float = 0.0

    def variant(self, name: str) -> Variant:
        return next(variant for variant in self.variants if variant.name == name)

    @property
    def champion(self) -> int | None:
        """The version that the default arm is pinned to, if it is."""
        return next((variant.version for variant in self.variants if variant.name == self.default), None)

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


class AuditRecord(BaseModel):
    """One decision, a human's or the platform's: who, when, from what to what, on which evidence. `epoch` is its own,
    `report` what was known of its experiment then."""

    model_config = ConfigDict(frozen=True)

    at: float
    who: str
    model: str
    action: str
    experiment: str = ""
    before: str = ""
    after: str = ""
    why: str = ""
    epoch: int = 0
    evidence: tuple[dict[str, Any], ...] = ()
    report: dict[str, Any] = {}


class Applied(BaseModel):
    """What one replica runs for one model. `failed` maps a version that could not be loaded to the reason, `placed` a variant
    that a deployment of its own answers for to that deployment."""

    model_config = ConfigDict(frozen=True)

    epoch: int = 0
    channel_seq: int = 0
    versions: dict[str, int] = {}
    failed: dict[int, str] = {}
    placed: dict[str, str] = {}
    outcomes: str = "0-0"
    """Up to which outcome its streaming features hold all; where it has none, the beginning."""


class Report(BaseModel):
    """The state of a replica, a trainer, or another part under its lease. `metrics` is its Prometheus exposition, `away` names
    what it cannot do and why; it works on the models that were on record when the last change was the one at `seen`. `used`
    says what of each limit is used here: requests a second, and the most at work."""

    model_config = ConfigDict(frozen=True)

    name: str
    role: Literal["replica", "trainer", "controller", "joiner", "supervisor", "host"] = "replica"
    pid: int
    ready: bool
    applied: dict[str, Applied] = {}
    away: dict[str, str] = {}
    counters: dict[str, Any] = {}
    metrics: str = ""
    seen: str = ""
    used: dict[str, tuple[float, int]] = {}
