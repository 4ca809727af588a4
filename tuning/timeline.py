"""What was predicted when, and when what was true of it came: the two orders that freshness is about."""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from store.encoding import Encoded, Encoder
from store.records import Outcome
from store.spec import ModelRecord
from tuning.errors import TuningError
from tuning.replay import Replay

_CHUNK = 20_000


@dataclass(frozen=True, slots=True)
class Batch:
    """Outcomes that are learned together, and what makes their learning repeatable."""

    outcomes: list[Outcome]
    seed: str


@dataclass(frozen=True, slots=True)
class Scored:
    """The predictions by which models are judged, by time: `at` float64 [n], seconds since 1970; `labels` float64 [n], of a
    multiclass model the classes' indices."""

    at: np.ndarray
    labels: np.ndarray
    inputs: Encoded

    def __len__(self) -> int:
        return len(self.at)

    def part(self, since: float, until: float) -> range:
        """The places of those that were asked for from `since` on and before `until`."""
        return range(int(np.searchsorted(self.at, since)), int(np.searchsorted(self.at, until)))


class Timeline:
    """A replay in the order in which its labels arrived.

    A label has arrived when the platform received it; where the model's clock is its events', at the label's own time, as the
    time at which such a replay was posted says nothing.
    """

    def __init__(self, replay: Replay) -> None:
        self.record: ModelRecord = replay.record
        arrived: list[tuple[float, int, Outcome]] = []
        for number in range(len(replay)):
            arrived += [(arrival(self.record, one), number, one) for one in replay.batch(number)]
        arrived.sort(key=lambda each: each[0])  # stable: those of one moment stay as they were
        self._arrivals = [each[0] for each in arrived]
        self._outcomes = [each[2] for each in arrived]
        self._batches = [each[1] for each in arrived]
        self._seeds = [replay.seed(number) for number in range(len(replay))]
        last = dict(zip(self._batches, self._arrivals, strict=True))
        self.cuts: list[float] = sorted(math.nextafter(cut, math.inf) for cut in last.values())
        """The first moments after all labels of each of production's micro-batches had come."""
        self.first = min((one.predicted_at for one in self._outcomes), default=0.0)
        self.last = max((one.predicted_at for one in self._outcomes), default=0.0)

    def arrived(self, since: float, before: float) -> list[Batch]:
        """Return what arrived from `since` on and before `before`, as production batched it; never anything later.

        A micro-batch over a boundary comes in two parts, each on its side of it.
        """
        first, end = bisect_left(self._arrivals, since), bisect_left(self._arrivals, before)
        parts: dict[int, list[Outcome]] = {}
        for place in range(first, end):
            parts.setdefault(self._batches[place], []).append(self._outcomes[place])
        return [Batch(parts[number], self._seeds[number]) for number in sorted(parts)]

    def scored(self, since: float, until: float, known_by: float = math.inf) -> Scored:
        """Return each prediction of a time once, with the last that was said of it by then.

        Raises:
            TuningError: there are none.
        """
        known = self._outcomes[: bisect_left(self._arrivals, known_by)]
        kept = [known[place] for place in settled(known) if since <= known[place].predicted_at < until]
        if not kept:
            raise TuningError("no prediction to be scored has a label: take a shorter first window, or wait for more")
        kept.sort(key=lambda one: one.predicted_at)
        return Scored(np.array([one.predicted_at for one in kept]), self._labels(kept), self._encoded(kept))

    def _labels(self, outcomes: Sequence[Outcome]) -> np.ndarray:
        index = {name: float(number) for number, name in enumerate(self.record.classes)}
        classes = self.record.objective == "multiclass"
        return np.array([index[str(one.label)] if classes else float(one.label) for one in outcomes])

    def _encoded(self, outcomes: Sequence[Outcome]) -> Encoded:
        encoder = Encoder(self.record.features)
        parts = [
            encoder.encode([one.row for one in outcomes[start : start + _CHUNK]]) for start in range(0, len(outcomes), _CHUNK)
        ]
        return Encoded(np.concatenate([part.numbers for part in parts]), np.concatenate([part.categories for part in parts]))


def arrival(record: ModelRecord, outcome: Outcome) -> float:
    """Return when a label could first be learned, in seconds since 1970."""
    return outcome.labelled_at if record.clock == "event" else outcome.received_at


def settled(outcomes: Sequence[Outcome]) -> list[int]:
    """Return the places of the last outcome of each prediction, without those whose label nobody knows yet, ascending."""
    last = {(one.id, one.predicted_at): place for place, one in enumerate(outcomes)}
    return [place for place in sorted(last.values()) if outcomes[place].kind != "default" or outcomes[place].final]
