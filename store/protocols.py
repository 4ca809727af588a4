"""The seams between Tidemill and its storage. `store.testing` holds the contract that every implementation passes.

All calls are coroutines and safe to call concurrently from one event loop. Positions are opaque strings that sort by
`position_key`; "0-0" is before everything. When storage does not answer, every call raises `Unavailable`; a call that
raised may or may not have happened.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict

from store.keys import Key
from store.policy import Policy, Report, Snapshot
from store.spec import ModelRecord, RemovedModel, Schedule

START = "0-0"
NUMBER = "{number}"


def position_key(position: str) -> tuple[int, int]:
    """Sort key of a position.

    >>> position_key("5-10") > position_key("5-9")
    True
    """
    milliseconds, _, sequence = position.partition("-")
    return int(milliseconds), int(sequence or 0)


@dataclass(frozen=True, slots=True)
class Entry:
    position: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Advance:
    """A consumer's step: it was at `expected`, has taken everything up to `position`, and remembers `state` (small, anyone may
    look at it) and `blob` (empty: the one it had)."""

    consumer: str
    expected: str
    position: str
    state: bytes = b""
    blob: bytes = b""


class EventLog(Protocol):
    """Append-only streams with durable, totally ordered entries."""

    async def append(self, entries: Sequence[tuple[str, bytes]]) -> list[str]:
        """Append (stream, payload) pairs in order, each atomic; return their positions once they are durable."""
        ...

    def send(self, entries: Sequence[tuple[str, bytes]]) -> "asyncio.Future[list[Any]]":
        """Append likewise; the entries are on their way when this returns, and durable when the future is done."""
        ...

    async def read(self, stream: str, after: str, count: int, block_s: float = 0.0) -> list[Entry]:
        """Return up to `count` entries after a position, waiting up to `block_s` for the first one."""
        ...

    async def advance(self, step: Advance, entries: Sequence[tuple[str, bytes]]) -> list[str]:
        """Append entries and move a consumer, both or neither; return the entries' positions.

        Raises:
            Fenced: the consumer is not at `step.expected`: somebody else moved it.
        """
        ...

    async def consumer(self, name: str) -> tuple[str, bytes]:
        """Return a consumer's position and state; START and nothing for a new one."""
        ...

    async def blob(self, consumer: str) -> bytes:
        """Return a consumer's blob; nothing for a new one."""
        ...

    async def last(self, stream: str) -> str:
        """Return the position of the newest entry ever appended, START if there was none."""
        ...

    async def trim(self, stream: str, before: str) -> int:
        """Drop entries before a position; return how many went."""
        ...


@dataclass(frozen=True, slots=True)
class Graph:
    """An exported network without its weights, and the inputs that every version of it is checked with."""

    digest: str
    onnx: bytes
    golden_inputs: bytes


class Version(BaseModel):
    """One immutable trained artefact. `position` is the cut in the outcome stream that it was trained up to, `log_position`
    how far the log had been joined by then, `label_times` a sample of when its labels were received."""

    model_config = ConfigDict(frozen=True)

    number: int = 0
    model: str
    line: str
    parent: int = 0
    status: str = "published"
    reason: str = ""
    position: str
    log_position: str = START
    created_at: float = 0.0
    graph: str = ""
    weights: str = ""
    spec: str = ""
    outcomes: int = 0
    metrics: dict[str, float] = {}
    label_times: tuple[float, ...] = ()
    golden: tuple[tuple[float, ...], ...] = ()
    tolerance: float = 1e-4
    lineage: dict[str, Any] = {}


@dataclass(frozen=True, slots=True)
class Commit:
    """A learner's step: position and state move, and a version may be published and an audit record of that kept, in which the
    version's number stands for NUMBER; other consumers may move `beside` it, each fenced as the learner is; all or nothing."""

    step: Advance
    version: Version | None = None
    weights: bytes = b""
    audit: bytes = b""
    beside: tuple[Advance, ...] = ()


class KeyRing(Protocol):
    """API keys, by their digests."""

    async def keys(self) -> list[Key]: ...

    async def put_key(self, key: Key) -> None:
        """Put a key on the ring, in place of the one of its id; wakes those who wait for `changes`."""
        ...

    async def drop_key(self, id_: str) -> None:
        """Take a key off the ring, likewise; raises NotFound."""
        ...


