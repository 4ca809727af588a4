"""The demo's books: what was predicted by whom and what was true, and the quality of it by week."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
from sklearn.metrics import log_loss, roc_auc_score

from examples.flights.stream import Flight


@dataclass(frozen=True, slots=True)
class Quality:
    """AUC and log loss over `rows` predictions; NaN where they are not defined."""

    auc: float
    log_loss: float
    rows: int


NOTHING = Quality(float("nan"), float("nan"), 0)


@dataclass(frozen=True, slots=True)
class Week:
    start: datetime
    live: Quality
    frozen: Quality


class Books:
    """Predictions in order of departure, scored by the live model and, once there is one, by the frozen one."""

    def __init__(self) -> None:
        self._place: dict[str, int] = {}
        self._departed: list[datetime] = []
        self._late: list[bool] = []
        self._live: list[float] = []
        self._frozen: list[float] = []

    def __len__(self) -> int:
        return len(self._live)

    def predicted(self, flights: Sequence[Flight], scores: Sequence[float]) -> None:
        for flight, score in zip(flights, scores, strict=True):
            self._place[flight.id] = len(self._live)
            self._departed.append(flight.departure)
            self._late.append(flight.late)
            self._live.append(score)
            self._frozen.append(float("nan"))

    def shadowed(self, id_: str, score: float) -> None:
        self._frozen[self._place[id_]] = score

    @property
    def unshadowed(self) -> int:
        """Predictions since the first shadowed one that the frozen model has not scored."""
        scored = ~np.isnan(self._frozen)
        return int((~scored[int(np.argmax(scored)) :]).sum()) if scored.any() else 0

    def recent(self, until: datetime, weeks: int = 4) -> tuple[Quality, Quality]:
        """Live and frozen quality of departures in the weeks before `until` whose truth had come by then (about a day)."""
        first = np.searchsorted(np.array(self._departed, dtype="O"), until - timedelta(weeks=weeks))  # pyright: ignore[reportCallIssue, reportArgumentType]
        last = np.searchsorted(np.array(self._departed, dtype="O"), until - timedelta(days=1))  # pyright: ignore[reportCallIssue, reportArgumentType]
        return self._between(int(first), int(last))

    def since(self, moment: datetime) -> tuple[Quality, Quality]:
        """Live and frozen quality of all departures from a moment on."""
        first = np.searchsorted(np.array(self._departed, dtype="O"), moment)  # pyright: ignore[reportCallIssue, reportArgumentType]
        return self._between(int(first), len(self))

    def weeks(self) -> list[Week]:
        """Quality by week, the last one perhaps a part of one."""
        if not self._departed:
            return []
        start = self._departed[0].replace(hour=0, minute=0)
        weeks: list[Week] = []
        edge = 0
        while edge < len(self):
            end = edge
            while end < len(self) and self._departed[end] < start + timedelta(weeks=1):
                end += 1
            if end > edge:
                weeks.append(Week(start, *self._between(edge, end)))
            edge, start = end, start + timedelta(weeks=1)
        return weeks

    def _between(self, first: int, last: int) -> tuple[Quality, Quality]:
        late = np.array(self._late[first:last], dtype=bool)
        live = np.array(self._live[first:last])
        frozen = np.array(self._frozen[first:last])
        scored = ~np.isnan(frozen)
        return quality(late, live), quality(late[scored], frozen[scored])


def quality(late: np.ndarray, scores: np.ndarray) -> Quality:
    """AUC and log loss of scores [n] against truths [n]."""
    if len(late) == 0 or late.all() or not late.any():
        return NOTHING
    return Quality(float(roc_auc_score(late, scores)), float(log_loss(late, scores)), len(late))
