"""Prometheus metrics of one replica, and of all of them together."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

_LATENCY = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.25, 0.5, 1, 2.5)
_FRESHNESS = (0.1, 0.2, 0.5, 1, 1.5, 2, 3, 5, 8, 15, 30, 60, 300, 3600)


class ReplicaMetrics:
    """What one replica counts. Each replica has a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.predictions = Counter("tidemill_predictions", "Instances answered", ["model"], registry=self.registry)
        self.requests = Counter("tidemill_requests", "HTTP answers", ["route", "status"], registry=self.registry)
        self.latency = Histogram(
            "tidemill_predict_seconds", "Time from body to answer", ["model"], buckets=_LATENCY, registry=self.registry
        )
        self.feedback = Counter("tidemill_feedback", "Feedback events", ["model", "verdict"], registry=self.registry)
        self.swaps = Counter("tidemill_swaps", "Versions taken into service", ["model"], registry=self.registry)
        self.swap_failures = Counter(
            "tidemill_swap_failures", "Versions that could not be loaded", ["model"], registry=self.registry
        )
        self.version = Gauge("tidemill_version", "Version in service", ["model", "variant"], registry=self.registry)
        self.freshness = Histogram(
            "tidemill_freshness_seconds",
            "From the receipt of a label until a version that learned from it is in service",
            ["model"],
            buckets=_FRESHNESS,
            registry=self.registry,
        )
        self.failures = Counter(
            "tidemill_arm_failures",
            "Instances that an arm could not answer",
            ["model", "variant", "reason"],
            registry=self.registry,
        )
        self.shadows = Gauge("tidemill_shadows", "Shadow scores by what became of them", ["verdict"], registry=self.registry)
        self.buffered = Gauge("tidemill_log_buffered", "Log entries that wait for Redis", registry=self.registry)
        self.lost = Gauge("tidemill_log_lost", "Log entries lost while Redis was away", registry=self.registry)
        self.resident = Gauge("tidemill_resident_bytes", "Resident memory of the replica", registry=self.registry)

    def forget(self, model: str) -> None:
        """Drop what was counted of a model that is served no more."""
        for metric in (
            self.predictions, self.latency, self.feedback, self.swaps, self.swap_failures, self.version, self.freshness,
            self.failures,
        ):  # fmt: skip
            metric.remove_by_labels({"model": model})

    def exposition(self) -> str:
        return generate_latest(self.registry).decode()


def merge(expositions: Iterable[tuple[str, str]]) -> str:
    """Return one exposition from those of (replica, text) pairs, each sample labelled with its replica."""
    families: dict[str, Metric] = {}
    for replica, text in expositions:
        for family in text_string_to_metric_families(text):
            if family.name not in families:
                families[family.name] = Metric(family.name, family.documentation, family.type)
            for sample in family.samples:
                labels = {**sample.labels, "replica": replica}
                families[family.name].samples.append(sample._replace(labels=labels))
    return generate_latest(_Families(list(families.values()))).decode()  # pyright: ignore[reportArgumentType]


class _Families:
    """As much of a registry as the text format asks for."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        return self._families
