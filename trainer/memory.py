"""What the label join remembers: durably in `JoinState`, and between two crashes in its own memory."""

from collections import deque
from dataclasses import dataclass, field

from pydantic import TypeAdapter

from store.records import Feedback, Label, Served, Vote
from store.schema import Row

HOLD_S = 60.0


@dataclass(slots=True)
class JoinCounts:
    """What became of everything in the log. `unreadable` entries are skipped; `late` labels are learned all the same, but not
    those that came `too_late`: what was predicted is forgotten."""

    predictions: int = 0
    feedback: int = 0
    labelled: int = 0
    defaulted: int = 0
    corrected: int = 0
    repeated: int = 0
    late: int = 0
    too_late: int = 0
    unknown: int = 0
    duplicate_ids: int = 0
    skewed: int = 0
    unreadable: int = 0


@dataclass(slots=True)
class JoinState:
    """What is stored with the join's position.

    `low_water` is the oldest entry that still matters (empty before the first); `low_clock` and `low_skewed` are what `clock`
    and `skewed_in_a_row` were there. `reused` says of ids that clients used again where their former use ended.
    """

    low_water: str = ""
    low_clock: float = 0.0
    low_skewed: int = 0
    clock: float = 0.0
    skewed_in_a_row: int = 0
    since_cut: int = 0
    reused: dict[str, str] = field(default_factory=dict[str, str])
    counts: JoinCounts = field(default_factory=JoinCounts)

    def packed(self) -> bytes:
        return _STATE.dump_json(self)

    @staticmethod
    def unpacked(text: bytes) -> "JoinState":
        return _STATE.validate_json(text)


_STATE = TypeAdapter(JoinState)


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in the log, and what the clocks were before it. `arrived` is in seconds since 1970."""

    position: str
    clock: float
    skewed: int
    arrived: float


class Marks:
    """Finds the place `HOLD_S` ago: the first entry of a second, wherever the reading began."""

    def __init__(self) -> None:
        self._firsts: deque[Mark] = deque()

    def since(self, mark: Mark) -> Mark:
        """Take in the next entry's mark; return one at least `HOLD_S` older, or the oldest there is."""
        firsts, second = self._firsts, int(mark.arrived)
        if not firsts or int(firsts[-1].arrived) < second:
            firsts.append(mark)
        while len(firsts) > 1 and int(firsts[1].arrived) + HOLD_S <= second:
            firsts.popleft()
        return firsts[0]


@dataclass(slots=True)
class Open:
    """A prediction that may still get labels. `since` is where the stretch that explains it begins; `reused` says that its id
    came again; `votes` are by item and source, the newest last; `last` says when the newest was received, and
    of what time it is; `told` is what the learner knows, `final` what experiments do."""

    since: Mark
    opened_at: float
    predicted_at: float
    unit: str
    row: Row
    output: list[float]
    served: Served
    votes: dict[tuple[str, str], Vote] = field(default_factory=dict[tuple[str, str], Vote])
    last: tuple[float, float | None] | None = None
    told: tuple[Vote, ...] = ()
    final: Label | None = None
    reused: bool = False


@dataclass(frozen=True, slots=True)
class Gone:
    """A forgotten prediction: where and when it was forgotten."""

    since: Mark
    position: str
    arrived: float


@dataclass(slots=True)
class Held:
    """Feedback that came before its prediction, until it is `taken` or nobody waits any more."""

    since: Mark
    arrived: float
    event: Feedback
    received_at: float
    taken: bool = False
