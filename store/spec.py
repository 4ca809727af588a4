"""A model's declaration: what a user writes once (`ModelSpec`), and the part of it that the store keeps (`ModelRecord`)."""

import hashlib
import importlib
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from store.cron import cron
from store.drift import Drift
from store.errors import ModelExists, SpecError
from store.gates import Gates
from store.keys import Limits
from store.labels import LabelPolicy
from store.learning import Learning
from store.schema import Kind, Schema, schema_of
from store.search import Search, Way, default_search
from store.shape import DEFAULT_SHAPE, Shape
from store.streaming import Aggregate, with_streaming

Objective = Literal["binary", "multiclass", "regression", "ranking"]
Compression = Literal["", "dynamic_int8", "static_int8", "fp16", "int4"]
MODEL_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_SPEC_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


class Schedule(BaseModel):
    """When a micro-batch ends: every `outcomes` outcomes, every `seconds` seconds (2 if nothing is said), at the times of
    `cron` in `timezone`; `on_drift`: as soon as outcomes that wait are found to have drifted, of a model that is watched for
    drift; by hand at any time, and where none of these is set, by hand alone."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    outcomes: int | None = Field(default=None, ge=1)
    seconds: float | None = Field(default=2.0, gt=0.0, allow_inf_nan=False)
    cron: str | None = Field(default=None, max_length=200)
    timezone: str = Field(default="UTC", max_length=80)
    on_drift: bool = False

    @model_validator(mode="after")
    def _can_be_kept(self) -> Self:
        cron("0 0 * * *" if self.cron is None else self.cron, self.timezone)
        return self


class ModelRecord(BaseModel):
    """What the store keeps of a ModelSpec: all that serving needs, and no code."""

    model_config = ConfigDict(frozen=True)

    name: str
    features: Schema
    objective: Objective
    classes: tuple[str, ...] = ()
    labels: LabelPolicy = LabelPolicy()
    learning: Learning = Learning()
    shape: Shape = DEFAULT_SHAPE
    schedule: Schedule = Schedule()
    clock: Literal["log", "event"] = "log"
    max_skew_s: float = 86_400.0
    slices: tuple[str, ...] = ()
    """Features by whose values reports are broken down."""
    streaming: tuple[Aggregate, ...] = ()
    """What the last features are worked out from; without any nothing is."""
    best_score: Literal["highest", "lowest"] = "highest"
    compress: Compression = ""
    drift: Drift | None = None
    limits: Limits = Limits()
    gates: Gates = Gates()
    infer_expectations: bool = True
    loaded: bool = True
    """Whether replicas serve it; its learner goes on in any case."""
    network: str = ""
    """Where the torch network comes from, empty for the default one."""
    trainable: bool = True
    """Whether a trainer learns it; one that was imported has only the versions that are given to it."""
    source: str = ""
    """Where trainers import its declaration from, as package.module:attribute; empty where no trainer is to run."""

    @property
    def outputs(self) -> int:
        """Columns of the network's output."""
        return len(self.classes) if self.objective == "multiclass" else 1

    @property
    def labels_known(self) -> tuple[str, ...]:
        """The labels that there can be, in the order of the classes; none where they are numbers."""
        return ("0", "1") if self.objective == "binary" else self.classes if self.objective == "multiclass" else ()

    @property
    def digest(self) -> str:
        """Changes when weights of one declaration would not fit the other."""
        of = {"name", "features", "objective", "classes", "network", "streaming"}
        fixed = self.model_dump_json(include=of if self.shape == DEFAULT_SHAPE else of | {"shape"})
        return hashlib.sha256(fixed.encode()).hexdigest()[:16]

    def label_error(self, label: object) -> str | None:
        """Say what is wrong with a label, or None."""
        if self.objective == "multiclass":
            fits = isinstance(label, str) and label in self.classes
            return None if fits else f"label must be one of {', '.join(self.classes)}"
        if not isinstance(label, bool | int | float):
            return "label must be a number" if self.objective != "binary" else "label must be 0, 1, false or true"
        if self.objective == "binary":
            return None if label in (0, 1) else "label must be 0, 1, false or true"
        return self.labels.out_of_bounds(label) if _is_float32(label) else "label must be a finite number"

    def schedule_error(self, schedule: Schedule) -> str | None:
        """Say what is wrong with a schedule for this model, or None."""
        if schedule.on_drift and self.drift is None:
            return "on_drift needs a model that is watched for drift: declare drift=Drift(…)"
        return None

    def succeeded(self, label: float) -> bool:
        """Say whether a ranked item with this label is a success of the ranker that put it there."""
        return (label > 0.0) == (self.best_score == "highest")

    def output(self, scores: list[float]) -> dict[str, Any]:
        """Return a network's output row as the answer shows it."""
        match self.objective:
            case "binary":
                return {"probability": scores[0]}
            case "multiclass":
                best = max(range(len(scores)), key=scores.__getitem__)
                return {"class": self.classes[best], "probabilities": dict(zip(self.classes, scores, strict=True))}
            case "regression":
                return {"value": scores[0]}
            case "ranking":
                return {"score": scores[0]}


