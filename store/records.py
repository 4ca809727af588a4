"""What goes through the event log, and its packed form.

A model's *log* holds predictions (one entry per request), rankings, failures, shadow scores, feedback, cut requests and
ticks, in one order. The join turns it into the *outcome* stream: outcomes and cuts. Entries are msgpack arrays led by a
one-letter kind; floats in predictions and shadows are kept as served. Times are seconds since 1970.

What there is of each prediction is a named tuple: thousands of them a second are made, and packed as they are.
"""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import msgpack

from store.schema import Row

Label = float | int | str
OutcomeKind = Literal["label", "default", "correction"]


class Served(NamedTuple):
    """Which arm answered: `version` is 0 while a model has none, `propensity` the probability of this choice (0 where it was
    not a random one), `experiments` those it counts in, `latency_s` the time that the version took for all it was given,
    `epoch` that of the policy that it was planned by."""

    variant: str
    version: int
    propensity: float
    experiments: tuple[str, ...] = ()
    latency_s: float = 0.0
    epoch: int = 0


@dataclass(frozen=True, slots=True)
class Predictions:
    """All predictions of one request; the lists run parallel, `arms[i]` indexes `served`."""

    at: float
    ids: list[str]
    units: list[str]
    rows: list[Row]
    outputs: list[list[float]]
    served: list[Served]
    arms: list[int]
    latency_s: float = 0.0
    event_times: list[float] | None = None


@dataclass(frozen=True, slots=True)
class Shadows:
    """The scores of one shadowing variant for some predictions, beside those that were the answer."""

    at: float
    ids: list[str]
    units: list[str]
    outputs: list[list[float]]
    answers: list[list[float]]
    variant: str
    version: int
    experiment: str
    latency_s: float = 0.0
    answered_s: float = 0.0
    slices: list[list[str]] | None = None
    """For each prediction the values of the model's slices."""


@dataclass(frozen=True, slots=True)
class Rankings:
    """A page of a ranked list as it was shown: `items[i]`, at position `start + i`, was drafted by `rankers[teams[i]]` (-1: by
    nobody in particular). An interleaved list names its experiment; `once`: only its topmost click counts."""

    at: float
    id: str
    unit: str
    items: list[str]
    teams: list[int]
    start: int
    seed: int
    rankers: list[str]
    versions: list[int]
    experiment: str
    epoch: int
    once: bool = False
    event_time: float | None = None


@dataclass(frozen=True, slots=True)
class Failures:
    """Predictions of one request that an arm could not make. Where another arm answered instead, `rescued` is true."""

    at: float
    ids: list[str]
    units: list[str]
    variant: str
    version: int
    experiments: tuple[str, ...]
    epoch: int
    reason: Literal["error", "timeout"]
    rescued: bool
    text: str = ""
    event_times: list[float] | None = None


class Feedback(NamedTuple):
    """One label as it was posted. `event_time` is when it became true, where the client says so."""

    id: str
    label: Label
    event_time: float | None = None
    source: str = ""
    confidence: float = 1.0
    item: str = ""


@dataclass(frozen=True, slots=True)
class FeedbackBatch:
    at: float
    events: list[Feedback]


@dataclass(frozen=True, slots=True)
class Cut:
    """The end of a micro-batch. In the outcome stream `log_position` is how far the join had read the log."""

    reason: str
    at: float = 0.0
    log_position: str = ""


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passes: closes label windows when no traffic does."""

    at: float


LogRecord = Predictions | Shadows | Failures | Rankings | FeedbackBatch | Cut | Tick


class Vote(NamedTuple):
    """What one source said of a prediction; `confidence` is the probability that it is right, as the source sees it."""

    label: Label
    source: str = ""
    confidence: float = 1.0


class Outcome(NamedTuple):
    """A prediction joined with its label.

    Attributes:
        final: what experiments count: once for each prediction, within its label window.
        replaces: the final label that this final one takes the place of.
        votes: all that is said of the label, where that is more than this label of this source.
        learned: the votes by which the learner was told of this prediction before; they hold no longer.
    """

    id: str
    unit: str
    row: Row
    output: list[float]
    served: Served
    label: Label
    kind: OutcomeKind
    final: bool
    predicted_at: float
    labelled_at: float
    received_at: float
    source: str = ""
    confidence: float = 1.0
    replaces: Label | None = None
    votes: tuple[Vote, ...] = ()
    learned: tuple[Vote, ...] = ()

    @property
    def said(self) -> tuple[Vote, ...]:
        """Everything that is said of the label."""
        return self.votes or (Vote(self.label, self.source, self.confidence),)


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Consecutive outcomes, in order."""

    outcomes: list[Outcome]


