"""How long labels take: from a prediction to its label, as learned outcomes tell."""

from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any, Literal

import numpy as np
from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from store.records import Outcome
from trainer.sketch import Sketch

BUCKETS_S = (
    0.1,
    1.0,
    10.0,
    60.0,
    300.0,
    900.0,
    3600.0,
    4 * 3600.0,
    12 * 3600.0,
    86_400.0,
    3 * 86_400.0,
    7 * 86_400.0,
    30 * 86_400.0,
)
QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
HALVED_AT = 100_000
"""So many labels, and all get half of their weight: newer ones count more."""


class LabelLag:
    """Measures in seconds, by the model's clock: `log` until the label was received, `event` until it became true, by the
    times that predictions and labels carry; a label without one says nothing then. Outcomes by default have no label."""

    def __init__(self, clock: Literal["log", "event"]) -> None:
        self._event_clock = clock == "event"
        self.sketch = Sketch()
        self.counts = np.zeros(len(BUCKETS_S) + 1, dtype=np.int64)
        """Labels measured by this process, by bucket; the last one is above all."""
        self.sum_s = 0.0

    def add(self, outcomes: Sequence[Outcome]) -> None:
        found = self._of(outcomes)
        self.sketch.add(found)
        if self.sketch.count > HALVED_AT:
            self.sketch.halve()
        self.counts += np.bincount(np.searchsorted(BUCKETS_S, found), minlength=len(self.counts))
        self.sum_s += float(found.sum())

    def begin_counts(self) -> None:
        """Count anew from here on; quantiles stay."""
        self.counts[:] = 0
        self.sum_s = 0.0

    def summary(self) -> dict[str, float]:
        """Return quantiles by name, and of how many labels; nothing before the first one."""
        if not self.sketch.count:
            return {}
        return {name: self.sketch.quantile(share) for name, share in QUANTILES.items()} | {"labels": round(self.sketch.count)}

    def _of(self, outcomes: Sequence[Outcome]) -> np.ndarray:
        labelled = [one for one in outcomes if one.kind != "default"]
        if self._event_clock:
            found = [one.labelled_at - one.predicted_at for one in labelled if one.labelled_at != one.received_at]
        else:
            found = [one.received_at - one.predicted_at for one in labelled]
        return np.maximum(np.array(found, dtype=np.float64), 0.0)


class LagMetric(Collector):
    """The histogram of one model's lag on the page of metrics; it goes on when a trainer starts over."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._now: LabelLag | None = None
        self._before = np.zeros(len(BUCKETS_S) + 1, dtype=np.int64)
        self._before_s = 0.0

    def follow(self, lag: LabelLag) -> None:
        """Show this one from now on, on top of those before."""
        if self._now is not None and self._now is not lag:
            self._before += self._now.counts
            self._before_s += self._now.sum_s
        self._now = lag

    def collect(self) -> Iterable[Metric]:
        counts = self._before + (self._now.counts if self._now is not None else 0)
        total_s = self._before_s + (self._now.sum_s if self._now is not None else 0.0)
        names = [*(str(bound) for bound in BUCKETS_S), "+Inf"]
        buckets: list[Any] = list(zip(names, accumulate(counts.tolist()), strict=True))
        family = HistogramMetricFamily("tidemill_label_lag_seconds", "From a prediction to its label", labels=["model"])
        family.add_metric([self._model], buckets, total_s)
        yield family