class RemovedModel(BaseModel):
    """A model that was removed at `at`, seconds since 1970, and whose data are kept; `purging`: they are being dropped."""

    model_config = ConfigDict(frozen=True)

    record: ModelRecord
    at: float
    purging: bool = False

    def ready(self) -> ModelRecord:
        """Return the record, to be added again; raises ModelExists while the data are being dropped."""
        if self.purging:
            raise ModelExists(self.record.name, purging=True)
        return self.record


def _is_float32(value: float) -> bool:
    try:
        return math.isfinite(value) and abs(value) <= 3.4e38
    except OverflowError:
        return False


@dataclass(frozen=True)
class ModelSpec:
    """What a user declares of a model.

    Args:
        name: lower-case letters, digits, '.', '_', '-'; at most 63.
        features: a pydantic class of what is known when the prediction is asked for.
        objective: binary, multiclass (with `classes`), regression or ranking.
        network: called with the schema and the number of outputs, returns a torch module whose `forward(numbers, categories)`
            gives logits [rows, outputs]; None takes the default network for tabular features.
        shape: of the default network.
        clock: 'log' (the time of arrival) or 'event' (the `at` of each instance: replays and backfills).
        slices: names of features by whose values reports are broken down; those with few values, such as a country.
        streaming: windowed and decayed aggregates over outcomes and predictions by key, each one more feature that the platform
            works out itself; none by default.
        best_score: which items a ranked list begins with. 'highest': a label above zero (a click, a sale) is a success.
            'lowest': the score is a risk, and a label of zero (not late, no default) is a success.
        limits: what all applications together may ask of it.
        gates: what each version must pass before it is published.
        drift: how what it learns from is watched for drift; None: it is not, which costs nothing.
        compress: a method by which each version of the line main is also published compressed, on the line main-compressed.
        infer_expectations: whether its trainer infers what features are expected to be, from 1,000 outcomes on; replicas then
            count what violates that.
        search: where `tidemill tune` looks for a better way to learn; None: in a space that suits most.
    """

    name: str
    features: type[BaseModel]
    objective: Objective = "binary"
    classes: tuple[str, ...] = ()
    labels: LabelPolicy = LabelPolicy()
    learning: Learning = Learning()
    shape: Shape = DEFAULT_SHAPE
    schedule: Schedule = Schedule()
    network: Callable[[Schema, int], Any] | None = None
    clock: Literal["log", "event"] = "log"
    max_skew_s: float = 86_400.0
    slices: tuple[str, ...] = ()
    streaming: tuple[Aggregate, ...] = ()
    best_score: Literal["highest", "lowest"] = "highest"
    limits: Limits = Limits()
    gates: Gates = Gates()
    drift: Drift | None = None
    compress: Compression = ""
    infer_expectations: bool = True
    search: Search | None = None
    record: ModelRecord = field(init=False)

    def __post_init__(self) -> None:
        if not MODEL_NAME.fullmatch(self.name):
            raise SpecError(f"model name {self.name!r}: use lower-case letters, digits, '.', '_' and '-', at most 63")
        if self.objective == "multiclass" and len(set(self.classes)) < 2:
            raise SpecError(f"model '{self.name}': a multiclass objective needs at least two different classes")
        network = f"{self.network.__module__}:{self.network.__qualname__}" if self.network else ""
        record = ModelRecord(
            name=self.name,
            features=with_streaming(self.name, schema_of(self.features), self.streaming, self.objective, self.classes),
            objective=self.objective,
            classes=self.classes,
            labels=self.labels,
            learning=self.learning,
            shape=self.shape,
            schedule=self.schedule,
            clock=self.clock,
            max_skew_s=self.max_skew_s,
            slices=self.slices,
            streaming=self.streaming,
            best_score=self.best_score,
            limits=self.limits,
            gates=self.gates,
            drift=self.drift,
            compress=self.compress,
            infer_expectations=self.infer_expectations,
            network=network,
        )
        self._check(record)
        if self.search is not None and (problem := self.search.problem(self.way, self.network is not None)):
            raise SpecError(f"model '{self.name}': search: {problem}")
        object.__setattr__(self, "record", record)

    def _check(self, record: ModelRecord) -> None:
        if self.network is not None and self.shape != DEFAULT_SHAPE:
            raise SpecError(f"model '{self.name}': a network of its own has a shape of its own: leave out shape, or network")
        known = [one.name for one in record.features.asked]
        if problem := self.learning.problem(self.objective, record.labels_known, known):
            raise SpecError(f"model '{self.name}': learning: {problem}")
        if unfit := record.schedule_error(self.schedule):
            raise SpecError(f"model '{self.name}': schedule: {unfit}")
        if unknown := [name for name in self.slices if name not in known]:
            raise SpecError(f"model '{self.name}': slices: there is no feature '{unknown[0]}' among {', '.join(known)}")
        kinds: dict[str, Kind] = {one.name: one.kind for one in record.features.fields}
        if unfit := self.gates.error(kinds, self.classes if self.objective == "multiclass" else ()):
            raise SpecError(f"model '{self.name}': gates: {unfit}")
        self._check_labels(record)

    def _check_labels(self, record: ModelRecord) -> None:
        if self.labels.bounded and record.labels_known:
            raise SpecError(
                f"model '{self.name}': labels: low and high are for numbers, not for {self.objective}: leave them out"
            )
        if self.labels.default is not None and (wrong := record.label_error(self.labels.default)):
            raise SpecError(f"model '{self.name}': the label policy's default is {self.labels.default!r}: {wrong}")
        if self.labels.kind != "on_label" and self.labels.default is None:
            raise SpecError(f"model '{self.name}': labels {self.labels.kind} need a default label")

    @property
    def way(self) -> Way:
        """How it learns, as declared."""
        return Way(learning=self.learning, shape=self.shape)

    @property
    def searched(self) -> Search:
        """Where a better way is looked for."""
        return self.search or default_search(self.objective, self.network is not None)


def load_spec(path: str) -> ModelSpec:
    """Import `package.module:attribute`.

    Raises:
        SpecError: nothing is there, it cannot be imported, or it is no ModelSpec.
    """
    if not _SPEC_PATH.fullmatch(path):
        raise SpecError(f"spec '{path[:200]}': write it as package.module:attribute, such as examples.flights:spec")
    module_name, _, attribute = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise SpecError(f"spec '{path}': cannot import {module_name}: {error}") from error
    except Exception as error:  # whatever a user's module may raise
        raise SpecError(f"spec '{path}': cannot import {module_name}: {type(error).__name__}: {error}") from error
    spec = getattr(module, attribute, None)
    if not isinstance(spec, ModelSpec):
        raise SpecError(f"spec '{path}': {module_name} has no ModelSpec named '{attribute}'")
    return spec


def declared(path: str) -> ModelRecord:
    """Return what is to be kept of the spec at a path, and that it is there; raises SpecError."""
    return load_spec(path).record.model_copy(update={"source": path})