class ModelRegistry(Protocol):
    """Models, graphs, versions and their weights."""

    async def register(self, record: ModelRecord) -> None:
        """Put a model on record: from then on it is served. The same declaration again changes only what may change, and not
        the schedule. A model's policy and versions may be there before it is on record, so that nobody sees it without. One
        that was removed goes on where it was.

        Raises:
            SpecError: a model of this name is on record, or kept, whose weights would not fit.
            ModelExists: what was kept of a removed one is just being dropped.
        """
        ...

    async def add(self, record: ModelRecord, audit: bytes = b"") -> None:
        """Put a model on record that is not on record now, and keep the audit record: both or neither. One that was removed
        goes on where it was.

        Raises:
            ModelExists: a model of this name is on record.
            SpecError: what is kept of a removed model of this name would not fit.
        """
        ...

    async def remove(self, model: str, audit: bytes = b"", expected_epoch: int | None = None) -> str:
        """Take a model off the record and keep its data, and the audit record: all or nothing. Return the change's position:
        who has looked at the models after it works on this one no longer.

        Args:
            expected_epoch: of its policy, by which it was found that it may go; None where that does not matter.

        Raises:
            NotFound: there is none.
            EpochConflict: the epoch is another one.
        """
        ...

    async def removed(self) -> dict[str, RemovedModel]:
        """Return the models that were removed and whose data are kept."""
        ...

    async def purge(self, model: str) -> None:
        """Drop what is kept of a removed model, which nobody may work on any more; cut short, it can be repeated.

        Raises:
            NotFound: nothing is kept, or the model is on record.
        """
        ...

    async def models(self) -> dict[str, ModelRecord]: ...

    async def set_schedule(self, model: str, schedule: Schedule) -> None:
        """Change when micro-batches end; raises NotFound."""
        ...

    async def set_loaded(self, model: str, loaded: bool) -> None:
        """Let replicas serve a model, or no longer; raises NotFound."""
        ...

    async def put_graph(self, model: str, graph: Graph) -> None: ...

    async def graph(self, model: str, digest: str) -> Graph:
        """Raises NotFound."""
        ...

    async def commit(self, model: str, commit: Commit) -> Version | None:
        """Move the learner and publish its version under the next number; `published` ones become the line's latest. Of others
        weights are kept where they are given.

        Idempotent under (line, position): a position publishes once. Every commit wakes those who wait for `changes`.

        Raises:
            Fenced: the learner is not at `commit.step.expected`, or one that is to move beside it is elsewhere.
        """
        ...

    async def versions(self, model: str, last: int = 100) -> list[Version]:
        """Return the newest versions, newest first."""
        ...

    async def version(self, model: str, number: int) -> Version:
        """Raises NotFound."""
        ...

    async def weights(self, model: str, number: int) -> bytes:
        """Raises NotFound."""
        ...

    async def forget_weights(self, model: str, numbers: Sequence[int]) -> None:
        """Drop weights that nothing needs any more; the version's record stays."""
        ...


class PolicyBoard(Protocol):
    """Policies and channels, and who has applied them."""

    async def snapshot(self, model: str) -> Snapshot: ...

    async def set_policy(
        self, model: str, policy: Policy, expected_epoch: int, audit: bytes = b"", rejected: Version | None = None
    ) -> int:
        """Replace the policy; return the new epoch. In the same step the audit record is kept, the channel `champion` names the
        version that the default arm is pinned to, a rejected version's record is replaced, and its line's channel goes back to
        the version before it: all or nothing.

        Raises:
            EpochConflict: the epoch is not the expected one.
            NotFound: the model was removed.
        """
        ...

    async def changes(self, after: str, block_s: float) -> str:
        """Wait until something changed after `after`; return the newest change's position (`after` itself on timeout)."""
        ...

    async def report(self, report: Report, lease_s: float) -> None:
        """Keep what a replica or trainer says of itself for as long as its lease lasts."""
        ...

    async def reports(self) -> list[Report]:
        """Return what is said by those whose lease has not run out."""
        ...


class Store(EventLog, KeyRing, ModelRegistry, PolicyBoard, Protocol):
    """All of it, as one Redis gives it."""
