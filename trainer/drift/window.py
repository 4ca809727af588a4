"""What detectors are given: a window of outcomes as they were before they were learned, and what they say of it."""

from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np

from store.drift import Kind


@dataclass(frozen=True, slots=True)
class Place:
    """A place in the stream: the number of an outcome, counted from the first that was watched; when it was predicted, in
    seconds since 1970; and the position in the log at which its micro-batch ended."""

    outcome: int
    at: float
    log_position: str


@dataclass(frozen=True, slots=True)
class Window:
    """Consecutive outcomes: `times` float64 [rows], `values` float64 [rows, columns] (NaN: missing; categories as codes),
    `slices` int64 [rows, slices]. `place` is that of the first."""

    place: Place
    times: np.ndarray
    values: np.ndarray
    slices: np.ndarray

    def __len__(self) -> int:
        return len(self.times)

    @property
    def end(self) -> Place:
        """Where it is looked at."""
        return Place(self.place.outcome + len(self), float(self.times[-1]), self.place.log_position)


@dataclass(frozen=True, slots=True)
class SliceMoved:
    """How far the outcomes of one value of a slice have moved: an effect like that of `Moved`."""

    slice: str
    value: str
    effect: float
    rows: int


@dataclass(frozen=True, slots=True)
class Moved:
    """One thing that is no longer as it was.

    `effect` is the distance of the distributions, 0 to 1 (of the losses: how many standard deviations the mean rose).
    `before` and `after` are means, of a category the shares of the value (`value`) that moved most. `p` is None where a
    detector has none.
    """

    what: str
    test: str
    effect: float
    p: float | None
    before: float | None = None
    after: float | None = None
    value: str = ""
    slices: tuple[SliceMoved, ...] = ()


@dataclass(frozen=True, slots=True)
class Alarm:
    """Something moved: what, since when, how much.

    `found` is where it was noticed, `level` the p-value it had to fall below.
    """

    kind: Kind
    window: str
    since: Place
    found: Place
    moved: tuple[Moved, ...]
    level: float | None = None
    responses: tuple[str, ...] = field(default=())

    def told(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return asdict(self)


class Detector(Protocol):
    """Watches windows of one size, in order. Pure: no clock, no I/O; what it knows is its state."""

    def look(self, window: Window) -> list[Alarm]:
        """Take in a window; return what is alarming about it."""
        ...

    def state(self) -> Any:
        """Return all it knows, for `state.pack`."""
        ...

    def restore(self, state: Any) -> None:
        """Become the detector whose state this is."""
        ...
