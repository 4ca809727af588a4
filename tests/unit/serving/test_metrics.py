"""One exposition from those of many replicas, with names as they should be."""

import asyncio
import re

import pytest
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as strictly
from prometheus_client.parser import text_string_to_metric_families

from serving.metrics import ReplicaMetrics, joined, merge, merged


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


@pytest.mark.anyio
async def test_who_asks_for_all_of_it_leaves_everybody_else_their_turns() -> None:
    metrics = ReplicaMetrics()
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    beside = asyncio.create_task(others())
    text = await joined(merged([("one", await joined(metrics.parts()))]))
    beside.cancel()
    assert text == merge([("one", metrics.exposition())])
    assert turns > 30, "two for each family"


def test_no_replicas_give_an_empty_exposition() -> None:
    assert merge([]).strip() == ""


_TYPE_WORDS = {"counter", "gauge", "histogram", "summary"}
_OTHER_UNITS = {"ms", "milliseconds", "minutes", "hours", "kilobytes", "kb", "mb", "megabytes", "percent"}


def _problems(text: str) -> list[str]:
    """What `promtool check metrics` would say of names, help and labels."""
    found: list[str] = []
    for family in text_string_to_metric_families(text):
        exposed = f"{family.name}_total" if family.type == "counter" else family.name
        words = set(exposed.split("_"))
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        checks = {
            "no help": not family.documentation,
            "not in lower-case words": not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", family.name),
            "a type in its name": bool(words & _TYPE_WORDS),
            "no base unit": bool(words & _OTHER_UNITS),
            "_total, _count or _sum of what is none": family.type != "counter"
            and family.name.endswith(("_total", "_count", "_sum")),
            "no counter says what it is": family.type == "unknown",
            "a label in no lower case": not all(re.fullmatch(r"[a-z][a-z0-9_]*", label) for label in labels),
        }
        found += [f"{exposed}: {problem}" for problem, is_there in checks.items() if is_there]
    return found


def _all_kinds() -> ReplicaMetrics:
    metrics = ReplicaMetrics()
    metrics.requests.labels("/feedback", 202).inc()
    metrics.errors.labels("/feedback", "Invalid").inc()
    metrics.sizes.labels("m").observe(3)
    metrics.latency.labels("m").observe(0.01)
    metrics.queues.labels("log").set_function(lambda: 3)
    metrics.total("tidemill_shadows", "Shadow scores by what became of them", "verdict", lambda: {"scored": 2, "dropped": 1})
    metrics.total("tidemill_log_lost", "Log entries lost while Redis was away", "", lambda: {"": 4})
    return metrics


def test_names_are_as_prometheus_wants_them() -> None:
    text = _all_kinds().exposition()
    assert _problems(text) == []
    assert _problems(merge([("one", text)])) == []
    assert _problems("# HELP tidemill_badCounter x\n# TYPE tidemill_badCounter gauge\ntidemill_badCounter 1\n")


def test_the_strict_parser_of_openmetrics_takes_it() -> None:
    metrics = _all_kinds()
    families = {family.name: family for family in strictly(openmetrics(metrics.registry).decode())}
    assert families["tidemill_queue_length"].samples[0].value == 3
    assert {sample.labels["verdict"]: sample.value for sample in families["tidemill_shadows"].samples} == {
        "scored": 2,
        "dropped": 1,
    }
    assert families["tidemill_log_lost"].samples[0].value == 4
