"""One model as a replica hosts it: how its requests are read, and the state that its predictions are planned on."""

import math
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from time import time
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json

from router import Plan, Planner
from serving.asking import EXPECTED, Headers, body_of, event_seconds, named_headers, new_id, refusal_of
from serving.dedicated.link import HostFailed, Link
from serving.errors import Invalid, NotReady, VersionFailed
from serving.metrics import ReplicaMetrics
from serving.watch import Watch
from store.artefact import Session
from store.encoding import Encoder
from store.errors import first_line
from store.expectations import Expectations
from store.following import Follower
from store.names import log_stream
from store.policy import Snapshot
from store.records import Failures, Predictions, Row
from store.spec import ModelRecord

FORCED_HEADER = "x-tidemill-arm"
"""Names the variant that a tester's request is to be answered by; needs the operators' token."""


@dataclass(slots=True)
class Live:
    """An open version, here or in a deployment of its own, and how long its runs have taken lately, in seconds."""

    number: int
    session: Session | Link
    run_s: float = 0.0


@dataclass(frozen=True, slots=True)
class State:
    """All that a prediction is planned on; replaced whole, never changed."""

    snapshot: Snapshot = Snapshot()
    planner: Planner = field(default_factory=lambda: Planner(Snapshot().policy))
    live: dict[str, Live] = field(default_factory=dict[str, Live])
    """By variant."""


@dataclass(slots=True)
class Asked:
    """A request as read: its rows, and which of them each plan is for. `shadows` likewise, by (variant, experiment)."""

    at: float
    ids: list[str]
    units: list[str]
    rows: list[Row]
    event_times: list[float] | None
    groups: dict[Plan, list[int]]
    shadows: dict[tuple[str, str], list[int]]


@dataclass(slots=True)
class Answered:
    """A request's predictions, what its shadows need, and what arms could not do."""

    predictions: Predictions
    shadows: dict[tuple[str, str], list[int]]
    failures: list[Failures] = field(default_factory=list[Failures])


