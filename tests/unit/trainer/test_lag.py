"""How long labels take, by either clock, and on the page of metrics."""

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from store.records import Outcome, OutcomeKind, Served
from trainer.lag import BUCKETS_S, LabelLag, LagMetric


def _outcome(predicted_at: float, labelled_at: float, received_at: float, kind: OutcomeKind = "label") -> Outcome:
    served = Served("main", 1, 1.0)
    return Outcome("id", "u", [1.0], [0.5], served, 1.0, kind, True, predicted_at, labelled_at, received_at)


def test_by_the_logs_clock_it_lasts_until_the_label_is_received() -> None:
    lag = LabelLag("log")
    lag.add([_outcome(100.0, 40.0, 160.0), _outcome(100.0, 100.0, 99.0), _outcome(0.0, 500.0, 500.0, "default")])
    summary = lag.summary()
    assert (summary["p50"], summary["labels"]) == (0.0, 2)
    assert summary["p90"] == pytest.approx(60.0, rel=0.01)


def test_by_the_events_clock_it_is_between_the_times_that_are_given() -> None:
    lag = LabelLag("event")
    now = 1_700_000_000.0
    lag.add([_outcome(100.0, 7300.0, now), _outcome(100.0, now, now)])
    assert lag.summary()["labels"] == 1
    assert lag.summary()["p50"] == pytest.approx(7200.0, rel=0.01)


def test_without_labels_nothing_is_said() -> None:
    lag = LabelLag("log")
    lag.add([])
    lag.add([_outcome(0.0, 5.0, 5.0, "default")])
    assert lag.summary() == {}


def test_quantiles_are_those_of_all_labels() -> None:
    lag = LabelLag("log")
    seconds = np.random.default_rng(1).exponential(3600.0, 20_000)
    for part in np.split(seconds, 40):
        lag.add([_outcome(0.0, one, one) for one in part.tolist()])
    for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99)):
        assert lag.summary()[name] == pytest.approx(float(np.quantile(seconds, share)), rel=0.02)


def test_the_histogram_only_rises_when_a_trainer_starts_over() -> None:
    metric, registry = LagMetric("m"), CollectorRegistry()
    registry.register(metric)

    def count(bound: float) -> float | None:
        return registry.get_sample_value("tidemill_label_lag_seconds_bucket", {"model": "m", "le": str(bound)})

    for number in (1, 2):
        lag = LabelLag("log")
        metric.follow(lag)
        lag.add([_outcome(0.0, one, one) for one in (0.5, 60.0, 1e9)])
        assert (count(1.0), count(60.0), count(BUCKETS_S[-1])) == (number, 2 * number, 2 * number)
        assert registry.get_sample_value("tidemill_label_lag_seconds_count", {"model": "m"}) == 3 * number
        assert registry.get_sample_value("tidemill_label_lag_seconds_sum", {"model": "m"}) == number * (1e9 + 60.5)
