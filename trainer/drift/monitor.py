"""All detectors of one model over its stream: outcomes in micro-batches of any size go in, alarms come out.

Windows are cut by the number of outcomes, so that the same outcomes give the same alarms however they are batched. A
detector that fails is switched off, and says why; the others go on.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from store.drift import Drift
from store.spec import ModelRecord
from trainer.drift.columns import Columns, Seen, Slices
from trainer.drift.concept import Concept
from trainer.drift.distributions import Distributions
from trainer.drift.kernel import KernelTest
from trainer.drift.sliced import Sliced
from trainer.drift.state import pack, unpack
from trainer.drift.window import Alarm, Detector, Place, Window

FORMAT = 1


class Monitor:
    """Pure: the same outcomes give the same alarms and the same state, bit for bit."""

    def __init__(self, record: ModelRecord, settings: Drift) -> None:
        self.settings = settings
        self._columns = Columns(record)
        self._sliced = Sliced(self._columns.all, Slices(record.slices))
        level = settings.false_alarms / 1e6
        kinds = set(settings.watch)
        parts = sum((bool(kinds & {"covariate", "label", "prediction"}), "multivariate" in kinds, "concept" in kinds))
        each = level / max(1, parts)
        self._distributions = Distributions(self._columns.all, settings, self._sliced, each, self._columns.said)
        self._kernel = KernelTest(self._columns.all, settings, each) if "multivariate" in kinds else None
        concept = Concept(settings, self._columns.loss, each) if "concept" in kinds else None
        made: dict[str, Detector | None] = {
            "distributions": self._distributions,
            "kernel": self._kernel,
            "concept": concept,
        }
        self._detectors = {name: one for name, one in made.items() if one is not None}
        self.off: dict[str, str] = {}
        """Detectors that failed, and why."""
        self.outcomes = 0
        """How many were watched so far."""
        self._marks: list[list[Any]] = []
        self._times = np.zeros(0)
        self._values = np.zeros((0, len(self._columns)))
        self._slices = np.zeros((0, len(record.slices)), np.int64)

    def take(self, seen: Seen, log_position: str) -> list[Alarm]:
        """Take in a micro-batch that ended at a position of the log; return the alarms, oldest first."""
        if "reading" in self.off or not len(seen.outcomes):
            return []
        try:
            values = self._columns.values(seen)
            slices = self._sliced.slices.codes(seen.outcomes, self._columns.slices)
            times = np.array([outcome.predicted_at for outcome in seen.outcomes], np.float64)
        except Exception as error:  # learning goes on without
            self.off["reading"] = _said(error)
            return []
        self._marks.append([self.outcomes + len(self._times), log_position])
        self._times = np.concatenate([self._times, np.nan_to_num(times)])
        self._values = np.concatenate([self._values, values])
        self._slices = np.concatenate([self._slices, slices])
        return self._windows()

    def _windows(self) -> list[Alarm]:
        """Look at what makes whole windows, and keep the rest."""
        alarms: list[Alarm] = []
        size, start = self.settings.short, 0
        while start + size <= len(self._times):
            part = slice(start, start + size)
            while len(self._marks) > 1 and self._marks[1][0] <= self.outcomes:
                self._marks.pop(0)
            place = Place(self.outcomes, float(self._times[start]), self._marks[0][1])
            alarms += self._look(Window(place, self._times[part], self._values[part], self._slices[part]))
            self.outcomes, start = self.outcomes + size, start + size
        self._times, self._values, self._slices = self._times[start:], self._values[start:], self._slices[start:]
        return alarms

    def _look(self, window: Window) -> list[Alarm]:
        alarms: list[Alarm] = []
        for name, detector in self._detectors.items():
            if name in self.off:
                continue
            try:
                with np.errstate(all="ignore"):
                    found = detector.look(window)
            except Exception as error:  # whatever a stream may do to a detector, learning goes on
                self.off[name] = _said(error)
                continue
            alarms += self._settle(name, found, window)
        return alarms

    def _settle(self, name: str, found: Sequence[Alarm], window: Window) -> list[Alarm]:
        """Let one change be one alarm: what goes with what was found takes the new regime over, too."""
        if name == "distributions" and self._kernel is not None and any(one.kind == "covariate" for one in found):
            self._kernel.reset()
        return list(found)

    @property
    def missing(self) -> int:
        """How many outcomes the next window lacks."""
        return self.settings.short - len(self._times)

    @property
    def watching(self) -> dict[str, int]:
        """How many columns are compared by now, and how many there are."""
        return self._distributions.progress()

    def state(self) -> bytes:
        rest = [self._times, self._values, self._slices, self._marks, self.outcomes, self.off, self._columns.names]
        detectors = {name: None if name in self.off else one.state() for name, one in self._detectors.items()}
        return pack([FORMAT, self._described(), rest, self._sliced.state(), detectors])

    def restore(self, content: bytes) -> bool:
        """Become the monitor that wrote this; False, and nothing is known, where it was one of other settings."""
        written, described, rest, sliced, detectors = unpack(content)
        if written != FORMAT or described != self._described():
            return False
        self._times, self._values, self._slices, self._marks, self.outcomes, self.off, self._columns.names = rest
        self._sliced.restore(sliced)
        for name, one in self._detectors.items():
            if name not in self.off:
                one.restore(detectors[name])
        return True

    def _described(self) -> list[Any]:
        """What a state fits: columns, slices, and all settings but those of the responses."""
        columns = [[column.name, column.kind, column.categories] for column in self._columns.all]
        settings = self.settings.model_dump(mode="json", exclude={"respond", "factor", "batches"})
        return [columns, list(self._sliced.slices.names), settings]


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error)[:200]}"