OutcomeRecord = Outcomes | Cut
_PLAIN_OUTCOME = 13
"""Fields that each outcome has; most do without the others."""


def pack_log(record: LogRecord) -> bytes:
    match record:
        case Predictions():
            body: Any = (
                "p", record.at, record.ids, record.units, record.rows, record.outputs, record.served, record.arms,
                record.latency_s, record.event_times,
            )  # fmt: skip
        case Shadows():
            body = (
                "s", record.at, record.ids, record.units, record.outputs, record.answers, record.variant, record.version,
                record.experiment, record.latency_s, record.answered_s, record.slices,
            )  # fmt: skip
        case Rankings():
            body = (
                "r", record.at, record.id, record.unit, record.items, record.teams, record.start, record.seed, record.rankers,
                record.versions, record.experiment, record.epoch, record.once, record.event_time,
            )  # fmt: skip
        case Failures():
            body = (
                "x", record.at, record.ids, record.units, record.variant, record.version, record.experiments, record.epoch,
                record.reason, record.rescued, record.text, record.event_times,
            )  # fmt: skip
        case FeedbackBatch():
            body = ("f", record.at, record.events)
        case Cut():
            body = ("c", record.reason, record.at, record.log_position)
        case Tick():
            body = ("t", record.at)
    return _pack(body)


_PLAIN: dict[str, type[Shadows | Rankings | Cut | Tick]] = {"s": Shadows, "r": Rankings, "c": Cut, "t": Tick}


def unpack_log(payload: bytes) -> LogRecord:
    kind, *rest = _unpack(payload)
    match kind:
        case "p":
            at, ids, units, rows, outputs, served, arms, latency_s, event_times = rest
            return Predictions(
                at, ids, units, rows, outputs, [_as_served(*arm) for arm in served], arms, latency_s, event_times
            )
        case "x":
            rest[5] = tuple(rest[5])
            return Failures(*rest)
        case "f":
            return FeedbackBatch(rest[0], [Feedback(*event) for event in rest[1]])
        case "s" | "r" | "c" | "t":
            return _PLAIN[kind](*rest)
        case _:
            raise ValueError(f"no log record is of kind {kind!r}")


def holds_shadows(payload: bytes) -> bool:
    """Whether a log entry is of shadow scores, told without unpacking it.

    >>> holds_shadows(pack_log(Shadows(0.0, [], [], [], [], "b", 1, "e"))), holds_shadows(pack_log(Tick(0.0)))
    (True, False)
    """
    return payload[1:3] == b"\xa1s"


def pack_outcomes(record: OutcomeRecord) -> bytes:
    if isinstance(record, Cut):
        return _pack(("c", record.reason, record.at, record.log_position))
    return _pack(("o", [o if o.votes or o.learned or o.replaces is not None else o[:_PLAIN_OUTCOME] for o in record.outcomes]))


def unpack_outcomes(payload: bytes) -> OutcomeRecord:
    kind, *rest = _unpack(payload)
    if kind == "c":
        return Cut(*rest)
    packed: list[Any] = rest[0]
    for o in packed:
        o[4] = _as_served(*o[4])
        if len(o) > _PLAIN_OUTCOME:
            o[-2:] = (tuple(Vote(*vote) for vote in votes) for votes in o[-2:])
    return Outcomes([Outcome(*o) for o in packed])


def _as_served(variant: str, version: int, propensity: float, experiments: list[str], latency_s: float, epoch: int) -> Served:
    return Served(variant, version, propensity, tuple(experiments), latency_s, epoch)


def item_id(ranking: str, item: str) -> str:
    """The prediction id of an item that a ranking showed."""
    return f"{ranking}#{item}"


def _pack(body: Any) -> bytes:
    return msgpack.packb(body, unicode_errors="surrogatepass")  # pyright: ignore[reportReturnType]


def _unpack(payload: bytes) -> Any:
    return msgpack.unpackb(payload, unicode_errors="surrogatepass", strict_map_key=False)
