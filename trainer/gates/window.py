"""Recent outcomes, and the last good state's losses on them: what versions are judged on.

Batches that were learned and batches that were not are kept apart. Where too much in a row is not learned the world has
changed, or somebody lies all the time: then what was not learned becomes the recent outcomes, and the new regime is judged by
itself. All of it follows from the outcome stream, given the stretches of it that are in the window and the losses.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from store.encoding import Encoded
from store.gates import Gates
from store.records import Vote
from store.schema import Row

Losses = Callable[[Encoded, np.ndarray], np.ndarray]
"""From rows and their labels to losses of the learner as it is, [rows], or [rows, classes] where labels are less than sure."""

_LEAST_BATCHES = 3

Kind = Literal["learned", "skipped"]


@dataclass(frozen=True, slots=True)
class Batch:
    """A micro-batch, in the stream from behind `after` to the cut at `position`. `reference`: losses of the last good state,
    as `Losses` gives them, None for rows that came after it. `said`: all that was said of each row, where labels are less than
    sure."""

    after: str
    position: str
    rows: Sequence[Row]
    labels: np.ndarray
    encoded: Encoded
    reference: np.ndarray | None = None
    serial: int = 0
    said: Sequence[tuple[Vote, ...]] = ()

    def newest(self, count: int) -> "Batch":
        """The batch without all but its newest rows."""
        if len(self.rows) <= count:
            return self
        at = range(len(self.rows) - count, len(self.rows))
        newest = {"rows": self.rows[-count:], "labels": self.labels[-count:], "said": self.said[-count:]}
        return replace(self, **newest, encoded=self.encoded.take(at))


class Stretch(BaseModel):
    """Consecutive batches of one kind, in the outcome stream from behind `after` to `to`."""

    model_config = ConfigDict(frozen=True)

    kind: Kind
    after: str
    to: str


class WindowState(BaseModel):
    """What is committed of a window with the learner's step; small."""

    model_config = ConfigDict(frozen=True)

    judged: int = 0
    since_anchor: int = 0
    skipped: int = 0
    skipped_batches: int = 0
    stretches: tuple[Stretch, ...] = ()


class Window:
    """Not safe for concurrent use. `judged` counts judgements, `skipped` outcomes that were not learned, less those that were
    learned since."""

    def __init__(self, settings: Gates) -> None:
        self._settings = settings
        self._kept: dict[Kind, deque[Batch]] = {"learned": deque(), "skipped": deque()}
        self._serial = 0
        self.since_anchor = self.judged = self.skipped = self._skipped_batches = 0

    @property
    def oldest(self) -> str | None:
        """The position behind which the outcome stream is still needed."""
        firsts = [batches[0] for batches in self._kept.values() if batches]
        return min(firsts, key=lambda batch: batch.serial).after if firsts else None

    @property
    def anchored(self) -> list[Batch]:
        """The batches that versions are judged on."""
        return [batch for batch in self._kept["learned"] if batch.reference is not None]

    def add(self, batch: Batch, kind: Kind, losses: Losses) -> bool:
        """Take in a batch that was judged; return whether versions are judged on other losses from now on.

        Args:
            losses: of the learner as it is after the verdict.
        """
        self._put(batch, kind)
        self.since_anchor += len(batch.rows)
        if kind == "skipped":
            self.skipped += len(batch.rows)
            self._skipped_batches += 1
            if self.skipped < self._settings.patience or self._skipped_batches < _LEAST_BATCHES:
                return False
            self._kept = {"learned": self._kept["skipped"], "skipped": deque()}
            self.skipped = self._skipped_batches = 0
            self._anchor(losses)
            return True
        self.skipped = max(0, self.skipped - len(batch.rows))
        if not self.skipped:
            self._kept["skipped"].clear()
            self._skipped_batches = 0
        moves = self.since_anchor >= self._settings.rows // 2 and not self.skipped
        return self._anchor(losses) if moves or not self.anchored else False

    def state(self) -> WindowState:
        return WindowState(
            judged=self.judged,
            since_anchor=self.since_anchor,
            skipped=self.skipped,
            skipped_batches=self._skipped_batches,
            stretches=tuple(self._stretches()),
        )

    def references(self) -> np.ndarray:
        """The last good state's losses, float64 [rows] or [rows, classes], of all anchored batches in order."""
        found = [batch.reference for batch in self.anchored if batch.reference is not None]
        return np.concatenate(found) if found else np.empty(0)

    def restore(self, state: WindowState, batches: Iterable[Iterable[Batch]], references: np.ndarray) -> None:
        """Become the window that these are of; `batches` are those of each stretch."""
        for stretch, found in zip(state.stretches, batches, strict=True):
            self._serial += 1  # between two stretches something is missing
            for batch in found:
                self._put(batch, stretch.kind)
        self.judged, self.since_anchor, self.skipped = state.judged, state.since_anchor, state.skipped
        self._skipped_batches = state.skipped_batches
        learned, at = self._kept["learned"], 0
        for place, batch in enumerate(learned):
            if at + len(batch.rows) <= len(references):
                learned[place] = replace(batch, reference=references[at : at + len(batch.rows)])
                at += len(batch.rows)

    def _put(self, batch: Batch, kind: Kind) -> None:
        kept, most = self._kept[kind], self._settings.rows
        self._serial += 1
        kept.append(replace(batch.newest(most), serial=self._serial))
        while sum(len(one.rows) for one in kept) - len(kept[0].rows) >= most:
            kept.popleft()

    def _anchor(self, losses: Losses) -> bool:
        """Make the learner as it is the last good state."""
        learned = self._kept["learned"]
        if sum(len(batch.rows) for batch in learned) < self._settings.min_rows:
            return False
        for place, batch in enumerate(learned):
            learned[place] = replace(batch, reference=losses(batch.encoded, batch.labels))
        self.since_anchor = 0
        return True

    def _stretches(self) -> list[Stretch]:
        learned = {batch.serial for batch in self._kept["learned"]}
        found: list[Stretch] = []
        last = -1
        for batch in sorted(chain(*self._kept.values()), key=lambda batch: batch.serial):
            kind: Kind = "learned" if batch.serial in learned else "skipped"
            if found and found[-1].kind == kind and batch.serial == last + 1:
                found[-1] = found[-1].model_copy(update={"to": batch.position})
            else:
                found.append(Stretch(kind=kind, after=batch.after, to=batch.position))
            last = batch.serial
        return found


def together(batches: Sequence[Batch]) -> tuple[list[Row], np.ndarray, Encoded]:
    """Return rows, labels and network inputs of batches in order."""
    rows = list(chain.from_iterable(batch.rows for batch in batches))
    labels = np.concatenate([batch.labels for batch in batches])
    numbers = np.concatenate([batch.encoded.numbers for batch in batches])
    return rows, labels, Encoded(numbers, np.concatenate([batch.encoded.categories for batch in batches]))
