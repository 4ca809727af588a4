"""One exposition from those of many replicas."""

from prometheus_client.parser import text_string_to_metric_families

from serving.metrics import ReplicaMetrics, merge


def _samples(text: str) -> dict[tuple[str, str], float]:
    """Return values by (sample name, replica)."""
    return {
        (sample.name, sample.labels["replica"]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if "le" not in sample.labels
    }


def _replica(predictions: int) -> str:
    metrics = ReplicaMetrics()
    metrics.predictions.labels("m").inc(predictions)
    metrics.latency.labels("m").observe(0.01)
    metrics.resident.set(predictions)
    return metrics.exposition()


def test_every_sample_is_kept_under_its_replica() -> None:
    samples = _samples(merge([("one", _replica(3)), ("two", _replica(5))]))
    assert samples["tidemill_predictions_total", "one"] == 3
    assert samples["tidemill_predictions_total", "two"] == 5
    assert samples["tidemill_resident_bytes", "two"] == 5
    assert samples["tidemill_predict_seconds_count", "one"] == 1


def test_a_family_is_described_once() -> None:
    merged = merge([("one", _replica(3)), ("two", _replica(5))])
    described = [line.split()[2] for line in merged.splitlines() if line.startswith("# TYPE")]
    assert len(described) == len(set(described))


def test_a_merged_exposition_has_all_samples_of_its_parts() -> None:
    one = _replica(3)
    parts = sum(len(family.samples) for family in text_string_to_metric_families(one))
    merged = sum(len(family.samples) for family in text_string_to_metric_families(merge([("a", one), ("b", one)])))
    assert merged == 2 * parts


def test_no_replicas_give_an_empty_exposition() -> None:
    assert merge([]).strip() == ""
