"""Prometheus metrics of one replica, and of all of them together."""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from store import tracing

_LATENCY = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.25, 0.5, 1, 2.5)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
_FRESHNESS = (0.1, 0.2, 0.5, 1, 1.5, 2, 3, 5, 8, 15, 30, 60, 300, 3600)


class ReplicaMetrics:
    """What one replica counts. Each replica has a registry of its own.

    A queue's length, and what is counted elsewhere, is read when somebody looks: see `set_function` of a gauge, and `total`.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.predictions = Counter("tidemill_predictions", "Instances answered", ["model"], registry=self.registry)
        self.requests = Counter("tidemill_requests", "HTTP answers", ["route", "status"], registry=self.registry)
        self.errors = Counter(
            "tidemill_errors", "HTTP answers that refuse, by what was wrong", ["route", "kind"], registry=self.registry
        )
        self.in_flight = Gauge("tidemill_requests_in_flight", "Requests for predictions at work", registry=self.registry)
        self.queues = Gauge("tidemill_queue_length", "What waits, by where", ["queue"], registry=self.registry)
        self.sizes = Histogram(
            "tidemill_request_instances", "Instances of a request", ["model"], buckets=_SIZES, registry=self.registry
        )
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
        self.expectations = Counter(
            "tidemill_expectation_violations",
            "Values, or windows of them, that an expectation does not allow",
            ["model", "feature", "expectation"],
            registry=self.registry,
        )
        self.buffered = Gauge("tidemill_log_buffered", "Log entries that wait for Redis", registry=self.registry)
        self.resident = Gauge("tidemill_resident_bytes", "Resident memory of the replica", registry=self.registry)
        self._totals = _Totals()
        self.registry.register(self._totals)
        self.total("tidemill_spans_dropped", "Spans that the collector did not get", "", lambda: {"": tracing.dropped()})

    def total(self, name: str, documentation: str, label: str, read: Callable[[], Mapping[str, int]]) -> None:
        """Expose a counter that is kept elsewhere: `read` returns it by the label's value; without a label, by ''."""
        self._totals.add(name, documentation, label, read)

    def forget(self, model: str) -> None:
        """Drop what was counted of a model that is served no more."""
        for metric in (
            self.predictions, self.latency, self.feedback, self.swaps, self.swap_failures, self.version, self.freshness,
            self.failures, self.sizes, self.expectations,
        ):  # fmt: skip
            metric.remove_by_labels({"model": model})

    def exposition(self) -> str:
        return "".join(self.parts())

    def parts(self) -> Iterator[str]:
        """The exposition by families: all at once takes milliseconds, for which nobody is answered."""
        for family in self.registry.collect():
            yield text([family])


class HostMetrics:
    """What a host of one variant counts."""

    def __init__(self, model: str, variant: str) -> None:
        self._registry = CollectorRegistry()
        rows = Histogram("tidemill_batch_rows", "Rows of a run", ["model", "variant"], buckets=_SIZES, registry=self._registry)
        seconds = Histogram(
            "tidemill_batch_seconds", "Time of a run", ["model", "variant"], buckets=_LATENCY, registry=self._registry
        )
        self.rows, self.seconds = rows.labels(model, variant), seconds.labels(model, variant)

    def exposition(self) -> str:
        return generate_latest(self._registry).decode()


class _Totals(Collector):
    def __init__(self) -> None:
        self._known: list[tuple[str, str, str, Callable[[], Mapping[str, int]]]] = []

    def add(self, name: str, documentation: str, label: str, read: Callable[[], Mapping[str, int]]) -> None:
        self._known.append((name, documentation, label, read))

    def collect(self) -> Iterable[Metric]:
        for name, documentation, label, read in self._known:
            family = CounterMetricFamily(name, documentation, labels=[label] if label else [])
            for value, count in read().items():
                family.add_metric([value] if label else [], count)
            yield family


def merge(expositions: Iterable[tuple[str, str]]) -> str:
    """Return one exposition from those of (replica, text) pairs, each sample labelled with its replica."""
    return "".join(merged(expositions))


def merged(expositions: Iterable[tuple[str, str]]) -> Iterator[str]:
    """The same in parts, many of them empty: there is about as much work in each."""
    families: dict[str, Metric] = {}
    for replica, exposition in expositions:
        for family in text_string_to_metric_families(exposition):
            if family.name not in families:
                families[family.name] = Metric(family.name, family.documentation, family.type)
            for sample in family.samples:
                labels = {**sample.labels, "replica": replica}
                families[family.name].samples.append(sample._replace(labels=labels))
            yield ""
    for family in families.values():
        yield text([family])


async def joined(parts: Iterable[str]) -> str:
    """Put parts together; between two of them everybody else has a turn."""
    done: list[str] = []
    for part in parts:
        done.append(part)
        await asyncio.sleep(0)
    return "".join(done)


def text(families: list[Metric]) -> str:
    """Return families in Prometheus' text format."""
    return generate_latest(_Families(families)).decode()  # pyright: ignore[reportArgumentType]


class _Families:
    """As much of a registry as the text format asks for."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        return self._families