class Hosted:
    """A model on this replica. `state` is read once per request, `ongoing` counts those at work; `features` are its streaming
    features, where it has any."""

    def __init__(
        self, record: ModelRecord, max_instances: int, metrics: ReplicaMetrics, features: Follower | None = None
    ) -> None:
        self.record = record
        self.features = features
        self.predictions = metrics.predictions.labels(record.name)
        self.latency = metrics.latency.labels(record.name)
        self.sizes = metrics.sizes.labels(record.name)
        self.encoder = Encoder(record.features)
        self.state = State()
        self.ongoing = 0
        self.watch: Watch | None = None
        self._violations = metrics.expectations
        self._pools: dict[str, ThreadPoolExecutor] = {}
        names = [field.name for field in record.features.asked]
        self._slices = [names.index(name) for name in record.slices]
        self.stream = log_stream(record.name)
        self._adapter = body_of(record, max_instances)
        candidate: Any = record.features.typed_dict()
        self._rows: TypeAdapter[list[dict[str, Any]]] = TypeAdapter(list[candidate])  # pyright: ignore[reportInvalidTypeForm]

    def expect(self, expectations: Expectations) -> None:
        """Watch requests for what these do not allow; those of the same revision are being watched for already."""
        if (self.watch.revision if self.watch is not None else 0) != expectations.revision:
            self.watch = Watch(self.record.name, self.record.features, expectations, self._violations)

    def pool(self, name: str, threads: int) -> ThreadPoolExecutor:
        """Return this model's threads for runs of a kind: slow versions of one model hold up no other."""
        if name not in self._pools:
            self._pools[name] = ThreadPoolExecutor(threads, thread_name_prefix=f"{name}-{self.record.name}")
        return self._pools[name]

    def close(self) -> None:
        """End its threads, when nothing is at work any more."""
        for pool in self._pools.values():
            pool.shutdown(wait=False)

    def read(self, state: State, body: bytes, headers: Headers = (), forced: str | None = None) -> Asked:
        """Validate a request's body and plan each instance; pure computation.

        Args:
            headers: the request's, by lower-case name; looked at where a policy asks for one.
            forced: the variant that the request asks for itself.

        Raises:
            BadRequest, Invalid, TooLarge: the body is not a request to this model; the text names the field.
        """
        at = time()
        try:
            instances = self._adapter.validate_json(body)["instances"]
        except ValidationError as error:
            raise refusal_of(error, "instances", EXPECTED) from None
        rows = [self.encoder.row(instance["features"]) for instance in instances]
        ids, units = self._names(instances, at)
        event_times = [event_seconds(i["at"]) if "at" in i else at for i in instances] if self.record.clock == "event" else None
        return self.planned(state, at, ids, units, rows, event_times, (i["features"] for i in instances), headers, forced)

    def planned(
        self,
        state: State,
        at: float,
        ids: list[str],
        units: list[str],
        rows: list[Row],
        event_times: list[float] | None,
        features: Iterable[Mapping[str, Any]],
        headers: Headers = (),
        forced: str | None = None,
    ) -> Asked:
        """Put streaming features into the rows, once for whoever will score them, and plan each row, whose features are given
        as a request names them.

        Raises:
            Invalid: `forced` cannot answer, or an expectation refuses a row.
        """
        self.fill(rows, units, event_times or [at] * len(rows))
        self.look(rows, at if event_times is None else event_times)
        plans = self._plans(state, units, features, headers, forced)
        groups: dict[Plan, list[int]] = {}
        shadows: dict[tuple[str, str], list[int]] = {}
        for index, plan in enumerate(plans):
            groups.setdefault(plan, []).append(index)
            for shadow in plan.shadows:
                shadows.setdefault(shadow, []).append(index)
        return Asked(at, ids, units, rows, event_times, groups, shadows)

    def look(self, rows: list[Row], at: float | list[float]) -> None:
        """See what a request's rows, asked for at these times, violate; raises Invalid where an expectation refuses one."""
        if (watch := self.watch) is not None:
            watch.look(rows, at)

    def fill(self, rows: Sequence[Row], units: Sequence[str], times: Sequence[float]) -> None:
        """Put the streaming features' values into rows, as this replica knows them now."""
        if self.features is not None:
            self.features.streams.fill(rows, units, times)

    def _plans(
        self,
        state: State,
        units: list[str],
        features: Iterable[Mapping[str, Any]],
        headers: Headers,
        forced: str | None,
    ) -> Iterable[Plan]:
        planner = state.planner
        if forced is not None:
            return [self.forced(state, forced)] * len(units)
        named = named_headers(headers) if planner.asks_headers else {}
        return [planner.plan(unit, one, named) for unit, one in zip(units, features, strict=True)]

    @staticmethod
    def forced(state: State, variant: str) -> Plan:
        """Return the plan of a request that asks for a variant itself; raises Invalid where it cannot answer."""
        if variant not in state.live:
            raise Invalid(f"{FORCED_HEADER}: no variant '{variant[:80]}' can answer; there are {', '.join(state.live)}")
        return state.planner.forced(variant)

    def rows(self, features: list[dict[str, Any]]) -> list[Row]:
        """Validate candidates' features; raises Invalid, naming the candidate and the field."""
        try:
            # As JSON again: a time is text there, and only there may it be.
            valid = self._rows.validate_json(to_json(features))
        except ValidationError as error:
            raise refusal_of(error, "candidates", "", "candidates") from None
        return [self.encoder.row(one) for one in valid]

    def slices(self, rows: list[Row]) -> list[list[str]] | None:
        """Return the values of the model's slices for each row, None where it has none."""
        if not self._slices:
            return None
        return [[str(row[place])[:64] for place in self._slices] for row in rows]

    def score(self, live: Live, rows: list[Row]) -> np.ndarray:
        """Return finite scores [rows, outputs] of a version that is open here; raises VersionFailed."""
        session = live.session
        assert not isinstance(session, Link), "a run here needs a session here"
        try:
            scores = session.run(self.encoder.encode(rows))
        except Exception as error:
            raise self._failed(live, first_line(error, 200)) from error
        return self._checked(live, rows, scores)

    async def score_elsewhere(self, live: Live, link: Link, rows: list[Row], until: float) -> tuple[np.ndarray, float]:
        """Return finite scores [rows, outputs], and the seconds that they took.

        Raises:
            VersionFailed: the version cannot answer these rows.
            TimedOut, NotReady: its deployment did not by `until`, on the monotonic clock, or not at all.
        """
        try:
            scores, seconds = await link.run(live.number, self.encoder.encode(rows), until)
        except HostFailed as error:
            raise self._failed(live, str(error)) from error
        return self._checked(live, rows, scores), seconds

    def _checked(self, live: Live, rows: list[Row], scores: np.ndarray) -> np.ndarray:
        if scores.shape != (len(rows), self.record.outputs):
            raise self._failed(live, f"it gave scores of shape {scores.shape}")
        if not (math.isfinite(scores[0, 0]) if scores.size == 1 else np.isfinite(scores).all()):
            raise self._failed(live, "it gave a score that is not a finite number")
        return scores

    def _failed(self, live: Live, why: str) -> VersionFailed:
        return VersionFailed(f"version {live.number} of model '{self.record.name}' could not answer: {why}")

    def live(self, state: State, variant: str) -> Live:
        live = state.live.get(variant)
        if live is None:
            raise NotReady(f"variant '{variant}' of model '{self.record.name}' has no version to answer with yet")
        return live

    def _names(self, instances: list[Any], at: float) -> tuple[list[str], list[str]]:
        prefix = new_id(self.record.name, at)
        ids = [instance.get("id") or f"{prefix}{index}" for index, instance in enumerate(instances)]
        return ids, [instance.get("unit") or id_ for instance, id_ in zip(instances, ids, strict=True)]
